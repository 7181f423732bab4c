"""What an optimization has finished, on disk, so that a killed one does not do it again.

made/NAME/model.onnx       a candidate's file
made/NAME/answers          what it says about the test rows, if it is one that answers rows
made/NAME/candidate.json   there when the candidate is complete
measured/NAME/compared.json, run-0.json, …
                           what is known of it so far
judged/NAME.json           how it was measured and judged
left/NAME.json             why a candidate could not be made
staging/                   what was not finished; never looked at
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

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROBE_BYTES = 1 << 20
PARTS = ("made", "measured", "judged", "left")


class Ledger:
    def __init__(self, root: Path, fingerprint: str) -> None:
        """Starts over if `root` is of another fingerprint. Raises OutOfSpace."""
        self._root = root
        self._staging = root / "staging"
        with space(root):
            known = root / "fingerprint"
            if not known.is_file() or known.read_text() != fingerprint:
                for part in (*PARTS, "staging"):
                    shutil.rmtree(root / part, ignore_errors=True)
            for part in PARTS:
                (root / part).mkdir(parents=True, exist_ok=True)
            _write(known, fingerprint.encode())

    def candidate(self, name: str) -> Candidate | None:
        folder = self._root / "made" / name
        raw = _read(folder / "candidate.json")
        if raw is None:
            return None
        files = {file: folder / file for file in raw.pop("files")}
        return Candidate(files=files, **raw)

    def skipped(self, name: str) -> str | None:
        """Why it could not be made; None if it was not tried or was made."""
        raw = _read(self._root / "left" / f"{name}.json")
        return None if raw is None else str(raw["reason"])

    def result(self, name: str) -> CandidateResult | None:
        raw = _read(self._root / "judged" / f"{name}.json")
        return None if raw is None else from_json(raw, CandidateResult)

    def comparison(self, name: str) -> Comparison | None:
        raw = _read(self._root / "measured" / name / "compared.json")
        return None if raw is None else from_json(raw, Comparison)

    def run(self, name: str, number: int) -> PairedRun | None:
        raw = _read(self._root / "measured" / name / f"run-{number}.json")
        return None if raw is None else from_json(raw, PairedRun)

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """An empty folder, gone afterwards unless `finish` took it. Raises OutOfSpace, also for
        what a library reports otherwise when the disk is full."""
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            with space(self._root):
                self._staging.mkdir(parents=True)
                yield self._staging
        except OutOfSpace:
            raise
        except MaasError as wrong:
            self.refuse_full(wrong)
            raise
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def finish(self, candidate: Candidate) -> Candidate:
        """The staged candidate, with all that lies beside it, where it stays. After this it is
        never made again."""
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
        target = self._root / "made" / candidate.name
        self._staging.rename(target)
        found = self.candidate(candidate.name)
        if found is None:
            raise MaasError(f"candidate {candidate.name} is not where it was put: {target}")
        return found

    def skip(self, name: str, why: str) -> None:
        with space(self._root):
            _write(self._root / "left" / f"{name}.json", msgspec.json.encode({"reason": why}))

    def compared(self, comparison: Comparison) -> None:
        self._measured(comparison.candidate, "compared.json", comparison)

    def save_run(self, name: str, number: int, run: PairedRun) -> None:
        self._measured(name, f"run-{number}.json", run)

    def _measured(self, name: str, file: str, found: Comparison | PairedRun) -> None:
        with space(self._root):
            folder = self._root / "measured" / name
            folder.mkdir(exist_ok=True)
            _write(folder / file, msgspec.json.encode(to_json(found)))

    def judged(self, tried: CandidateResult) -> None:
        with space(self._root):
            path = self._root / "judged" / f"{tried.name}.json"
            _write(path, msgspec.json.encode(to_json(tried)))

    def refuse_full(self, wrong: Exception) -> None:
        """Raises OutOfSpace if nothing can be written any more: not every library says so."""
        with space(self._root):
            probe = self._root / "probe"
            try:
                with probe.open("wb") as file:
                    file.write(bytes(PROBE_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as full:
                raise full from wrong
            finally:
                probe.unlink(missing_ok=True)


@contextmanager
def space(root: Path) -> Iterator[None]:
    """A full disk, a quota and a file size limit as OutOfSpace."""
    try:
        yield
    except OSError as wrong:
        if wrong.errno not in FULL:
            raise
        raise OutOfSpace(
            f"no space is left to write in {root}: {wrong.strerror}. What is finished stays; make "
            "room and start the job again with --resume"
        ) from wrong


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return found


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and durable."""
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
