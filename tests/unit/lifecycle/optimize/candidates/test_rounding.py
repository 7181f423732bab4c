"""Which integers weights become: better on what the layer gets than the nearest ones."""

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


def test_errors_at_one_input_are_taken_back_at_those_that_move_with_it() -> None:
    x = RANDOM.normal(size=(2, 500, 4)) @ RANDOM.normal(size=(2, 4, 100))
    weights = RANDOM.normal(size=(2, 7, 100))
    steps = np.full((2, 7), 0.3)
    found = rounded(weights, steps, x.transpose(0, 2, 1) @ x / 500, 64)
    assert np.array_equal(found, np.round(found)) and np.abs(found).max() <= 64

    def wrong(integers: Array) -> float:
        missing = weights - integers * steps[:, :, None]
        return float(np.mean((x @ missing.transpose(0, 2, 1)) ** 2))

    assert wrong(found) < 0.1 * wrong(np.round(weights / 0.3))


def test_inputs_that_are_independent_leave_the_nearest_integers() -> None:
    weights = RANDOM.normal(size=(1, 3, 70))
    spread = np.eye(70)[None]
    steps = np.full((1, 3), 0.1)
    assert np.array_equal(rounded(weights, steps, spread, 127), np.round(weights / 0.1))
    nothing = rounded(weights, steps, 0 * spread, 127)
    assert np.array_equal(nothing, np.round(weights / 0.1))
    assert np.abs(rounded(weights * 100, steps, spread, 64)).max() == 64


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), bias=False),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2, bias=False),
        nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False),
    ],
)
def test_a_convolutions_inputs_are_what_its_weights_are_multiplied_with(layer: nn.Conv2d) -> None:
    x = torch.randn(3, 4, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = layer(x).detach().numpy()
    groups, wide = layer.groups, layer.out_channels // layer.groups
    values = layer.weight.detach().numpy().reshape(groups, wide, -1)
    padding = [int(p) for p in layer.padding]
    window = {
        "kernel": layer.kernel_size,
        "strides": layer.stride,
        "pads": [*padding, *padding],
        "dilations": layer.dilation,
    }
    told = WeightedLayer("Conv", "x", "w", "", values.astype(np.float64), False, window)
    pieces = inputs_of(told, x.numpy(), np.random.default_rng(0))
    places = pieces.shape[1] // 3
    assert places == expected[0, 0].size
    said = (pieces @ values.transpose(0, 2, 1)).reshape(groups, 3, places, wide)
    said = said.transpose(1, 0, 3, 2).reshape(3, groups * wide, places)
    order = np.random.default_rng(0).permutation(places)
    assert np.allclose(said, expected.reshape(3, groups * wide, -1)[:, :, order], atol=1e-5)


def test_a_network_says_more_nearly_what_it_said(
    digits: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As without 8-bit dot products, so that weights have 7 bits on every machine.
    monkeypatch.setattr(quantize, "has_dot_products", lambda: False)

    def said(file: Path) -> Array:
        candidate = Candidate("c", "onnx", {"model.onnx": file})
        found = outputs_of(candidate, digits.signature, digits.rows.inputs)["probabilities"]
        return np.log(np.maximum(found, 1e-9))

    before, wrong, scales = said(digits.model_path), [], []
    kinds: tuple[Rounding, ...] = ("nearest", "fitted")
    for rounding in kinds:
        target = tmp_path / f"{rounding}.onnx"
        how = int8_static(
            digits.model_path,
            target,
            digits.calibration,
            rounding=rounding,
        )
        assert how["settings"]["rounding"] == rounding
        wrong.append(float(np.mean((said(target) - before) ** 2)))
        tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
        scales.append({n: v.tolist() for n, v in tensors.items() if n.endswith("_scale")})
    assert scales[0] == scales[1]
    assert wrong[1] < 0.7 * wrong[0]
