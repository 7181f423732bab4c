"""A publish that is killed anywhere leaves a whole version or none, and can be sent again."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from maas import settings
from maas.domain.models import Evidence, File, Manifest, Task, Variant
from tests.support.clients import raw_http
from tests.support.models.onnx import echo_model, echo_signature, save
from tests.support.servers.maas import Stack, running, wait_until

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
class Bundle:
    """What one publish sends."""

    manifest: Manifest
    evidence: Evidence
    contents: dict[str, bytes]
    """By SHA-256."""


@dataclass
class Progress:
    """What the server had said yes to when it was killed."""

    files: list[str] = field(default_factory=list)
    version: bool = False
    evidence: bool = False


def bundle(model: str, folder: Path) -> Bundle:
    """An ONNX file of 3 MiB, a page of 2 MiB and a manifest, all of them new."""
    weights = np.random.default_rng().random((2, 3 * MEBIBYTE // 8), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["wide"]),
            helper.make_node("ReduceSum", ["wide", "axes"], ["s"], keepdims=1),
            helper.make_node("Mul", ["s", "zero"], ["z"]),
            helper.make_node("Add", ["x", "z"], ["y"]),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    data = save(graph, folder / "model.onnx").read_bytes()
    page = b"<!doctype html>" + secrets.token_hex(MEBIBYTE).encode()
    files = [
        File(name, hashlib.sha256(content).hexdigest(), len(content))
        for name, content in (("model.onnx", data), ("report.html", page))
    ]
    manifest = Manifest(
        model, Task.OTHER, echo_signature(), (Variant("onnx", "onnx", (files[0],)),)
    )
    evidence = Evidence("report", {"title": model}, {"from": "tests"}, file=files[1])
    contents = dict(zip((f.sha256 for f in files), (data, page), strict=True))
    return Bundle(manifest, evidence, contents)


@dataclass
class Control:
    """A control process of its own, which can be killed and started again at once."""

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
        """Raises OSError or HTTPException where control is killed."""

        def must(method: str, path: str, body: bytes) -> None:
            status, said = self.ask(method, path, body)
            assert status in (200, 201), (path, status, said)

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
    wanted = settings.load({"home": str(home)}, {})
    (home / "settings.json").write_text(wanted.to_json())
    zygote = subprocess.Popen(
        [sys.executable, "-m", "tests.support.servers.control_zygote"],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    made = Control(home, zygote, home / "settings.json", wanted.control_socket)
    try:
        yield made
    finally:
        if made.pid:
            made.kill()
        if zygote.stdin is not None:
            zygote.stdin.close()
        zygote.wait(30)


@contextlib.contextmanager
def strace(pid: int, log: Path, *options: str) -> Iterator[None]:
    """The process is traced within; killing it ends the trace, too."""
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
    """(system call, how many-th of a thread) of a whole publish."""
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
    status, said = control.ask("GET", "/api/v1/models")
    assert (status, len(json.loads(said)["models"])) == (200, tried + 1)


def check(control: Control, what: Bundle, done: Progress) -> str:
    """`absent`, `whole` or `bare` (without its evidence yet); AssertionError for all else."""
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
    status, said = control.ask("GET", f"/api/v1/models/{model}/versions/latest")
    listed = json.loads(control.ask("GET", "/api/v1/models")[1])["models"]
    assert (model in [m["name"] for m in listed]) == (status == 200)
    if status == 404:
        assert not done.version, "said yes, lost the version"
        return "absent"
    assert status == 200
    version = json.loads(said)
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


# -- the whole stack ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`echo` is served in its first version; the second one doubles."""
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        for scale in (1.0, 2.0):
            path = echo_model(home / f"echo{scale:.0f}.onnx", scale=scale)
            client.publish(path, name="echo", example=[1.0, 2.0])
        client.deploy("echo", version=1)
        yield stack


PUBLISHER = """
import sys, maas
client = maas.Client(base_url=sys.argv[1], api_key=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
client.publish(sys.argv[3], name=sys.argv[4], example=[1.0, 2.0])
print("published", flush=True)
"""


def test_a_publisher_that_is_killed_can_start_over(serving: Stack, tmp_path: Path) -> None:
    what = bundle("unused", tmp_path)
    path = tmp_path / "model.onnx"
    for number, delay in enumerate((0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)):
        name = f"killed-{number}"
        command = [sys.executable, "-c", PUBLISHER, serving.url, serving.token, str(path), name]
        publisher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if publisher.stdout is None or publisher.stdin is None:
            raise AssertionError("no pipes")
        assert publisher.stdout.readline() == "ready\n"
        publisher.stdin.write("go\n")
        publisher.stdin.flush()
        time.sleep(delay)
        publisher.kill()
        publisher.wait()
        models = {m["name"]: m for m in serving.client().models.list()}
        assert name not in models or models[name]["versions"] == 1
        published = serving.client().publish(path, name=name, example=[1.0, 2.0])
        assert published.number == 1
        for file in serving.client().models.version(name).version.manifest.files():
            assert serving.client().files.download(file.sha256) == what.contents[file.sha256]


