"""A model `iris` and its deployment, as the API describes them."""

from __future__ import annotations

from typing import Any

from tests.support.fakes.scripted_server import FakeServer

SHA = "0" * 64
SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "labels": ["length", "width"]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": []}],
    "example": {"x": [1, 2]},
}


def version(number: int = 1) -> dict[str, Any]:
    file = {"name": "model.onnx", "sha256": SHA, "size": 10}
    variant = {"name": "onnx", "runtime": "onnx", "files": [file], "options": {}}
    manifest = {
        "model": "iris",
        "task": "regression",
        "signature": SIGNATURE,
        "variants": [variant],
    }
    evidence = {
        "kind": "metrics",
        "values": {"metrics": {"mae": 0.25}, "intervals": {"mae": [0.2, 0.3]}},
        "how": {"rows": 10},
    }
    return {
        "model": "iris",
        "number": number,
        "digest": "d" * 64,
        "manifest": manifest,
        "evidence": [evidence],
    }


def deployment(**changes: Any) -> dict[str, Any]:
    target = {"version": 1, "variant": "onnx", "weight": 100}
    return {
        "name": "iris",
        "model": "iris",
        "targets": [target],
        "scaling": {"replicas": 2, "max_batch": 8, "queue_limit": 16, "threads": 1},
        "revision": 1,
        "ready": 2,
        "desired": 2,
        "state": "ready",
    } | changes


def serve_iris(fake: FakeServer, **changes: Any) -> None:
    for method in ("GET", "PUT"):
        fake.answers(method, "/api/v1/deployments/iris", deployment(**changes))
    for number in (1, 2):
        fake.answers("GET", f"/api/v1/models/iris/versions/{number}", version(number))
    fake.answers("GET", "/api/v1/models/iris/versions/latest", version(2))
    fake.answers("GET", "/api/v1/models/iris", {"name": "iris", "versions": [line(1), line(2)]})
    fake.answers("GET", "/api/v1/deployments", {"deployments": [deployment(**changes)]})


def line(number: int) -> dict[str, Any]:
    """A version in the list of a model's versions."""
    variants = ["onnx", "onnx-int8"] if number == 1 else ["onnx"]
    return {"number": number, "created_at": 0, "created_by": "ada", "variants": variants}
