"""A real control process with real replicas in a fresh home, and a client on its socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import msgspec
import onnx
import psutil
from onnx import TensorProto, helper

from maas.domain.snapshot import Snapshot
from maas.processes.output import log_folder
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.json_codec import JsonCodec
from maas.serving.wire.json_tensors import json_to_tensors
from maas.serving.wire.messages import Column
from maas.settings import (
    ServerSettings,
    ServingSettings,
    Settings,
    StorageSettings,
    child_environment,
)

T = TypeVar("T")
ALL = {"x-maas-key-id": "test", "x-maas-key-name": "tester", "x-maas-scopes": "admin"}


def eventually(probe: Callable[[], T | None], what: str, within_s: float = 20.0) -> T:
    """The first true value that `probe` returns."""
    until = time.monotonic() + within_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"did not happen within {within_s:g} s: {what}")
        time.sleep(0.02)


def tiny_onnx(factor: float) -> bytes:
    """y = factor · x for rows of three numbers."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "factor"], ["y"])], "g", [x], [y],
                              [constant])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return data


def manifest(model: str, file: bytes, *, runtime: str = "onnx") -> dict[str, Any]:
    tensor = {"datatype": "FP32", "shape": [3]}
    return {
        "model": model,
        "task": "other",
        "signature": {
            "inputs": [{"name": "x", **tensor}],
            "outputs": [{"name": "y", **tensor}],
            "example": {"x": [1, 2, 3]},
        },
        "variants": [
            {
                "name": "onnx",
                "runtime": runtime,
                "files": [{"name": "model.onnx", "sha256": sha256(file), "size": len(file)}],
            }
        ],
    }


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a response with this status and code."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = dict(response.json())
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:maas:error:{code}" and document["title"] and document["detail"]
    return document


class Home:
    """A home and its control process."""

    def __init__(self, path: Path, storage: StorageSettings | None = None) -> None:
        self.path = path
        self.settings = Settings(
            home=str(path),
            server=ServerSettings(drain_s=3.0),
            storage=storage or StorageSettings(),
            serving=ServingSettings(hang_timeout_s=2.0, ready_timeout_s=20.0),
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.lifeline, self.lifeline_end = os.pipe()
        self.settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.settings.log_dir.mkdir(mode=0o700, exist_ok=True)
        self.settings_file = path / "settings.json"
        self.settings_file.write_text(self.settings.to_json())
        transport = httpx2.HTTPTransport(uds=str(self.settings.control_socket))
        self.http = httpx2.Client(
            transport=transport, base_url="http://control", headers=ALL, timeout=30.0
        )

    # -- the process ------------------------------------------------------------------------

    def start(self) -> None:
        log_file = log_folder(self.settings).file("control")
        with os.fdopen(log_file.open(), "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "maas.processes.control",
                 "--settings-json", str(self.settings_file), "--lifeline", str(self.lifeline),
                 *log_file.arguments()],
                pass_fds=(self.lifeline,), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=child_environment(), start_new_session=True,
            )  # fmt: skip
        eventually(self.settings.control_socket.exists, "control opens its socket")
        eventually(self._answers, "control answers")

    def _answers(self) -> bool:
        try:
            return self.http.get("/api/v1/status").status_code == 200
        except httpx2.TransportError:
            assert self.process is not None and self.process.poll() is None, self.log()
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)

    def log(self) -> str:
        return (self.settings.log_dir / "control.log").read_text()

    def close(self) -> None:
        self.http.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for process in self.replica_processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for fd in (self.lifeline, self.lifeline_end):
            with contextlib.suppress(OSError):
                os.close(fd)

    def replica_processes(self) -> list[psutil.Process]:
        replicas = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if "maas.processes.replica" in command and str(self.path) in " ".join(command):
                    replicas.append(process)
        return replicas

    # -- the API ----------------------------------------------------------------------------

    def publish(self, model: str, data: bytes) -> int:
        response = self.http.put(f"/api/v1/files/{sha256(data)}", content=data)
        assert response.status_code in (200, 201), response.text
        response = self.http.post(f"/api/v1/models/{model}/versions", json=manifest(model, data))
        assert response.status_code in (200, 201), response.text
        return int(response.json()["number"])

    def deploy(self, name: str, **body: Any) -> dict[str, Any]:
        response = self.http.put(f"/api/v1/deployments/{name}", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def view(self, name: str) -> dict[str, Any]:
        status = self.http.get("/api/v1/status").json()
        return next(dict(d) for d in status["deployments"] if d["name"] == name)

    def wait_for(self, name: str, state: str) -> dict[str, Any]:
        def view_in_state() -> dict[str, Any] | None:
            view = self.view(name)
            return view if view["state"] == state else None

        try:
            return eventually(view_in_state, f"{name} is {state}")
        except AssertionError as wrong:
            raise AssertionError(f"{wrong}; {self.view(name)}\n{self.log()[-3000:]}") from None

    # -- as gateways see it ------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        return msgspec.json.decode(self.settings.snapshot_file.read_bytes(), type=Snapshot)

    def sockets(self, name: str) -> list[str]:
        deployments = [d for d in self.snapshot().deployments if d.name == name]
        return [s for d in deployments for target in d.targets for s in target.sockets]

    def predict(self, name: str, x: list[float]) -> Any:
        """A prediction as a gateway makes it, with the snapshot."""

        async def predict() -> Any:
            (deployment,) = [d for d in self.snapshot().deployments if d.name == name]
            target = next(r for r in deployment.targets if r.sockets)
            link = await ReplicaLink.connect(target.sockets[0])
            tensors, rows, single = json_to_tensors(target.signature, {"x": x})
            deadline = time.monotonic() + 5
            outputs = await link.predict(target.signature, tensors, rows, deadline)
            link.close()
            codec = JsonCodec(target.signature)
            y = outputs["y"]
            body = codec.encode([Column(y.shape[1:], y.data)], 0, rows, single)
            return msgspec.json.decode(body)["y"]

        return asyncio.run(predict())


def pids(view: dict[str, Any]) -> set[int]:
    return {int(r["pid"]) for r in view["replicas"] if r["state"] == "ready"}


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