def test_an_upload_that_breaks_off_leaves_nothing(serving: Stack) -> None:
    data = secrets.token_bytes(4 * MEBIBYTE)
    sha256 = hashlib.sha256(data).hexdigest()
    head = raw_http.head(
        "PUT",
        f"/api/v1/files/{sha256}",
        {
            "Host": "localhost",
            "Authorization": f"Bearer {serving.token}",
            "Content-Length": str(len(data)),
        },
    )
    with socket.create_connection(("127.0.0.1", serving.port)) as connection:
        connection.sendall(head + data[: 3 * MEBIBYTE])
    staging = serving.home / "artifacts" / "staging"
    wait_until(lambda: list(staging.glob("*")) == [], 60, "staging is empty")
    assert serving.request("GET", f"/api/v1/files/{sha256}")[0] == 404
    status, _, _ = serving.request("PUT", f"/api/v1/files/{sha256}", data[::-1])
    assert status == 422
    assert list(staging.glob("*")) == []
    assert serving.request("PUT", f"/api/v1/files/{sha256}", data)[0] == 201
    assert serving.request("GET", f"/api/v1/files/{sha256}")[2] == data


# -- bytes that change afterwards -----------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    """One bit of one byte of a stored file, counted from its start or, negative, its end."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(bytes(data))


def answer(stack: Stack, name: str) -> list[float]:
    status, _, body = stack.request("POST", f"/predict/{name}", {"x": [3, 4]})
    assert status == 200, body
    values: list[float] = json.loads(body)["y"]
    return values


def artifact(stack: Stack, ref: str) -> tuple[Path, Path]:
    """Where the model's file is stored, and where its cached copy is."""
    (file,) = stack.client().models.version(ref).version.manifest.files()
    stored = stack.home / "artifacts" / "sha256" / file.sha256[:2] / file.sha256
    return stored, stack.home / "cache" / file.sha256


@pytest.mark.parametrize("place", ["both", "stored"])
@pytest.mark.parametrize("at", [0, 60, -1])
def test_a_flipped_bit_is_found_at_load_and_the_old_version_serves_on(
    serving: Stack, at: int, place: str
) -> None:
    stored, cached = artifact(serving, "echo:2")
    original = stored.read_bytes()
    flip(stored, at)
    if place == "both":
        cached.write_bytes(stored.read_bytes())
    else:
        cached.unlink(missing_ok=True)
    try:
        status, _, body = serving.request(
            "PUT", "/api/v1/deployments/echo", {"model": "echo", "version": 2}
        )
        assert status == 200, body
        reason = wait_until(lambda: failed(serving, "echo"), 60, "the deployment says failed")
        assert "artifact_corrupt" in reason or "is not the file that was published" in reason
        assert answer(serving, "echo") == [3.0, 4.0]
    finally:
        stored.write_bytes(original)
        serving.client().deploy("echo", version=1)
    assert answer(serving, "echo") == [3.0, 4.0]


def failed(stack: Stack, name: str) -> str:
    found = json.loads(stack.request("GET", f"/api/v1/deployments/{name}")[2])
    return str(found["reason"] or "") if found["state"] == "failed" else ""


def test_a_flipped_bit_in_the_cache_is_repaired_from_the_store(serving: Stack) -> None:
    stored, cached = artifact(serving, "echo:2")
    serving.client().deploy("again", model="echo", version=2)
    assert answer(serving, "again") == [6.0, 8.0]
    flip(cached, 60)
    (victim,) = serving.replica_pids("again")
    serving.kill(victim)
    wait_until(lambda: serving.replica_pids("again") not in ([], [victim]), 60)
    assert answer(serving, "again") == [6.0, 8.0]
    assert cached.read_bytes() == stored.read_bytes()
    serving.client().deployments.delete("again")


def test_a_download_of_damaged_bytes_does_not_end_well(serving: Stack) -> None:
    stored, _ = artifact(serving, "echo:2")
    original = stored.read_bytes()
    flip(stored, -1)
    try:
        with pytest.raises(http.client.IncompleteRead):
            serving.request("GET", f"/api/v1/files/{stored.name}")
        assert original != stored.read_bytes()
    finally:
        stored.write_bytes(original)
    assert (
        onnx.load_from_string(serving.request("GET", f"/api/v1/files/{stored.name}")[2]).graph.name
        == "echo"
    )
