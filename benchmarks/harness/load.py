"""Load: a fixed request over a fixed number of connections (wrk, closed loop), and the check that
answers are right, also when many come at once."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.request_formats import Dialect
from harness.models import Workload
from harness.processes import ServerFailed

SCRIPT = Path(__file__).parent / "post.lua"
CHECKERS = 16


class LoadFailed(Exception):
    """The load generator itself did not work."""


@dataclass(frozen=True)
class Request:
    """What is sent over and over."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    errors: int
    """Refused, reset or timed out connections, and answers that are not 2xx or 3xx."""
    p50_ms: float
    p99_ms: float
    generator_cpu: float
    """Share of its core that the generator used; near 1 it, not the server, was the limit."""


def require_wrk() -> None:
    """Raises LoadFailed with what to do when a tool that cannot come from PyPI is absent."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise LoadFailed(
                f"{tool} is not on the PATH. On Debian and Ubuntu: sudo apt-get install {package}"
            )


def run_wrk(port: int, request: Request, *, connections: int, seconds: int, folder: Path) -> Load:
    """Sends `request` over `connections` kept-alive connections for whole `seconds`.

    wrk runs on the cores of the calling process: pin that one.
    """
    body = folder / "body.bin"
    body.write_bytes(request.body)
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    for name, value in request.headers.items():
        argv += ["-H", f"{name}: {value}"]
    argv += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}{request.path}"]
    told = {"BENCH_METHOD": request.method, "BENCH_BODY": str(body)}
    before = os.times()
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={**os.environ, **told}
    )
    after = os.times()
    try:
        seen = json.loads(done.stdout.rpartition("BENCH ")[2])
    except ValueError:
        raise LoadFailed(f"wrk failed:\n{done.stdout}{done.stderr}") from None
    spent = (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )
    lasted = seen["us"] / 1e6
    return Load(
        requests=seen["requests"],
        seconds=lasted,
        errors=seen["errors"],
        p50_ms=seen["p50_us"] / 1000,
        p99_ms=seen["p99_us"] / 1000,
        generator_cpu=spent / lasted,
    )


def check_answers(
    port: int, path: str, dialect: Dialect, work: Workload, extra: Mapping[str, str]
) -> None:
    """Asks for every row from many connections at once and compares with the reference.

    Raises ServerFailed for any status but 200, and for an answer that is not this row's.
    """
    failures: list[str] = []

    def ask(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            for index in range(first, len(work.rows), CHECKERS):
                headers, body = dialect.encode(work, work.rows[index])
                connection.request("POST", path, body, {**headers, **extra})
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    raise ValueError(f"status {answer.status}: {content[:300]!r}")
                names = {k.lower(): v for k, v in answer.getheaders()}
                got = dialect.decode(work, names, content)
                want = work.answers[index]
                if got.shape != want.shape or not np.allclose(got, want, atol=work.tolerance):
                    raise ValueError(f"row {index}: expected {want}, got {got}")
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as wrong:
            failures.append(f"{path} ({dialect.name}): {wrong!r}")
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(CHECKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise ServerFailed(failures[0])
