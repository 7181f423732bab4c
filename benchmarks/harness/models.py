"""The two models that every server serves, with rows and expected answers.

`article` is the network of many tutorials: 10 inputs, 10 hidden units with ReLU, 1 output. `image`
takes 3x224x224 numbers and returns the mean of each channel: a minimal model with the input of an
image model. Weights and rows come from a fixed seed, so that every run and every machine serves the
same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SEED = 20260101
ROWS = 64
ARTICLE_TOLERANCE = 1e-4
IMAGE_SHAPE = (3, 224, 224)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Workload:
    """A model with rows and the expected answers."""

    name: str
    file: Path
    input_name: str
    output_name: str
    rows: Array
    """[n, ...] float32"""
    answers: Array
    """[n, outputs] float32"""
    tolerance: float


def article(folder: Path) -> Workload:
    """The 10-10-1 network, written to `folder` as ONNX and as arrays for torch."""
    rng = np.random.default_rng(SEED)
    w1 = rng.normal(0, 0.5, (10, 10)).astype(np.float32)
    b1 = rng.normal(0, 0.5, 10).astype(np.float32)
    w2 = rng.normal(0, 0.5, (1, 10)).astype(np.float32)
    b2 = rng.normal(0, 0.5, 1).astype(np.float32)
    rows = np.round(rng.normal(0, 3, (ROWS, 10)), 3).astype(np.float32)
    rows[0] = np.arange(1, 11)
    answers = np.maximum(rows @ w1.T + b1, 0) @ w2.T + b2
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "article.npz", w1=w1, b1=b1, w2=w2, b2=b2)
    path = folder / "article.onnx"
    _write_article_onnx(path, w1, b1, w2, b2)
    return Workload("article", path, "x", "y_pred", rows, answers, ARTICLE_TOLERANCE)


def image(folder: Path) -> Workload:
    """Channel means of a 3x224x224 float32 input, written to `folder` as ONNX."""
    rng = np.random.default_rng(SEED)
    rows = rng.random((8, *IMAGE_SHAPE), dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "image.onnx"
    _write_image_onnx(path)
    return Workload("image", path, "x", "y", rows, rows.mean(axis=(2, 3)), 1e-3)


def _write_article_onnx(path: Path, w1: Array, b1: Array, w2: Array, b2: Array) -> None:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y_pred"], transB=1),
    ]
    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    graph = helper.make_graph(
        nodes,
        "article",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 10])],
        [helper.make_tensor_value_info("y_pred", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    _save(graph, path)


def _write_image_onnx(path: Path) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)],
        "image",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *IMAGE_SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    _save(graph, path)


def _save(graph: object, path: Path) -> None:
    from onnx import checker, helper, save_model

    # Every version of onnxruntime that the peers install supports opset 17 and IR 9.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="bench"
    )
    checker.check_model(model)
    save_model(model, path)


def as_json(row: Array) -> list[object]:
    """A row as JSON numbers in the shortest form of their float32 values, as clients send them."""
    shortest = [float(str(value)) for value in row.ravel()]
    values: list[object] = np.array(shortest, dtype=object).reshape(row.shape).tolist()
    return values
