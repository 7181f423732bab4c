"""A publication of random content: manifest, evidence and files."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from maas.domain.models import Evidence, File, Manifest, Task, Variant
from tests.support.models.onnx import echo_signature, save

MEBIBYTE = 1 << 20


@dataclass
class Bundle:
    """What one publish sends."""

    manifest: Manifest
    evidence: Evidence
    contents: dict[str, bytes]
    """By SHA-256."""


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
