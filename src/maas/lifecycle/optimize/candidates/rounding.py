"""Rounding of weights to integers so that the outputs of a layer change least.

The nearest integer is best for a single weight. A layer sums over its inputs, which are correlated,
so that other weights can compensate for the error of one (Frantar et al., "GPTQ",
arXiv:2210.17323; here for convolutions and linear layers with their inputs on the calibration
rows). The bias compensates for the remaining average error (Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", arXiv:1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

BATCH_ROWS = 4
"""Rows per call; the inputs of all layers are in memory during a call."""
POSITIONS = 32
"""Sampled positions per row of the output of a convolution."""
DAMPING = 0.1
"""Share of the mean variance added to each variance, as a few dozen rows do not span all inputs."""
WIDEST = 4608
"""Most inputs of a layer. Memory grows with the square, to about 1 GB here; wider layers keep the
nearest integers."""
BLOCK = 64
COMPUTE_OPERATORS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class WeightedLayer:
    """A node that multiplies its input by constant weights."""

    op: str
    source: str
    """Name of the input tensor."""
    weight: str
    bias: str
    values: Floats
    """Weights [groups, outputs, inputs]; the inputs of a convolution are channels × kernel."""
    transposed: bool
    window: dict[str, Any]
    """Convolutions only: group, strides, pads, dilations, kernel."""


@dataclass
class Moments:
    """Count, sum [groups, inputs] and products [groups, inputs, inputs] of a layer's inputs."""

    count: int
    total: Floats
    products: Floats

    @property
    def mean(self) -> Floats:
        return self.total / self.count

    def spread(self, *, centered: bool) -> Floats:
        """Covariance, or the second moment if no bias can compensate for the mean."""
        second = self.products / self.count
        if not centered:
            return second
        return second - self.mean[:, :, None] * self.mean[:, None, :]

    def add(self, other: Moments) -> None:
        self.count += other.count
        self.total += other.total
        self.products += other.products


def round_weights(
    source: Path, quantized: Path, calibration: Mapping[str, Array], *, largest: int
) -> int:
    """Replaces the integer weights of `quantized` in place; returns the number of layers.

    `source`: the FP32 graph that `quantized` was made from, with QuantizeLinear and
    DequantizeLinear around activations and weights. `calibration`: rows [n, …] for each input.
    `largest`: largest absolute value of an integer. Scales are not changed.
    """
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    float_model, model = onnx.load(source), onnx.load(quantized)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [
        layer
        for layer in layers_of(float_model)
        if f"{layer.weight}_quantized" in tensors and layer.values.shape[2] <= WIDEST
    ]
    biases = {t.name: numpy_helper.to_array(t) for t in float_model.graph.initializer}
    moments = _moments(float_model, layers, calibration)
    count = 0
    for layer in layers:
        names = [f"{layer.weight}_quantized", f"{layer.weight}_scale"]
        if layer.bias:
            names += [f"{layer.bias}_quantized", f"{layer.bias}_quantized_scale"]
        if any(name not in tensors for name in names):
            continue
        before = {name: numpy_helper.to_array(tensors[name]) for name in names}
        bias = biases.get(layer.bias)
        after = _fitted_tensors(layer, moments[layer.weight], before, bias, largest)
        for name, values in after.items():
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        count += 1
    onnx.save_model(model, quantized)
    return count


def layers_of(model: Any) -> list[WeightedLayer]:
    """Convolutions and matrix products with constant weights, each weight once."""
    from onnx import helper, numpy_helper  # noqa: PLC0415

    constants = {t.name: t for t in model.graph.initializer}
    layers: dict[str, WeightedLayer] = {}
    for node in model.graph.node:
        if node.op_type not in COMPUTE_OPERATORS or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Conv":
            if weight.ndim != 4 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
                continue
            attributes["kernel"] = weight.shape[2:]
        elif weight.ndim != 2 or attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0:
            continue
        transposed = node.op_type != "Conv" and not attributes.get("transB")
        groups = int(attributes.get("group", 1))
        outputs = weight.shape[int(transposed)] // groups
        values = (weight.T if transposed else weight).reshape(groups, outputs, -1)
        layers.setdefault(
            node.input[1],
            WeightedLayer(
                node.op_type,
                node.input[0],
                node.input[1],
                node.input[2] if len(node.input) > 2 else "",
                values,
                transposed,
                attributes,
            ),
        )
    return list(layers.values())


