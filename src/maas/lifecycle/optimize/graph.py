"""What an ONNX graph consists of: parameters, bytes and multiply-adds of each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput

Shapes = Mapping[str, tuple[int, ...]]

WEIGHT_AT = {
    "Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "FusedConv": 1, "ConvTranspose": 1,
}  # fmt: skip
MATRIX_AT = {
    "Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3, "QGemm": 3, "FusedMatMul": 1,
    "FusedGemm": 1, "DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1,
}  # fmt: skip
"""Which input holds the weights."""
RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Gates."""
SCALES_AT = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3), "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
}  # fmt: skip
"""Inputs that say how numbers are coded; they are no parameters."""
PASSED_ON = ("DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Identity", "Reshape")
LEARNED = (
    "nodes_values", "class_weights", "target_weights", "coefficients", "intercepts",
    "support_vectors", "vectors_per_class", "leaf_weights", "nodes_splits",
)  # fmt: skip
"""Attributes of ai.onnx.ml operators that training has set."""


@dataclass
class GraphLayer:
    """A node with the weights that are meant for it."""

    name: str
    op: str
    parameters: int = 0
    bytes: int = 0
    multiply_adds: int | None = 0
    """For one row; None where a shape is not known."""


def read_layers(path: Path) -> list[GraphLayer]:
    """The graph's nodes that have parameters or multiply.

    Shapes are inferred by onnx for one row. Raises InvalidInput if the file is no ONNX model or
    the library is missing.
    """
    try:
        import onnx  # noqa: PLC0415  (0.3 s)
        from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415
            DecodeError,  # comes with onnx
        )
    except ImportError:
        raise InvalidInput("a profile needs the package onnx: install openmaas[torch]") from None
    try:
        model = onnx.load(str(path))
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as wrong:
        raise InvalidInput(f"{path.name} is no ONNX model: {wrong}", field="files") from None
    shapes = _shapes(onnx, model)
    layers = [GraphLayer(node.name or node.output[0], node.op_type) for node in model.graph.node]
    consumers = {
        name: (index, place)
        for index, node in reversed(list(enumerate(model.graph.node)))
        for place, name in enumerate(node.input)
    }
    for tensor in model.graph.initializer:
        found = _meant_for(model.graph.node, consumers, tensor.name)
        if found is None:
            continue
        index, is_weight = found
        layers[index].bytes += _size(onnx, tensor)
        if is_weight and tensor.data_type != onnx.TensorProto.INT64:
            layers[index].parameters += math.prod(tensor.dims)
    for layer, node in zip(layers, model.graph.node, strict=True):
        _add_attributes(onnx, layer, node)
        layer.multiply_adds = multiply_adds(onnx, node, shapes)
    return [x for x in layers if x.parameters or x.bytes or x.multiply_adds != 0]


def multiply_adds(onnx: Any, node: Any, shapes: Shapes) -> int | None:
    """Of one node, by the shapes of what goes in and comes out; 0 for what multiplies little."""
    op = node.op_type
    out = shapes.get(node.output[0])
    if op in WEIGHT_AT:
        weight = shapes.get(node.input[WEIGHT_AT[op]])
        # Of a transposed convolution every input, of others every output meets a kernel.
        met = shapes.get(node.input[0]) if op == "ConvTranspose" else out
        return None if weight is None or met is None else math.prod(met) * math.prod(weight[1:])
    if op in MATRIX_AT:
        left = shapes.get(node.input[0])
        if left is None:
            return None
        turned = {a.name: a.i for a in node.attribute if a.name in ("transA", "transB")}
        inner = left[0] if turned.get("transA") else left[-1]
        right = shapes.get(node.input[MATRIX_AT[op]])
        if out is None and right is not None and len(right) == 2:
            out = (*left[:-1], right[0] if turned.get("transB") else right[1])
        return None if out is None else math.prod(out) * inner
    if op in RECURRENT:
        inside, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
        if inside is None or weight is None:
            return None
        directions, gates, hidden = weight[0], RECURRENT[op], weight[1] // RECURRENT[op]
        steps = inside[0] * inside[1]
        return steps * directions * gates * hidden * (weight[2] + hidden)
    return 0


def _shapes(onnx: Any, model: Any) -> dict[str, tuple[int, ...]]:
    """By tensor, where all dimensions are known for one row."""
    weights = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and dims and dims[0].dim_value == 0:
            dims[0].dim_value = 1
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError):
        return {}
    found = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.dim_value > 0 for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def _meant_for(
    nodes: Any, consumers: Mapping[str, tuple[int, int]], name: str
) -> tuple[int, bool] | None:
    """The node that computes with this initializer, behind those that only change its form, and
    whether it is a weight and no scale."""
    weight = True
    for _ in range(len(PASSED_ON)):
        if name not in consumers:
            return None
        index, place = consumers[name]
        node = nodes[index]
        weight = weight and place not in SCALES_AT.get(node.op_type, ())
        if node.op_type not in PASSED_ON or node.output[0] not in consumers:
            return index, weight
        name = node.output[0]
    return index, weight


def _add_attributes(onnx: Any, layer: GraphLayer, node: Any) -> None:
    """What is kept in the node itself: constants, and trees of ai.onnx.ml."""
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name == "value":
            floats = attribute.t.data_type in (1, 10, 11, 16)
            layer.bytes += _size(onnx, attribute.t)
            layer.parameters += math.prod(attribute.t.dims) if floats else 0
        elif attribute.name in LEARNED:
            layer.parameters += len(attribute.floats) or math.prod(attribute.t.dims or [0])
            layer.bytes += attribute.ByteSize()


def _size(onnx: Any, tensor: Any) -> int:
    """Bytes of a tensor, also where several elements share a byte."""
    bits = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}.get(tensor.data_type)
    if bits is None:
        bits = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8
    return int(math.prod(tensor.dims)) * bits // 8
