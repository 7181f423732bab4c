"""Profiles of graphs whose layers can be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.optimize.graph import read_layers
from maas.lifecycle.optimize.measurement.profile import CorePrice, profile, time_by_layer
from maas.lifecycle.optimize.results import Candidate, EvaluationRows
from tests.support.models.onnx import save

CONV = 4 * 3 * 3 * 3
DENSE = 4 * 8 * 8 * 10


def convolution(path: Path) -> Path:
    """Writes a padded 3 × 3 convolution from 3 to 4 channels, and a dense layer to 10 outputs."""
    onnx = pytest.importorskip("onnx", reason="profiles read graphs with onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(4, 3, 3, 3)),
        "b": random.normal(size=4),
        "d": random.normal(size=(4 * 8 * 8, 10)),
        "e": random.normal(size=10),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Flatten", ["r"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "d", "e"], ["y"], "dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return save(graph, path)


def rows(count: int = 32) -> EvaluationRows:
    x = np.random.default_rng(1).normal(size=(count, 3, 8, 8)).astype(np.float32)
    return EvaluationRows({"x": x}, None, Task.OTHER)


def test_parameters_and_multiply_adds_match_the_formulas(tmp_path: Path) -> None:
    layers = {x.name: x for x in read_layers(convolution(tmp_path / "m.onnx"))}
    assert set(layers) == {"conv", "dense"}
    assert layers["conv"].parameters == CONV + 4
    assert layers["dense"].parameters == DENSE + 10
    assert layers["conv"].bytes == 4 * (CONV + 4)
    assert layers["conv"].multiply_adds == CONV * 8 * 8
    assert layers["dense"].multiply_adds == DENSE


@pytest.mark.parametrize("form", ["dynamic", "QDQ", "QOperator"])
def test_a_quantized_graph_has_the_same_work_in_a_quarter_of_the_bytes(
    tmp_path: Path, form: str
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs onnx")
    path, small = convolution(tmp_path / "m.onnx"), tmp_path / "q.onnx"
    if form == "dynamic":
        quantization.quantize_dynamic(path, small, weight_type=quantization.QuantType.QUInt8)
    else:
        batches = [{"x": rows(8).inputs["x"]}]

        base: Any = quantization.CalibrationDataReader

        class Reader(base):  # type: ignore[misc]
            def get_next(self) -> object:
                return batches.pop() if batches else None

        quantization.quantize_static(
            path, small, Reader(), quant_format=quantization.QuantFormat[form], per_channel=False
        )
    whole = profile(Candidate("m", "onnx", {"m": path}), rows())
    less = profile(Candidate("q", "onnx", {"m": small}), rows())
    assert less.parameters == pytest.approx(whole.parameters, abs=20)
    assert less.multiply_adds == whole.multiply_adds == CONV * 64 + DENSE
    assert sum(x["bytes"] for x in less.largest) < sum(x["bytes"] for x in whole.largest) / 3.5


def test_an_unknown_shape_is_reported_and_not_counted_as_0(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="profiles read graphs with onnx")
    path = convolution(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    for dim in list(model.graph.input[0].type.tensor_type.shape.dim)[2:]:
        dim.ClearField("dim_value")
        dim.dim_param = "side"
    onnx.save(model, str(path))
    result = profile(Candidate("m", "onnx", {"m": path}), rows())
    assert result.multiply_adds is None
    assert "shapes of" in result.missing["multiply_adds"]


def test_shares_of_the_time_add_up_over_all_executed_nodes(tmp_path: Path) -> None:
    times = time_by_layer(convolution(tmp_path / "m.onnx"), rows().inputs, threads=1)
    assert sum(t.share for t in times) == pytest.approx(1.0)
    assert times == sorted(times, key=lambda t: -t.share)
    assert {"Conv", "Gemm"} <= {t.op for t in times}
    assert all(t.ms >= 0 for t in times)


def test_nodes_of_a_forest_count_as_parameters(tmp_path: Path) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble", reason="scikit-learn has forests")
    convert = pytest.importorskip("skl2onnx", reason="skl2onnx makes it ONNX")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(200, 4)).astype(np.float32), random.integers(0, 2, 200)
    forest = ensemble.RandomForestClassifier(5, max_depth=3, random_state=0).fit(x, y)
    path = tmp_path / "f.onnx"
    path.write_bytes(convert.to_onnx(forest, x[:1]).SerializeToString())
    nodes = sum(tree.tree_.node_count for tree in forest.estimators_)
    result = profile(
        Candidate("f", "onnx", {"f": path}), EvaluationRows({"X": x}, None, Task.OTHER)
    )
    assert result.parameters is not None
    assert result.parameters >= nodes
    assert result.largest[0]["op"].startswith("TreeEnsemble")


def test_safetensors_headers_are_read_and_damaged_ones_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    result = profile(Candidate("s", "sentence_encoder", {path.name: path}), rows())
    assert (result.parameters, result.largest[0]["bytes"]) == (6, 24)
    assert result.missing["multiply_adds"]
    path.write_bytes((1 << 60).to_bytes(8, "little"))
    damaged = profile(Candidate("s", "sentence_encoder", {path.name: path}), rows())
    assert damaged.parameters is None
    assert "longer than the file" in damaged.missing["parameters"]


def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(InvalidInput, match="not an ONNX model"):
        read_layers(path)


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be a number ≥ 0"):
        CorePrice(-1)