def _moments(
    model: Any, layers: list[WeightedLayer], calibration: Mapping[str, Array]
) -> dict[str, Moments]:
    """Moments over the calibration rows of the inputs of each layer, by its weight."""
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    graph_inputs = {i.name for i in model.graph.input}
    sources = dict.fromkeys(layer.source for layer in layers)
    inner = [name for name in sources if name not in graph_inputs]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    moments: dict[str, Moments] = {}
    for start in range(0, len(next(iter(calibration.values()))), BATCH_ROWS):
        rows = {name: values[start : start + BATCH_ROWS] for name, values in calibration.items()}
        values_by_tensor = rows | dict(zip(inner, session.run(inner, rows), strict=True))
        for layer in layers:
            x = inputs_of(layer, values_by_tensor[layer.source], random)
            batch = Moments(
                x.shape[1],
                x.sum(axis=1, dtype=np.float64),
                (x.transpose(0, 2, 1) @ x).astype(np.float64),
            )
            if layer.weight in moments:
                moments[layer.weight].add(batch)
            else:
                moments[layer.weight] = batch
    return moments


def inputs_of(
    layer: WeightedLayer, x: Array, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Values [groups, samples, inputs] that the layer's weights are multiplied with.

    `x`: [n, channels, height, width] or […, features]. The samples of a convolution are random
    positions of each row.
    """
    if layer.op != "Conv":
        return x.reshape(1, -1, x.shape[-1]).astype(np.float32)
    window, groups = layer.window, layer.values.shape[0]
    kernel, strides = window["kernel"], window.get("strides", (1, 1))
    dilations, pads = window.get("dilations", (1, 1)), window.get("pads", (0, 0, 0, 0))
    count, channels, *size = x.shape
    extent = [dilations[i] * (kernel[i] - 1) + 1 for i in (0, 1)]
    height, width = (
        (size[i] + pads[i] + pads[2 + i] - extent[i]) // strides[i] + 1 for i in (0, 1)
    )
    positions = random.permutation(height * width)[:POSITIONS]
    corners = (positions // width * strides[0], positions % width * strides[1])
    indices, inside = [], []
    for i in (0, 1):
        index = corners[i][:, None] + np.arange(kernel[i]) * dilations[i] - pads[i]
        inside.append((index >= 0) & (index < size[i]))
        indices.append(np.clip(index, 0, size[i] - 1))
    rows, columns = indices
    patches = x[:, :, rows[:, :, None], columns[:, None, :]].astype(np.float32)
    patches *= inside[0][:, :, None] & inside[1][:, None, :]
    patches = patches.reshape(count, groups, channels // groups, len(positions), -1)
    return patches.transpose(1, 0, 3, 2, 4).reshape(groups, count * len(positions), -1)


def _fitted_tensors(
    layer: WeightedLayer,
    moments: Moments,
    before: dict[str, Array],
    bias: Array | None,
    largest: int,
) -> dict[str, Array]:
    """New integer weight and bias of a layer in the quantized graph, by name."""
    weight = f"{layer.weight}_quantized"
    groups, outputs, _ = layer.values.shape
    step = before[f"{layer.weight}_scale"].astype(np.float64).reshape(-1)
    steps = np.broadcast_to(step, (groups * outputs,)).reshape(groups, outputs)
    integers = rounded(layer.values, steps, moments.spread(centered=bias is not None), largest)
    flat = integers.reshape(groups * outputs, -1)
    shaped = flat.T if layer.transposed else flat.reshape(before[weight].shape)
    after = {weight: shaped.astype(before[weight].dtype)}
    if bias is not None:
        name = f"{layer.bias}_quantized"
        unit = before[f"{name}_scale"].astype(np.float64)
        errors = layer.values - integers * steps[:, :, None]
        target = bias + np.einsum("goi,gi->go", errors, moments.mean).reshape(-1)
        counts = np.round(np.divide(target, unit, where=unit > 0, out=np.zeros_like(target)))
        limit = np.iinfo(np.int32).max
        after[name] = np.clip(counts, -limit, limit).astype(np.int32)
    return after


def rounded(weights: Floats, steps: Floats, spread: Floats, largest: int) -> Floats:
    """Integers [g, o, i] in ±largest for weights [g, o, i] in units of steps [g, o].

    Weights are rounded column by column, and later columns compensate for the error of a column as
    far as their inputs are correlated by `spread` [g, i, i].
    """
    remaining, integers = weights.copy(), np.zeros_like(weights)
    width = weights.shape[2]
    power = np.einsum("gii->g", spread) / width
    damped = spread + np.eye(width) * np.where(power > 0, DAMPING * power, 1.0)[:, None, None]
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    units = np.where(steps > 0, steps, 1.0)
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        errors = np.zeros((*weights.shape[:2], end - start))
        for i in range(start, end):
            integers[:, :, i] = np.clip(np.round(remaining[:, :, i] / units), -largest, largest)
            error = remaining[:, :, i] - integers[:, :, i] * steps
            errors[:, :, i - start] = error / upper[:, None, i, i]
            remaining[:, :, i:end] -= errors[:, :, i - start, None] * upper[:, None, i, i:end]
        remaining[:, :, end:] -= errors @ upper[:, start:end, end:]
    return integers
