"""Client side of the processes that each run one candidate."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError, error_from_problem
from maas.domain.machine import usable_core_ids
from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.outputs import concatenated
from maas.lifecycle.optimize.measurement.worker_messages import packed, receive, send, unpacked
from maas.lifecycle.optimize.results import Array, Candidate, EvaluationRows
from maas.settings import child_environment

TIMEOUT_S = 600.0
"""Timeout for one message, after which the process is killed."""
MOST_ROWS = 64
"""Two batches of the largest size. More would only add to the memory that is measured."""
MOST_ERROR_BYTES = 600
BATCH_ROWS, BATCH_BYTES = 256, 16 << 20
"""Limits of one message when all rows are answered."""


class LoadedProcess:
    """A new process with a candidate loaded. As a context manager it stops the process."""

    def __init__(
        self,
        candidate: Candidate,
        module: str,
        settings: dict[str, Any],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Starts `module` without waiting for it.

        `settings` is added to the description of the candidate in the first message. The first
        request waits until the candidate is loaded, and raises InvalidInput or InferenceFailed with
        the reason if it does not load.
        """
        self.candidate = candidate
        self.timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        threads = str(candidate.threads)
        pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(**dict.fromkeys(pools, threads)),
        )
        self._loading = True
        try:
            self._send_first(
                {
                    "runtime": candidate.runtime,
                    "files": {n: str(p.resolve()) for n, p in candidate.files.items()},
                    "options": dict(candidate.options),
                    "threads": candidate.threads,
                    "cpus": _cores(candidate.threads),
                    **settings,
                }
            )
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        """The process's answer to a message.

        Raises the candidate's error, or InferenceFailed if the process exits or times out.
        """
        if self._loading:
            self._loading = False
            self._exchange(None)
        return self._exchange(message)

    def _send_first(self, message: dict[str, Any]) -> None:
        try:
            if self._process.stdin is not None:
                send(self._process.stdin, message)
        except BrokenPipeError:
            return  # the process has exited; the first request raises the reason

    def _exchange(self, message: dict[str, Any] | None) -> dict[str, Any]:
        """Sends a message, if there is one, and waits for the next answer."""
        timed_out = threading.Event()

        def kill() -> None:
            timed_out.set()
            self._process.kill()

        timer = threading.Timer(self.timeout_s, kill)
        timer.start()
        try:
            if self._process.stdin is None or self._process.stdout is None:
                raise InferenceFailed(f"{self.candidate.name}: its process has no pipes")
            if message is not None:
                send(self._process.stdin, message)
            answer = receive(self._process.stdout)
        except BrokenPipeError:
            answer = None
        finally:
            timer.cancel()
        if answer is None:
            reason = self._exit_reason(timed_out.is_set())
            raise InferenceFailed(f"{self.candidate.name}: {reason}")
        if "problem" in answer:
            raise _error(self.candidate.name, answer["problem"])
        return answer

    def state(self) -> dict[str, Any]:
        """{resident: bytes, cpu: nanoseconds since the start of the process}"""
        return self.request({"do": "state"})

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _exit_reason(self, timed_out: bool) -> str:
        if timed_out:
            return f"its process was killed because it took over {self.timeout_s:.0f} s"
        code = self._process.wait()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - MOST_ERROR_BYTES))
        output = " ".join(self._errors.read().decode("utf-8", "replace").split())
        how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
        return f"its process {how}{': ' + output if output else ''}"


class CandidateProcess(LoadedProcess):
    """Process of a candidate that answers rows."""

    def __init__(
        self,
        candidate: Candidate,
        signature: Signature,
        rows: EvaluationRows,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        settings = {
            "signature": signature.to_dict(),
            "inputs": packed({n: a[:MOST_ROWS] for n, a in rows.inputs.items()}),
        }
        module = "maas.lifecycle.optimize.measurement.worker"
        super().__init__(candidate, module, settings, timeout_s)

    def turn(self, batch: int, seconds: float, least: int) -> dict[str, Any]:
        """{durations: nanoseconds of each call, cpu: nanoseconds of all calls}"""
        return self.request({"do": "turn", "batch": batch, "seconds": seconds, "least": least})

    def outputs(self, inputs: Mapping[str, Array], most: int = BATCH_ROWS) -> dict[str, Array]:
        """Every output as [n, …], for rows [n, …] of every input in batches of at most `most`."""
        rows = len(next(iter(inputs.values())))
        row_bytes = sum(values[:1].nbytes for values in inputs.values())
        size = min(most, max(1, BATCH_BYTES // max(1, row_bytes)))
        parts = []
        for start in range(0, rows, size):
            batch = {name: values[start : start + size] for name, values in inputs.items()}
            answer = self.request({"do": "predict", "inputs": packed(batch)})
            parts.append(unpacked(answer["outputs"]))
        return concatenated(parts)


def isolated_outputs_of(
    candidate: Candidate, signature: Signature, rows: EvaluationRows
) -> dict[str, Array]:
    """Every output as [n, …] for all rows, computed in a process of its own.

    Raises InvalidInput if the candidate does not load, InferenceFailed if it does not answer or
    crashes.
    """
    first_row = {name: values[:1] for name, values in rows.inputs.items()}
    most = min(signature.max_rows or BATCH_ROWS, BATCH_ROWS)
    first = EvaluationRows(first_row, None, rows.task)
    with CandidateProcess(candidate, signature, first) as process:
        return process.outputs(rows.inputs, most)


def _cores(threads: int) -> list[int]:
    """The same cores for equal numbers of threads; [] where processes cannot be bound to cores."""
    return usable_core_ids()[-threads:]


def _error(name: str, problem: dict[str, Any]) -> MaasError:
    if "code" not in problem:
        return InferenceFailed(f"{name}: {problem.get('detail')}")
    error = error_from_problem(problem)
    return error if isinstance(error, InvalidInput) else InferenceFailed(f"{name}: {error.message}")
