"""A candidate in a process of its own, seen from the process that measures it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError, error_from_problem
from maas.domain.machine import usable_core_ids
from maas.domain.signature import Signature
from maas.lifecycle.optimize.measurement.worker_messages import packed, receive, send, unpacked
from maas.lifecycle.optimize.results import Array, Candidate, EvaluationRows
from maas.settings import child_environment

LIMIT_S = 600.0
"""For one message; a candidate that needs longer is ended."""
MOST_ROWS = 64
"""Two batches of the largest size; more would only fill the memory that is measured."""
MOST_TOLD = 600
BATCH_ROWS, BATCH_BYTES = 256, 16 << 20
"""Most of one message when all rows are answered."""


class LoadedProcess:
    """A fresh process with a candidate loaded; a context manager that ends it."""

    def __init__(
        self, candidate: Candidate, module: str, told: dict[str, Any], limit_s: float = LIMIT_S
    ) -> None:
        """`module` is what the process runs, `told` its first message besides the candidate.

        Starts it and does not wait; the first question does, and raises InvalidInput or
        InferenceFailed with the reason if it does not load."""
        self.candidate = candidate
        self.limit_s = limit_s
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (close ends it)
        threads = str(candidate.threads)
        pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(**dict.fromkeys(pools, threads)),
        )
        self._loading = False
        try:
            self._begin(
                {
                    "runtime": candidate.runtime,
                    "files": {n: str(p.resolve()) for n, p in candidate.files.items()},
                    "options": dict(candidate.options),
                    "threads": candidate.threads,
                    "cpus": _cores(candidate.threads),
                    **told,
                }
            )
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a message. Raises the candidate's error, or InferenceFailed if its process
        ends or takes too long."""
        if self._loading:
            self._loading = False
            self._answered(None)
        return self._answered(message)

    def _begin(self, message: dict[str, Any]) -> None:
        self._loading = True
        try:
            if self._process.stdin is not None:
                send(self._process.stdin, message)
        except BrokenPipeError:
            return  # it has ended; whoever asks is told why

    def _answered(self, message: dict[str, Any] | None) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self.limit_s, end)
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
            raise InferenceFailed(f"{self.candidate.name}: {self._ended(late.is_set())}")
        if "problem" in answer:
            raise _error(self.candidate.name, answer["problem"])
        return answer

    def state(self) -> dict[str, Any]:
        """{resident: bytes, cpu: nanoseconds since it started}"""
        return self.ask({"do": "state"})

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

    def _ended(self, late: bool) -> str:
        if late:
            return f"its process was ended because it took over {self.limit_s:.0f} s"
        code = self._process.wait()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - MOST_TOLD))
        told = " ".join(self._errors.read().decode("utf-8", "replace").split())
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"its process {how}{': ' + told if told else ''}"


class CandidateProcess(LoadedProcess):
    """That of a candidate that answers rows."""

    def __init__(
        self,
        candidate: Candidate,
        signature: Signature,
        rows: EvaluationRows,
        limit_s: float = LIMIT_S,
    ) -> None:
        told = {
            "signature": signature.to_dict(),
            "inputs": packed({n: a[:MOST_ROWS] for n, a in rows.inputs.items()}),
        }
        super().__init__(candidate, "maas.lifecycle.optimize.measurement.worker", told, limit_s)

    def turn(self, batch: int, seconds: float, least: int) -> dict[str, Any]:
        """{durations: nanoseconds of each call, cpu: nanoseconds of all}"""
        return self.ask({"do": "turn", "batch": batch, "seconds": seconds, "least": least})

    def answers(self, inputs: Mapping[str, Array], most: int = BATCH_ROWS) -> dict[str, Array]:
        """What it answers for rows [n, …] of every input: every output as [n, …]."""
        rows = len(next(iter(inputs.values())))
        of_row = sum(values[:1].nbytes for values in inputs.values())
        most = min(most, max(1, BATCH_BYTES // max(1, of_row)))
        parts = []
        for at in range(0, rows, most):
            batch = packed({name: values[at : at + most] for name, values in inputs.items()})
            parts.append(unpacked(self.ask({"do": "answer", "inputs": batch})["outputs"]))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def answers_of(
    candidate: Candidate, signature: Signature, rows: EvaluationRows
) -> dict[str, Array]:
    """What it says about every row, from a process of its own: every output as [n, …].

    Raises InvalidInput if it does not load, InferenceFailed if it does not answer, or crashes.
    """
    few = EvaluationRows(
        {name: values[:1] for name, values in rows.inputs.items()}, None, rows.task
    )
    most = min(signature.max_rows or BATCH_ROWS, BATCH_ROWS)
    with CandidateProcess(candidate, signature, few) as process:
        return process.answers(rows.inputs, most)


def _cores(threads: int) -> list[int]:
    """Always the same cores for the same number of threads; [] where they cannot be chosen."""
    return usable_core_ids()[-threads:]


def _error(name: str, problem: dict[str, Any]) -> MaasError:
    if "code" not in problem:
        return InferenceFailed(f"{name}: {problem.get('detail')}")
    error = error_from_problem(problem)
    return error if isinstance(error, InvalidInput) else InferenceFailed(f"{name}: {error.message}")
