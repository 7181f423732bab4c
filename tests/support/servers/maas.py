"""A real OpenMaaS on this machine: `maas up` in a home and on a port of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import maas

READY_SECONDS = 30.0
SLOT_FREED_S = 1.0
"""Acceptance criterion: time from a client's disconnect to its free slot in the engine."""
STREAM_ENDED_S = 1.0
"""Acceptance criterion: time from the loss of a replica or engine to the error of its streams."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float = 15.0, what: str = "") -> Any:
    """The first true value of `condition`; AssertionError if it stays false."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.01)


@dataclass
class Stack:
    """The processes of a home, and a client for them."""

    home: Path
    port: int
    supervisor: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    def client(self, token: str | None = None) -> maas.Client:
        return maas.Client(base_url=self.url, api_key=token or self.token)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        token: str | None = "",
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with lower-case names, and body of the response.

        `token`: "" for the admin key, None for no key.
        """
        base = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        if token is not None:
            base["Authorization"] = f"Bearer {token or self.token}"
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, data, base | (headers or {}))
            response = connection.getresponse()
            response_headers = {k.lower(): v for k, v in response.getheaders()}
            return response.status, response_headers, response.read()
        finally:
            connection.close()

    # -- processes --------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """All processes of this home, including orphans."""
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(self.home) in part for part in process.cmdline()):
                    processes.append(process)
        return processes

    def pids(self, module: str) -> list[int]:
        """Ids of the processes that run `maas.processes.<module>` for this home."""
        return [
            p.pid
            for p in self.processes()
            if any(part == f"maas.processes.{module}" for part in p.cmdline())
        ]

    def replica_pids(self, deployment: str) -> list[int]:
        status = self.client().status()
        view = next(d for d in status["deployments"] if d["name"] == deployment)
        return [r["pid"] for r in view["replicas"] if r["state"] == "ready"]

    def wait_ready(self, deployment: str, seconds: float = 60.0) -> None:
        """Waits until clients reach every target of `deployment`.

        A gateway learns of a ready replica a moment after control; the state of the deployment
        takes that into account.
        """
        api = self.client().deployments
        wait_until(lambda: api.get(deployment).state == "ready", seconds, f"{deployment} is ready")

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(pid, number)

    def stop(self, seconds: float = 60.0) -> int:
        """Sends SIGTERM and waits; returns the exit status."""
        if self.supervisor.poll() is None:
            self.supervisor.terminate()
        return self.supervisor.wait(seconds)


def start(home: Path, *, environment: dict[str, str] | None = None, port: int = 0) -> Stack:
    """Starts OpenMaaS; returns when `/readyz` has status 200."""
    port = port or free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    env |= {"MAAS_HOME": str(home), "MAAS_SERVER__PORT": str(port)} | (environment or {})
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "maas.cli.main", "up"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    stack = Stack(home, port, process)

    def ready() -> bool:
        if process.poll() is not None:
            raise AssertionError((home / "up.log").read_text())
        return readyz(port) == 200

    wait_until(ready, READY_SECONDS, f"ready; see {home}")
    return stack


def readyz(port: int) -> int:
    """The status of `/readyz`; 0 without a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@contextlib.contextmanager
def running(home: Path, environment: dict[str, str] | None = None) -> Iterator[Stack]:
    """A stack whose processes are all stopped at the end."""
    stack = start(home, environment=environment)
    try:
        yield stack
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            stack.stop(30)
        for process in stack.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        stack.supervisor.wait()
