"""Rounding: to which integer each weight goes, so that a layer's answers change least.

The nearest integer is best for a weight alone. A layer sums over its inputs, and these are
correlated, so that an error at one weight can be taken back at the next: Frantar et al., "GPTQ",
arXiv:2210.17323, here for convolutions and linear layers with the inputs that they get on the
calibration rows. What is left on average goes into the bias: Nagel et al., "Data-Free Quantization
Through Weight Equalization and Bias Correction", arXiv:1906.04721, section 4.2.
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

ROWS = 4
"""Of a run: every input of every layer is kept meanwhile."""
PLACES = 32
"""Of an image at which the input of a convolution is looked at, in each row."""
DAMPING = 0.1
"""Of the mean variance, added to each: a few dozen rows do not span all inputs."""
WIDEST = 4608
"""Inputs of a layer that is looked at: what is kept of them grows with the square, to about a
gigabyte here. Wider layers keep the nearest integers."""
BLOCK = 64
COMPUTING = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class WeightedLayer:
    """A node that multiplies its input by constant weights."""

    op: str
    source: str
    """The tensor that it reads."""
    weight: str
    bias: str
    values: Floats
    """[groups, outputs, inputs]; a convolution's inputs are channels × kernel."""
    transposed: bool
    window: dict[str, Any]
    """Of a convolution: group, strides, pads, dilations, kernel."""


@dataclass
class Moments:
    """Of a layer's inputs: count, sum [groups, inputs] and products [groups, inputs, inputs]."""

    count: int
    total: Floats
    products: Floats

    @property
    def mean(self) -> Floats:
        return self.total / self.count

    def spread(self, *, centered: bool) -> Floats:
        """Covariance, or where no bias can take the mean back the second moment."""
        second = self.products / self.count
        return second - self.mean[:, :, None] * self.mean[:, None, :] if centered else second


