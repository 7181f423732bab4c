"""Domain objects for tests of the storage."""

from __future__ import annotations

import hashlib

from maas.domain.deployments import Deployment, Scaling, Target
from maas.domain.models import File, Manifest, Task, Variant
from maas.domain.signature import Signature, TensorSpec


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest(model: str = "digits", *, description: str = "", content: bytes = b"a") -> Manifest:
    return Manifest(
        model=model,
        task=Task.MULTICLASS,
        signature=Signature(
            inputs=(TensorSpec("x", "FP32", (10,), units="m/s"),),
            outputs=(TensorSpec("y", "FP32", (1,)),),
            example={"x": [0.1] * 10},
        ),
        variants=(
            Variant("onnx", "onnx", (File("model.onnx", digest_of(content), len(content)),)),
        ),
        description=description,
        metadata={"seed": 7, "rate": 1e-3, "note": "naïve \u0000"},
    )


def deployment(name: str = "digits", version: int = 1, *, default: bool = False) -> Deployment:
    return Deployment(
        name=name,
        model="digits",
        targets=(Target(version, "onnx", 90), Target(version, "onnx-int8", 10)),
        scaling=Scaling(replicas=2),
        default=default,
    )
