"""A publish that is killed at any point leaves a complete version or none, and can be repeated."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from maas import settings
from tests.support.models.bundle import Bundle, bundle
from tests.support.servers.maas import wait_until

POINTS = 50
TRACED = "write,pwrite64,fsync,fdatasync,rename,mkdir,unlink,ftruncate"
MEBIBYTE = 1 << 20
KEY = {"x-maas-key-id": "tests", "x-maas-key-name": "tests", "x-maas-scopes": "admin"}
STRACE = shutil.which("strace")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("control", timeout=60)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


@dataclass
class Progress:
    """What the server had confirmed before it was killed."""

    files: list[str] = field(default_factory=list)
    version: bool = False
    evidence: bool = False


@dataclass
class Control:
    """A control process that can be killed and restarted quickly."""

    home: Path
    zygote: subprocess.Popen[str]
    settings_file: Path
    socket: Path
    pid: int = 0

    def start(self) -> None:
        if self.zygote.stdin is None or self.zygote.stdout is None:
            raise AssertionError("no pipes")
        print(self.settings_file, self.home / "control.log", file=self.zygote.stdin, flush=True)
        self.pid = int(self.zygote.stdout.readline())
        wait_until(self._answers, 60, f"control; see {self.home}")

    def _answers(self) -> bool:
        if not psutil.pid_exists(self.pid):
            raise AssertionError((self.home / "control.log").read_text()[-3000:])
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("GET", "/api/v1/status")[0] == 200
        return False

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(self.pid), 60)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        kind = "application/octet-stream" if "/files/" in path else "application/json"
        connection = UnixConnection(self.socket)
        try:
            connection.request(method, path, body, KEY | {"content-type": kind})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def publish(self, what: Bundle, done: Progress) -> None:
        """Publishes and records the progress. Raises OSError or HTTPException if control is
        killed."""

        def must(method: str, path: str, body: bytes) -> None:
            status, body = self.ask(method, path, body)
            assert status in (200, 201), (path, status, body)

        for sha256, content in what.contents.items():
            must("PUT", f"/api/v1/files/{sha256}", content)
            done.files.append(sha256)
        model = what.manifest.model
        must("POST", f"/api/v1/models/{model}/versions", encoded(what.manifest.to_dict()))
        done.version = True
        must("POST", f"/api/v1/models/{model}/versions/1/evidence",
             encoded(what.evidence.to_dict()))  # fmt: skip
        done.evidence = True


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    home: Path = tmp_path_factory.mktemp("h")
    options = settings.load({"home": str(home)}, {})
    (home / "settings.json").write_text(options.to_json())
    zygote = subprocess.Popen(
        [sys.executable, "-m", "tests.support.servers.control_zygote"],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process = Control(home, zygote, home / "settings.json", options.control_socket)
    try:
        yield process
    finally:
        if process.pid:
            process.kill()
        if zygote.stdin is not None:
            zygote.stdin.close()
        zygote.wait(30)


@contextlib.contextmanager
def strace(pid: int, log: Path, *options: str) -> Iterator[None]:
    """Traces the process within the block; the trace ends if the process is killed."""
    command = [str(STRACE), "-f", "-qq", "-o", str(log), "-e", f"trace={TRACED}", *options]
    tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_traced(pid), 60, "traced")
        yield
    finally:
        tracer.kill()  # which detaches it; asked nicely, it may wait for a process that is gone
        tracer.wait(60)


def is_traced(pid: int) -> bool:
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)


def kill_points(control: Control, folder: Path) -> list[tuple[str, int]]:
    """System calls of a publish, each with its ordinal number within its thread."""
    log = folder / "whole.log"
    with strace(control.pid, log):
        control.publish(bundle("whole", folder), Progress())
    counts: Counter[tuple[str, str]] = Counter()
    in_order: list[tuple[str, int]] = []
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d+)\s+(\w+)\(", line)
        if match:
            counts[match[1], match[2]] += 1
            point = (match[2], counts[match[1], match[2]])
            if point not in in_order:
                in_order.append(point)
    assert {"rename", "fsync", "pwrite64", "write"} <= {name for name, _ in in_order}
    # Which thread does what differs between runs, so that not every point is met again. Those
    # that make something durable or visible come first; of the others, ever finer samples.
    first = [p for p in in_order if p[0] in ("fsync", "fdatasync", "rename", "mkdir")]
    others = [p for p in in_order if p not in first]
    return first + [p for start in (0, 2, 1, 3) for p in others[start::4]]


@pytest.mark.skipif(STRACE is None, reason="strace is not on this machine")
def test_killed_at_any_system_call_a_version_is_whole_or_absent(
    control: Control, tmp_path: Path
) -> None:
    control.start()
    points = kill_points(control, tmp_path)
    tried = hit = 0
    outcomes: Counter[str] = Counter()
    for number, (call, nth) in enumerate(points):
        if hit == POINTS:
            break
        tried += 1
        what, done = bundle(f"m{number}", tmp_path), Progress()
        inject = f"inject={call}:signal=SIGKILL:when={nth}"
        with strace(control.pid, tmp_path / "kill.log", "-e", inject):
            with contextlib.suppress(OSError, http.client.HTTPException):
                control.publish(what, done)
            hit += not done.evidence
        control.kill()
        control.start()
        outcomes[check(control, what, done)] += 1
        control.publish(what, Progress())
        assert check(control, what, Progress(list(what.contents), True, True)) == "whole"
    assert hit == POINTS, (tried, outcomes)
    assert set(outcomes) >= {"absent", "whole"}
    status, body = control.ask("GET", "/api/v1/models")
    assert (status, len(json.loads(body)["models"])) == (200, tried + 1)


def check(control: Control, what: Bundle, done: Progress) -> str:
    """State of the version: `absent`, `whole` or `bare` (without evidence). Asserts consistency."""
    for sha256 in done.files:
        status, data = control.ask("GET", f"/api/v1/files/{sha256}")
        assert (status, hashlib.sha256(data).hexdigest()) == (200, sha256), "said yes, lost it"
    for path in (control.home / "artifacts" / "sha256").rglob("*"):
        if path.is_file() and path.name in what.contents:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
            assert path.stat().st_mode & 0o077 == 0
    for sha256, content in what.contents.items():
        status, data = control.ask("GET", f"/api/v1/files/{sha256}")
        assert status == 404 or data == content
    model = what.manifest.model
    status, body = control.ask("GET", f"/api/v1/models/{model}/versions/latest")
    listed = json.loads(control.ask("GET", "/api/v1/models")[1])["models"]
    assert (model in [m["name"] for m in listed]) == (status == 200)
    if status == 404:
        assert not done.version, "said yes, lost the version"
        return "absent"
    assert status == 200
    version = json.loads(body)
    assert version["number"] == 1
    assert version["manifest"] == what.manifest.to_dict()
    assert version["digest"] == what.manifest.digest
    for file in what.manifest.files():
        status, data = control.ask("GET", f"/api/v1/files/{file.sha256}")
        assert (status, data) == (200, what.contents[file.sha256])
    kinds = [item["kind"] for item in version["evidence"]]
    assert kinds == ["report"] or not done.evidence, "said yes, lost the evidence"
    assert len(kinds) <= 1
    return "whole" if kinds else "bare"