def round_weights(
    source: Path, quantized: Path, calibration: Mapping[str, Array], *, largest: int
) -> int:
    """Chooses the integers of `quantized` anew, in place; returns of how many layers.

    `source`: the FP32 graph that `quantized` was made from, with activations and weights between
    QuantizeLinear and DequantizeLinear. `calibration`: [n, …] by input name. `largest`: integer of
    a weight, either way. All scales stay.
    """
    import onnx  # noqa: PLC0415
    from onnx import numpy_helper  # noqa: PLC0415

    float_model, model = onnx.load(source), onnx.load(quantized)
    there = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [
        x
        for x in layers_of(float_model)
        if f"{x.weight}_quantized" in there and x.values.shape[2] <= WIDEST
    ]
    biases = {t.name: numpy_helper.to_array(t) for t in float_model.graph.initializer}
    moments = _moments(float_model, layers, calibration)
    count = 0
    for layer in layers:
        names = [f"{layer.weight}_quantized", f"{layer.weight}_scale"]
        names += [f"{layer.bias}_quantized", f"{layer.bias}_quantized_scale"] * bool(layer.bias)
        if any(name not in there for name in names):
            continue
        before = {name: numpy_helper.to_array(there[name]) for name in names}
        after = _chosen(layer, moments[layer.weight], before, biases.get(layer.bias), largest)
        for name, values in after.items():
            there[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        count += 1
    onnx.save_model(model, quantized)
    return count


def layers_of(model: Any) -> list[WeightedLayer]:
    """Convolutions and matrix products by constants, each constant once."""
    from onnx import helper, numpy_helper  # noqa: PLC0415

    constants = {t.name: t for t in model.graph.initializer}
    found: dict[str, WeightedLayer] = {}
    for node in model.graph.node:
        if node.op_type not in COMPUTING or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = weight.ndim == 2 and not told.get("transA") and told.get("alpha", 1.0) == 1.0
        if node.op_type == "Conv":
            if weight.ndim != 4 or told.get("auto_pad", b"NOTSET") != b"NOTSET":
                continue
            told |= {"kernel": weight.shape[2:]}
        elif not plain:
            continue
        transposed = node.op_type != "Conv" and not told.get("transB")
        groups = int(told.get("group", 1))
        values = (weight.T if transposed else weight).reshape(
            groups, weight.shape[int(transposed)] // groups, -1
        )
        found.setdefault(
            node.input[1],
            WeightedLayer(
                node.op_type,
                node.input[0],
                node.input[1],
                node.input[2] if len(node.input) > 2 else "",
                values,
                transposed,
                told,
            ),
        )
    return list(found.values())


def _moments(
    model: Any, layers: list[WeightedLayer], calibration: Mapping[str, Array]
) -> dict[str, Moments]:
    """By weight, over the calibration rows."""
    import onnx  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415

    given = {i.name for i in model.graph.input}
    inner = list(dict.fromkeys(x.source for x in layers if x.source not in given))
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        wider.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    found: dict[str, Moments] = {}
    for at in range(0, len(next(iter(calibration.values()))), ROWS):
        rows = {name: values[at : at + ROWS] for name, values in calibration.items()}
        seen = rows | dict(zip(inner, session.run(inner, rows), strict=True))
        for layer in layers:
            x = inputs_of(layer, seen[layer.source], random)
            add = Moments(
                x.shape[1],
                x.sum(axis=1, dtype=np.float64),
                (x.transpose(0, 2, 1) @ x).astype(np.float64),
            )
            known = found.setdefault(layer.weight, add)
            if known is not add:
                known.count += add.count
                known.total += add.total
                known.products += add.products
    return found


def inputs_of(
    layer: WeightedLayer, x: Array, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """[groups, samples, inputs]: what the layer's weights are multiplied with.

    `x`: [n, channels, height, width] or […, features]. Of a convolution some places of each row.
    """
    if layer.op != "Conv":
        return x.reshape(1, -1, x.shape[-1]).astype(np.float32)
    told, groups = layer.window, layer.values.shape[0]
    kernel, strides = told["kernel"], told.get("strides", (1, 1))
    gaps, pads = told.get("dilations", (1, 1)), told.get("pads", (0, 0, 0, 0))
    count, channels = x.shape[:2]
    high, wide = (
        (x.shape[2 + i] + pads[i] + pads[2 + i] - gaps[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in (0, 1)
    )
    places = random.permutation(high * wide)[:PLACES]
    corner = (places // wide * strides[0], places % wide * strides[1])
    rows, columns = (corner[i][:, None] + np.arange(kernel[i]) * gaps[i] - pads[i] for i in (0, 1))
    inside = [
        (at >= 0) & (at < size) for at, size in zip((rows, columns), x.shape[2:], strict=True)
    ]
    rows, columns = (
        np.clip(a, 0, s - 1) for a, s in zip((rows, columns), x.shape[2:], strict=True)
    )
    pieces = x[:, :, rows[:, :, None], columns[:, None, :]].astype(np.float32)
    pieces *= inside[0][:, :, None] & inside[1][:, None, :]
    pieces = pieces.reshape(count, groups, channels // groups, len(places), -1)
    return pieces.transpose(1, 0, 3, 2, 4).reshape(groups, count * len(places), -1)


def _chosen(
    layer: WeightedLayer, seen: Moments, before: dict[str, Array], bias: Array | None, largest: int
) -> dict[str, Array]:
    """New integers of the layer's weight and bias in the quantized graph, by name."""
    weight = f"{layer.weight}_quantized"
    groups, outputs, _ = layer.values.shape
    step = before[f"{layer.weight}_scale"].astype(np.float64).reshape(-1)
    steps = np.broadcast_to(step, (groups * outputs,)).reshape(groups, outputs)
    integers = rounded(layer.values, steps, seen.spread(centered=bias is not None), largest)
    flat = integers.reshape(groups * outputs, -1)
    shaped = flat.T if layer.transposed else flat.reshape(before[weight].shape)
    after = {weight: shaped.astype(before[weight].dtype)}
    if bias is not None:
        name = f"{layer.bias}_quantized"
        unit = before[f"{name}_scale"].astype(np.float64)
        missing = layer.values - integers * steps[:, :, None]
        wanted = bias + np.einsum("goi,gi->go", missing, seen.mean).reshape(-1)
        counts = np.round(np.divide(wanted, unit, where=unit > 0, out=np.zeros_like(wanted)))
        limit = np.iinfo(np.int32).max
        after[name] = np.clip(counts, -limit, limit).astype(np.int32)
    return after


def rounded(weights: Floats, steps: Floats, spread: Floats, largest: int) -> Floats:
    """Integers [g, o, i] in ±largest for weights [g, o, i] in units of steps [g, o].

    Column by column, what rounding changed is taken back by the columns to come, as far as the
    inputs' `spread` [g, i, i] says that they move together.
    """
    left, found = weights.copy(), np.zeros_like(weights)
    width = weights.shape[2]
    power = np.einsum("gii->g", spread) / width
    damped = spread + np.eye(width) * np.where(power > 0, DAMPING * power, 1.0)[:, None, None]
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    units = np.where(steps > 0, steps, 1.0)
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        errors = np.zeros((*weights.shape[:2], end - start))
        for i in range(start, end):
            found[:, :, i] = np.clip(np.round(left[:, :, i] / units), -largest, largest)
            lost = left[:, :, i] - found[:, :, i] * steps
            errors[:, :, i - start] = lost / upper[:, None, i, i]
            left[:, :, i:end] -= errors[:, :, i - start, None] * upper[:, None, i, i:end]
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    return found
