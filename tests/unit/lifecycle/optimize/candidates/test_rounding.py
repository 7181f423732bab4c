"""Fitted rounding of weights changes the outputs of a layer less than nearest rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from maas.lifecycle.optimize.candidates import quantize
from maas.lifecycle.optimize.candidates.quantize import Rounding, int8_static
from maas.lifecycle.optimize.candidates.rounding import WeightedLayer, inputs_of, rounded
from maas.lifecycle.optimize.measurement.in_process import outputs_of
from maas.lifecycle.optimize.results import Array, Candidate
from maas.lifecycle.optimize.subject import Subject

RANDOM = np.random.default_rng(0)


def test_correlated_inputs_compensate_for_rounding_errors() -> None:
    x = RANDOM.normal(size=(2, 500, 4)) @ RANDOM.normal(size=(2, 4, 100))
    weights = RANDOM.normal(size=(2, 7, 100))
    steps = np.full((2, 7), 0.3)
    integers = rounded(weights, steps, x.transpose(0, 2, 1) @ x / 500, 64)
    assert np.array_equal(integers, np.round(integers)) and np.abs(integers).max() <= 64

    def output_error(rounded_weights: Array) -> float:
        errors = weights - rounded_weights * steps[:, :, None]
        return float(np.mean((x @ errors.transpose(0, 2, 1)) ** 2))

    assert output_error(integers) < 0.1 * output_error(np.round(weights / 0.3))


def test_independent_inputs_keep_the_nearest_integers() -> None:
    weights = RANDOM.normal(size=(1, 3, 70))
    spread = np.eye(70)[None]
    steps = np.full((1, 3), 0.1)
    assert np.array_equal(rounded(weights, steps, spread, 127), np.round(weights / 0.1))
    unused = rounded(weights, steps, 0 * spread, 127)
    assert np.array_equal(unused, np.round(weights / 0.1))
    assert np.abs(rounded(weights * 100, steps, spread, 64)).max() == 64


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), bias=False),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2, bias=False),
        nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False),
    ],
)
def test_inputs_times_weights_are_the_outputs_of_a_convolution(layer: nn.Conv2d) -> None:
    x = torch.randn(3, 4, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = layer(x).detach().numpy()
    groups, outputs = layer.groups, layer.out_channels // layer.groups
    values = layer.weight.detach().numpy().reshape(groups, outputs, -1)
    padding = [int(p) for p in layer.padding]
    window = {
        "kernel": layer.kernel_size,
        "strides": layer.stride,
        "pads": [*padding, *padding],
        "dilations": layer.dilation,
    }
    weighted = WeightedLayer("Conv", "x", "w", "", values.astype(np.float64), False, window)
    patches = inputs_of(weighted, x.numpy(), np.random.default_rng(0))
    positions = patches.shape[1] // 3
    assert positions == expected[0, 0].size
    products = (patches @ values.transpose(0, 2, 1)).reshape(groups, 3, positions, outputs)
    products = products.transpose(1, 0, 3, 2).reshape(3, groups * outputs, positions)
    order = np.random.default_rng(0).permutation(positions)
    assert np.allclose(products, expected.reshape(3, groups * outputs, -1)[:, :, order], atol=1e-5)


def test_fitted_rounding_changes_the_outputs_of_a_network_less(
    digits: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without 8-bit dot products weights have 7 bits, which makes the test equal on all machines.
    monkeypatch.setattr(quantize, "has_dot_products", lambda: False)

    def log_probabilities(file: Path) -> Array:
        candidate = Candidate("c", "onnx", {"model.onnx": file})
        outputs = outputs_of(candidate, digits.signature, digits.rows.inputs)
        return np.log(np.maximum(outputs["probabilities"], 1e-9))

    before, errors, scales = log_probabilities(digits.model_path), [], []
    modes: tuple[Rounding, ...] = ("nearest", "fitted")
    for rounding in modes:
        target = tmp_path / f"{rounding}.onnx"
        how = int8_static(
            digits.model_path,
            target,
            digits.calibration,
            rounding=rounding,
        )
        assert how["settings"]["rounding"] == rounding
        errors.append(float(np.mean((log_probabilities(target) - before) ** 2)))
        tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
        scales.append({n: v.tolist() for n, v in tensors.items() if n.endswith("_scale")})
    assert scales[0] == scales[1]
    assert errors[1] < 0.7 * errors[0]
