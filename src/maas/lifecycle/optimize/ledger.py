"""Finished steps of an optimization on disk, so that it can be resumed after a kill.

candidates/NAME/model.onnx       file of a candidate
candidates/NAME/outputs          its outputs for the test rows, if it answers rows
candidates/NAME/candidate.json   its description; present once the candidate is complete
measurements/NAME/comparison.json, run-0.json, …
                                 comparison with the original, and each paired run
results/NAME.json                final result of a candidate
skipped/NAME.json                reason why a candidate could not be made
staging/                         unfinished work, never read
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from maas.domain.errors import MaasError, OutOfSpace
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun
from maas.lifecycle.optimize.results import (
    Candidate,
    CandidateResult,
    Comparison,
    from_json,
    to_json,
)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROBE_BYTES = 1 << 20
FOLDERS = ("candidates", "measurements", "results", "skipped")


class Ledger:
    """Finished steps of one optimization."""

    def __init__(self, root: Path, fingerprint: str) -> None:
        """Discards everything in `root` that has another fingerprint. Raises OutOfSpace."""
        self._root = root
        self._staging = root / "staging"
        with space(root):
            file = root / "fingerprint"
            if not file.is_file() or file.read_text() != fingerprint:
                for folder in (*FOLDERS, "staging"):
                    shutil.rmtree(root / folder, ignore_errors=True)
            for folder in FOLDERS:
                (root / folder).mkdir(parents=True, exist_ok=True)
            _write(file, fingerprint.encode())

    def candidate(self, name: str) -> Candidate | None:
        folder = self._root / "candidates" / name
        values = _read(folder / "candidate.json")
        if values is None:
            return None
        files = {file: folder / file for file in values.pop("files")}
        return Candidate(files=files, **values)

    def skipped(self, name: str) -> str | None:
        """Reason why a candidate could not be made; None if it was made or not tried yet."""
        values = _read(self._root / "skipped" / f"{name}.json")
        return None if values is None else str(values["reason"])

    def result(self, name: str) -> CandidateResult | None:
        values = _read(self._root / "results" / f"{name}.json")
        return None if values is None else from_json(values, CandidateResult)

    def comparison(self, name: str) -> Comparison | None:
        values = _read(self._root / "measurements" / name / "comparison.json")
        return None if values is None else from_json(values, Comparison)

    def run(self, name: str, number: int) -> PairedRun | None:
        values = _read(self._root / "measurements" / name / f"run-{number}.json")
        return None if values is None else from_json(values, PairedRun)

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """An empty folder, which is removed at the end unless `finish` moved it.

        Raises OutOfSpace, also if the disk is full and a library reports another error for that.
        """
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            with space(self._root):
                self._staging.mkdir(parents=True)
                yield self._staging
        except OutOfSpace:
            raise
        except MaasError as error:
            self._refuse_full_disk(error)
            raise
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def finish(self, candidate: Candidate) -> Candidate:
        """Moves the staged candidate with all its files to its final place, and returns it.

        A finished candidate is not made again.
        """
        record = {
            "name": candidate.name,
            "runtime": candidate.runtime,
            "files": list(candidate.files),
            "options": dict(candidate.options),
            "how": dict(candidate.how),
            "threads": candidate.threads,
            "batch": candidate.batch,
        }
        for path in self._staging.iterdir():
            _sync(path)
        _write(self._staging / "candidate.json", msgspec.json.encode(record))
        target = self._root / "candidates" / candidate.name
        self._staging.rename(target)
        finished = self.candidate(candidate.name)
        if finished is None:
            raise MaasError(f"candidate {candidate.name} cannot be read from {target}")
        return finished

    def save_skipped(self, name: str, reason: str) -> None:
        with space(self._root):
            content = msgspec.json.encode({"reason": reason})
            _write(self._root / "skipped" / f"{name}.json", content)

    def save_comparison(self, comparison: Comparison) -> None:
        self._save_measurement(comparison.candidate, "comparison.json", comparison)

    def save_run(self, name: str, number: int, run: PairedRun) -> None:
        self._save_measurement(name, f"run-{number}.json", run)

    def _save_measurement(self, name: str, file: str, record: Comparison | PairedRun) -> None:
        with space(self._root):
            folder = self._root / "measurements" / name
            folder.mkdir(exist_ok=True)
            _write(folder / file, msgspec.json.encode(to_json(record)))

    def save_result(self, result: CandidateResult) -> None:
        with space(self._root):
            path = self._root / "results" / f"{result.name}.json"
            _write(path, msgspec.json.encode(to_json(result)))

    def _refuse_full_disk(self, cause: Exception) -> None:
        """Raises OutOfSpace if nothing can be written: not every library reports that."""
        with space(self._root):
            probe = self._root / "probe"
            try:
                with probe.open("wb") as file:
                    file.write(bytes(PROBE_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise error from cause
            finally:
                probe.unlink(missing_ok=True)


@contextmanager
def space(root: Path) -> Iterator[None]:
    """Converts errors of a full disk, a quota or a file size limit to OutOfSpace."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OutOfSpace(
            f"no space is left to write in {root}: {error.strerror}. Finished steps are kept; free "
            "some space and start the job again with --resume"
        ) from error


def _read(path: Path) -> dict[str, Any] | None:
    """Values of a JSON file; None if it is missing or incomplete."""
    try:
        values: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return values


def _write(path: Path, content: bytes) -> None:
    """Writes a file atomically and durably."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(content)
        _sync(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
