"""Quantized and optimized graphs of a real network, compared with the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from maas.lifecycle.optimize.candidates.fusion import optimize_graph
from maas.lifecycle.optimize.candidates.precision import half_precision
from maas.lifecycle.optimize.candidates.quantize import int8_dynamic, int8_static, operators_of
from maas.lifecycle.optimize.measurement.in_process import outputs_of
from maas.lifecycle.optimize.results import Array, Candidate
from maas.lifecycle.optimize.subject import NotApplicable, Subject
from tests.support.models.onnx import echo_model


def probabilities(subject: Subject, file: Path) -> Array:
    candidate = Candidate("candidate", "onnx", {"model.onnx": file})
    return outputs_of(candidate, subject.signature, subject.rows.inputs)["probabilities"]


def agreement(subject: Subject, file: Path) -> float:
    before = probabilities(subject, subject.model_path)
    after = probabilities(subject, file)
    return float(np.mean(before.argmax(1) == after.argmax(1)))


def weight_types(file: Path) -> set[int]:
    graph = onnx.load(file).graph
    return {t.data_type for t in graph.initializer if np.prod(t.dims) > 100}


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_static_int8_is_much_smaller_and_agrees_with_the_original(
    digits: Subject, tmp_path: Path, method: str
) -> None:
    target = tmp_path / "model.onnx"
    how = int8_static(digits.model_path, target, digits.calibration, method=method)  # type: ignore[arg-type]
    assert digits.model_path.stat().st_size / target.stat().st_size >= 2.4
    assert agreement(digits, target) >= 0.97
    assert how["settings"]["calibration_rows"] <= len(digits.calibration["x"])
    assert weight_types(target) == {onnx.TensorProto.INT8}


def test_per_channel_quantization_stores_a_scale_per_channel(
    digits: Subject, tmp_path: Path
) -> None:
    scales = []
    for per_channel in (True, False):
        target = tmp_path / f"{per_channel}.onnx"
        int8_static(digits.model_path, target, digits.calibration, per_channel=per_channel)
        tensors = [i for i in onnx.load(target).graph.initializer if i.name.endswith("_scale")]
        scales.append(sum(int(np.prod(i.dims)) for i in tensors))
    assert scales[0] > scales[1] + 16


def test_dynamic_int8_changes_matrix_products_only(digits: Subject, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    int8_dynamic(digits.model_path, target)
    operators = operators_of(target)
    assert operators["MatMulInteger"] == 2 and operators["Conv"] == 2
    assert agreement(digits, target) >= 0.97


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_graph_without_products_is_not_quantized(
    digits: Subject, tmp_path: Path, method: str
) -> None:
    source, target = echo_model(tmp_path / "echo.onnx"), tmp_path / "model.onnx"
    with pytest.raises(NotApplicable, match="this graph has Mul only"):
        if method == "static":
            int8_static(source, target, {"x": np.zeros((4, 2), np.float32)})
        else:
            int8_dynamic(source, target)


def test_a_fused_graph_has_fewer_steps_and_the_same_numbers(
    digits: Subject, tmp_path: Path
) -> None:
    target = tmp_path / "model.onnx"
    how = optimize_graph(digits.model_path, target, "extended")
    assert sum(operators_of(target).values()) < sum(operators_of(digits.model_path).values())
    assert np.allclose(
        probabilities(digits, target), probabilities(digits, digits.model_path), atol=1e-6
    )
    assert how["settings"] == {"level": "extended"}


def test_half_precision_is_half_the_file_with_the_same_inputs(
    digits: Subject, tmp_path: Path
) -> None:
    target = tmp_path / "model.onnx"
    half_precision(digits.model_path, target)
    assert target.stat().st_size < 0.6 * digits.model_path.stat().st_size
    assert probabilities(digits, target).dtype == np.float32
    assert np.allclose(
        probabilities(digits, target), probabilities(digits, digits.model_path), atol=0.02
    )
