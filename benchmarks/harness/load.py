"""Load of one request over a number of connections (wrk, closed loop), and checks of answers."""

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

from benchmarks.harness.models import Workload
from benchmarks.harness.processes import ServerFailed
from benchmarks.harness.request_formats import RequestFormat

SCRIPT = Path(__file__).parent / "post.lua"
CHECKERS = 16


class LoadFailed(Exception):
    """The load generator itself failed."""


@dataclass(frozen=True)
class Request:
    """A request that is sent repeatedly."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Load:
    """Result of wrk."""

    requests: int
    seconds: float
    errors: int
    """Refused, reset or timed out connections, and responses other than 2xx or 3xx."""
    p50_ms: float
    p99_ms: float
    generator_cpu: float
    """Share of its core that the generator used; near 1, it and not the server was the limit."""


def require_wrk() -> None:
    """Raises LoadFailed, with the package to install, if a tool is missing."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise LoadFailed(
                f"{tool} is not on the PATH. On Debian and Ubuntu: sudo apt-get install {package}"
            )


def run_wrk(port: int, request: Request, *, connections: int, seconds: int, folder: Path) -> Load:
    """Sends `request` over `connections` persistent connections for `seconds`.

    wrk runs on the cores of the calling process, which must be pinned.
    """
    body = folder / "body.bin"
    body.write_bytes(request.body)
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"]
    for name, value in request.headers.items():
        argv += ["-H", f"{name}: {value}"]
    argv += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}{request.path}"]
    variables = {"BENCH_METHOD": request.method, "BENCH_BODY": str(body)}
    before = os.times()
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )
    after = os.times()
    try:
        result = json.loads(done.stdout.rpartition("BENCH ")[2])
    except ValueError:
        raise LoadFailed(f"wrk failed:\n{done.stdout}{done.stderr}") from None
    cpu_s = (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )
    seconds_run = result["us"] / 1e6
    return Load(
        requests=result["requests"],
        seconds=seconds_run,
        errors=result["errors"],
        p50_ms=result["p50_us"] / 1000,
        p99_ms=result["p99_us"] / 1000,
        generator_cpu=cpu_s / seconds_run,
    )


def check_answers(
    port: int, path: str, request_format: RequestFormat, work: Workload, extra: Mapping[str, str]
) -> None:
    """Requests every row over many concurrent connections and compares with the reference.

    Raises ServerFailed for any status other than 200, and for a wrong answer.
    """
    failures: list[str] = []

    def check_rows(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            for index in range(first, len(work.rows), CHECKERS):
                headers, body = request_format.encode(work, work.rows[index])
                connection.request("POST", path, body, {**headers, **extra})
                response = connection.getresponse()
                content = response.read()
                if response.status != 200:
                    raise ValueError(f"status {response.status}: {content[:300]!r}")
                names = {k.lower(): v for k, v in response.getheaders()}
                outputs = request_format.decode(work, names, content)
                expected = work.answers[index]
                if outputs.shape != expected.shape or not np.allclose(
                    outputs, expected, atol=work.tolerance
                ):
                    raise ValueError(f"row {index}: expected {expected}, got {outputs}")
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            failures.append(f"{path} ({request_format.name}): {error!r}")
        finally:
            connection.close()

    threads = [threading.Thread(target=check_rows, args=(i,)) for i in range(CHECKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise ServerFailed(failures[0])
