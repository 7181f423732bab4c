"""Layers of an ONNX graph, with parameters, bytes and multiply-adds."""

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
"""Index of the input that holds the weights, by operator."""
RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Number of gates, by operator."""
SCALES_AT = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3), "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
}  # fmt: skip
"""Inputs with scales and zero points, which are not parameters."""
PASSED_ON = ("DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Identity", "Reshape")
LEARNED = (
    "nodes_values", "class_weights", "target_weights", "coefficients", "intercepts",
    "support_vectors", "vectors_per_class", "leaf_weights", "nodes_splits",
)  # fmt: skip
"""Attributes of ai.onnx.ml operators that hold parameters."""


@dataclass
class GraphLayer:
    """A node with the weights that it computes with."""

    name: str
    op: str
    parameters: int = 0
    bytes: int = 0
    multiply_adds: int | None = 0
    """Multiply-adds per row; None if a shape is unknown."""


def read_layers(path: Path) -> list[GraphLayer]:
    """Nodes that have parameters or multiply, in the order of the graph.

    Shapes are inferred by onnx for one row. Raises InvalidInput if the file is not an ONNX model,
    or if the package is missing.
    """
    try:
        import onnx  # noqa: PLC0415  (0.3 s)
        from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415
            DecodeError,  # a dependency of onnx
        )
    except ImportError:
        raise InvalidInput("a profile needs the package onnx: install openmaas[torch]") from None
    try:
        model = onnx.load(str(path))
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        raise InvalidInput(f"{path.name} is not an ONNX model: {error}", field="files") from None
    shapes = _shapes(onnx, model)
    layers = [GraphLayer(node.name or node.output[0], node.op_type) for node in model.graph.node]
    consumers: dict[str, tuple[int, int]] = {}
    for index, node in enumerate(model.graph.node):
        # Of several inputs of one node with the same tensor, the last one counts.
        positions = {name: position for position, name in enumerate(node.input)}
        for name, position in positions.items():
            consumers.setdefault(name, (index, position))
    for tensor in model.graph.initializer:
        user = _computing_node(model.graph.node, consumers, tensor.name)
        if user is None:
            continue
        index, is_weight = user
        layers[index].bytes += _size(onnx, tensor)
        if is_weight and tensor.data_type != onnx.TensorProto.INT64:
            layers[index].parameters += math.prod(tensor.dims)
    for layer, node in zip(layers, model.graph.node, strict=True):
        _add_attributes(onnx, layer, node)
        layer.multiply_adds = multiply_adds(onnx, node, shapes)
    return [x for x in layers if x.parameters or x.bytes or x.multiply_adds != 0]


def multiply_adds(onnx: Any, node: Any, shapes: Shapes) -> int | None:
    """Multiply-adds of one node from the shapes of its inputs and outputs.

    0 for operators that hardly multiply, None if a shape is unknown.
    """
    op = node.op_type
    out = shapes.get(node.output[0])
    if op in WEIGHT_AT:
        weight = shapes.get(node.input[WEIGHT_AT[op]])
        # A transposed convolution applies the kernel at every input, others at every output.
        applied = shapes.get(node.input[0]) if op == "ConvTranspose" else out
        if weight is None or applied is None:
            return None
        return math.prod(applied) * math.prod(weight[1:])
    if op in MATRIX_AT:
        left = shapes.get(node.input[0])
        if left is None:
            return None
        transposed = {a.name: a.i for a in node.attribute if a.name in ("transA", "transB")}
        inner = left[0] if transposed.get("transA") else left[-1]
        right = shapes.get(node.input[MATRIX_AT[op]])
        if out is None and right is not None and len(right) == 2:
            out = (*left[:-1], right[0] if transposed.get("transB") else right[1])
        return None if out is None else math.prod(out) * inner
    if op in RECURRENT:
        sequence, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
        if sequence is None or weight is None:
            return None
        directions, gates, hidden = weight[0], RECURRENT[op], weight[1] // RECURRENT[op]
        steps = sequence[0] * sequence[1]
        return steps * directions * gates * hidden * (weight[2] + hidden)
    return 0


def _shapes(onnx: Any, model: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name, where all dimensions are known for one row."""
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
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.dim_value > 0 for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes


def _computing_node(
    nodes: Any, consumers: Mapping[str, tuple[int, int]], name: str
) -> tuple[int, bool] | None:
    """Index of the node that computes with an initializer, and whether it is a weight, not a scale.

    Nodes that only change the form of a tensor are followed to the next one. None if the
    initializer is not used.
    """
    weight = True
    for _ in range(len(PASSED_ON)):
        if name not in consumers:
            return None
        index, position = consumers[name]
        node = nodes[index]
        weight = weight and position not in SCALES_AT.get(node.op_type, ())
        if node.op_type not in PASSED_ON or node.output[0] not in consumers:
            return index, weight
        name = node.output[0]
    return index, weight


def _add_attributes(onnx: Any, layer: GraphLayer, node: Any) -> None:
    """Adds parameters stored in the node itself: constants, and trees of ai.onnx.ml."""
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name == "value":
            floats = attribute.t.data_type in (1, 10, 11, 16)
            layer.bytes += _size(onnx, attribute.t)
            layer.parameters += math.prod(attribute.t.dims) if floats else 0
        elif attribute.name in LEARNED:
            layer.parameters += len(attribute.floats) or math.prod(attribute.t.dims or [0])
            layer.bytes += attribute.ByteSize()


def _size(onnx: Any, tensor: Any) -> int:
    """Bytes of a tensor, whose elements may be smaller than a byte."""
    bits = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}.get(tensor.data_type)
    if bits is None:
        bits = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8
    return int(math.prod(tensor.dims)) * bits // 8
