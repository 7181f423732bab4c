"""A server on one core: its start, the resources of its process tree, and its end."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MARK = "OPENMAAS_BENCH_ID"


class ServerFailed(Exception):
    """The server did not start, exited, or returned a wrong answer."""


def free_port() -> int:
    """A TCP port of the loopback interface that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Memory:
    """Memory of a process or a tree, in bytes."""

    rss: int
    """Sum of resident set sizes, in which shared pages count once per process."""
    pss: int
    """Sum of proportional set sizes, in which shared pages count once."""


class Server:
    """A server with all its child processes, pinned to one core."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        core: int | None,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        self.mark = secrets.token_hex(8)
        log.parent.mkdir(parents=True, exist_ok=True)
        pin = [] if core is None else ["taskset", "-c", str(core)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*pin, *argv],
                env={**clean_environment(), **(environment or {}), MARK: self.mark},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self) -> list[int]:
        """Process ids of all running processes of this server, including orphaned ones."""
        parents: dict[int, int] = {}
        marked = {self.process.pid}
        needle = f"{MARK}={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state == "Z":
                    continue
                parents[int(entry.name)] = int(parent)
                if needle in (entry / "environ").read_bytes():
                    marked.add(int(entry.name))
            except OSError:
                continue  # it has exited, or belongs to another user
        growing = True
        while growing:
            children = {pid for pid, parent in parents.items() if parent in marked}
            growing = not children <= marked
            marked |= children
        return sorted(marked & parents.keys())

    def cpu_seconds(self) -> float:
        """User and system time of the tree, including exited children that were reaped."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(int(value) for value in fields[11:15])
        return total / TICKS

    def memory(self) -> Memory:
        parts = [memory_of(pid) for pid in self.pids()]
        return Memory(sum(p.rss for p in parts), sum(p.pss for p in parts))

    def wait_ready(self, port: int, path: str, timeout_s: float = 60.0) -> None:
        """Returns when the status of `GET path` is 200. Raises ServerFailed with the log's end."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerFailed(
                    f"the server exited with {self.process.returncode}:\n{self.tail()}"
                )
            if status_of(port, path) == 200:
                return
            time.sleep(0.02)
        raise ServerFailed(f"no 200 from {path} within {timeout_s:g} s:\n{self.tail()}")

    def tail(self, lines: int = 12) -> str:
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in text[-lines:])

    def stop(self, timeout_s: float = 10.0) -> None:
        """Sends SIGTERM to the first process, then SIGKILL to all remaining ones."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_s)
        deadline = time.monotonic() + 2
        while (remaining := self.pids()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def memory_of(pid: int) -> Memory:
    """Memory of one process; 0 if it has exited."""
    try:
        rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        pss = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return Memory(0, 0)
    return Memory(rss, pss)


def status_of(port: int, path: str) -> int:
    """Status of `GET path` on the loopback interface; 0 without a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def clean_environment() -> dict[str, str]:
    """Environment of this process for a server on one core.

    Without variables of Python and OpenMaaS, and with one thread for every numeric library.
    """
    prefixes = ("PYTHON", "MAAS_", "VIRTUAL_ENV", "MAKE", "MFLAGS")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return variables | dict.fromkeys(pools, "1") | {"PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"}
