from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import skl2onnx
import torch
from onnx import TensorProto, helper
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.models import Task
from maas.lifecycle.conversion import torch_export, torch_translation
from maas.lifecycle.conversion.convert import (
    TensorNames,
    signature_of_onnx,
    sklearn_to_onnx,
    torch_to_onnx,
)
from maas.lifecycle.conversion.onnx_files import open_session, run_session
from maas.lifecycle.conversion.parity import check_parity

ROWS = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
X, Y = load_iris(return_X_y=True)
X = X.astype(np.float32)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 1))


def test_a_network_is_exported_to_one_file_for_any_batch_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    net = _net().train()
    done = torch_to_onnx(net, [ROWS], tmp_path / "m.onnx", ["x"], ["y_pred"])
    assert net.training, "the owner's module is left as it was"
    assert capfd.readouterr() == ("", "")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert done.task is Task.REGRESSION
    signature = done.signature
    assert (signature.inputs[0].name, signature.inputs[0].shape) == ("x", (10,))
    assert (signature.outputs[0].name, signature.outputs[0].shape) == ("y_pred", (1,))
    assert np.float32(signature.example["x"]).tolist() == ROWS[0].tolist()
    assert done.parity["rows"] == 7
    assert done.parity["max_abs_diff"] < 1e-6
    session = open_session(done.path)
    net.eval()
    for n in (1, 3, 1000):
        rows = np.random.default_rng(n).normal(size=(n, 10)).astype(np.float32)
        predicted = run_session(session, {"x": rows})["y_pred"]
        assert np.abs(predicted - net(torch.from_numpy(rows)).detach().numpy()).max() < 1e-5


def test_equal_networks_give_equal_files_without_paths(tmp_path: Path) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in files:
        torch_to_onnx(_net(), [ROWS], path)
    assert files[0].read_bytes() == files[1].read_bytes()
    for trace in (b".py", b"site-packages", b"torch.nn.modules", str(Path.cwd()).encode()):
        assert trace not in files[0].read_bytes()


class _Images(nn.Module):
    """A module with operators that torch decomposes before translating them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(18, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = nn.functional.relu_(self.norm(self.convolution(x.reshape(-1, 1, 5, 5))))
        return torch.softmax(self.linear(seen.flatten(1)), dim=1)


def _plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1))


@pytest.mark.parametrize("kind", [_plain, _net, _Images])
def test_the_fast_export_writes_the_same_file_as_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[], nn.Module]
) -> None:
    module = kind().eval()
    rows = np.random.default_rng(0).normal(size=(4, 25 if kind is _Images else 10))
    written, short = [], []

    def translated(*arguments: Any) -> Any:
        short.append(torch_translation.translated(*arguments))
        return short[-1]

    monkeypatch.setattr(torch_export, "translated", translated)
    for way in ("short", "whole table", "public"):
        torch_to_onnx(module, [rows], tmp_path / "m.onnx")
        written.append((tmp_path / "m.onnx").read_bytes())
        if way == "short":
            monkeypatch.setattr(torch_export, "translated", lambda *_: None)
        else:
            monkeypatch.setattr(torch_export, "whole_table", lambda _: None)
    assert [program is not None for program in short] == [kind is _plain]
    assert written[0] == written[1] == written[2]


class _Two(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"total": a + b.to(a.dtype), "first": a[:, 0]}


def test_named_inputs_and_outputs_and_one_example_row(tmp_path: Path) -> None:
    inputs = [np.ones((1, 2)), np.ones((1, 2), dtype=np.int64)]
    done = torch_to_onnx(_Two(), inputs, tmp_path / "m.onnx", ["a", "b"])
    specs = [*done.signature.inputs, *done.signature.outputs]
    assert [(s.name, s.datatype, s.shape) for s in specs] == [
        ("a", "FP32", (2,)),
        ("b", "INT64", (2,)),
        ("total", "FP32", (2,)),
        ("first", "FP32", ()),
    ]
    assert done.signature.max_rows is None


class _FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 10).sum(dim=1)


class _Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class _NoRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (_FixedBatch(), "takes only the batch size of the example"),
        (_Branch(), "torch cannot export _Branch to ONNX"),
        (_NoRows(), "output output must be a tensor with one row for each of the 2 rows"),
    ],
)
def test_a_module_that_has_no_servable_graph_is_refused(
    tmp_path: Path, module: nn.Module, words: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        torch_to_onnx(module, [ROWS[:2]], tmp_path / "m.onnx")
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("estimator", "target", "classes"),
    [
        (LogisticRegression(max_iter=500), np.array(["b", "a", "c"])[Y], ("a", "b", "c")),
        (RandomForestClassifier(5, random_state=0), (Y + 1) * 10, ("10", "20", "30")),
        (RandomForestClassifier(5, random_state=0), Y, ("0", "1", "2")),
        (LogisticRegression(max_iter=500), Y == 0, ("False", "True")),
        (
            make_pipeline(StandardScaler(), LogisticRegression()),
            np.where(Y > 0, "yes", "no"),
            ("no", "yes"),
        ),
        (RidgeClassifier(), np.array(["b", "a", "c"])[Y], ("a", "b", "c")),
    ],
)
def test_classifiers_answer_with_the_index_of_the_class(
    tmp_path: Path, estimator: Any, target: Any, classes: tuple[str, ...]
) -> None:
    estimator.fit(X, target)
    done = sklearn_to_onnx(estimator, X, tmp_path / "m.onnx")
    answers = run_session(open_session(done.path), {"x": X})
    assert [classes[i] for i in answers["label"]] == [str(v) for v in estimator.predict(X)]
    assert answers["label"].dtype == np.int64
    names = [s.name for s in done.signature.outputs]
    if not hasattr(estimator, "predict_proba"):
        assert names == ["label"]
        return
    assert names == ["label", "probabilities"]
    assert done.signature.outputs[1].labels == classes
    assert done.task is (Task.BINARY if len(classes) == 2 else Task.MULTICLASS)
    assert np.abs(answers["probabilities"] - estimator.predict_proba(X)).max() < 1e-5


def test_regressors_keep_name_and_units(tmp_path: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    names = TensorNames(input="row", output="progress", output_units="points")
    for estimator in (Ridge(), RandomForestRegressor(5, random_state=0)):
        done = sklearn_to_onnx(estimator.fit(x.astype("f4"), y), x, tmp_path / "m.onnx", names)
        (output,) = done.signature.outputs
        assert (output.name, output.shape, output.units) == ("progress", (1,), "points")
        assert done.signature.inputs[0].name == "row"
        assert done.task is Task.REGRESSION


def test_an_estimator_without_an_onnx_form_is_refused(tmp_path: Path) -> None:
    class Mine(LogisticRegression):  # type: ignore[misc]
        pass

    with pytest.raises(InvalidInput, match="skl2onnx"):
        sklearn_to_onnx(Mine().fit(X, Y), X, tmp_path / "m.onnx")


def test_a_model_that_fails_on_the_example_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"Sequential cannot answer .* float32\[2, 3\]"):
        torch_to_onnx(_net(), [ROWS[:2, :3]], tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match=r"LogisticRegression cannot answer .*not fitted"):
        sklearn_to_onnx(LogisticRegression(), X, tmp_path / "m.onnx")


def test_parity_names_the_row_and_output_that_differ() -> None:
    x = np.arange(6, dtype=np.float32)[:, None]

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        out = inputs["x"] * np.float32(2)
        if len(out) > 4:
            out[4] += 0.01
        return {"y": out}

    assert check_parity({"y": (x * 2)[:4]}, run, {"x": x[:4]})["max_abs_diff"] == 0.0
    with pytest.raises(InferenceFailed, match=r"in y, row 5 of 6, by 0.01; at most 0.001"):
        check_parity({"y": x * 2}, run, {"x": x})
    assert check_parity({"y": x * 2}, run, {"x": x}, tolerance=0.01)["passed"]


def test_parity_compares_every_batch_size_shape_type_and_nan() -> None:
    x = np.ones((5, 1), dtype=np.float32)
    seen: list[int] = []

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(inputs["x"]))
        return {"y": inputs["x"]}

    check_parity({"y": x}, run, {"x": x})
    assert seen == [1, 2, 5]
    for wrong in (x[:, 0], x.astype(np.float64), np.full_like(x, np.nan)):
        with pytest.raises(InferenceFailed):
            check_parity({"y": wrong}, run, {"x": x})
    nan = np.full_like(x, np.nan)
    assert check_parity({"y": nan}, lambda rows: {"y": rows["x"]}, {"x": nan})["passed"]


def _onnx(
    path: Path, shape: list[Any], kind: int = TensorProto.FLOAT, op: str = "Identity"
) -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None if op == "Transpose" else shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("kind", "datatype"),
    [
        (TensorProto.FLOAT16, "FP16"),
        (TensorProto.FLOAT, "FP32"),
        (TensorProto.DOUBLE, "FP64"),
        (TensorProto.INT64, "INT64"),
        (TensorProto.UINT8, "UINT8"),
        (TensorProto.BOOL, "BOOL"),
        (TensorProto.STRING, "BYTES"),
    ],
)
def test_the_signature_of_an_onnx_file(tmp_path: Path, kind: int, datatype: str) -> None:
    signature = signature_of_onnx(_onnx(tmp_path / "m.onnx", ["n", 3], kind))
    (x,), (y,) = signature.inputs, signature.outputs
    assert (x.name, x.datatype, x.shape) == ("x", datatype, (3,))
    assert (y.name, y.datatype, y.shape) == ("y", datatype, (3,))
    assert signature.max_rows is None
    assert len(signature.example["x"]) == 3


def test_onnx_files_of_one_row_and_with_free_dimensions(tmp_path: Path) -> None:
    assert signature_of_onnx(_onnx(tmp_path / "m.onnx", [1, 3])).max_rows == 1
    path = _onnx(tmp_path / "m.onnx", ["n", "words", 2])
    with pytest.raises(InvalidInput, match="an example row is needed"):
        signature_of_onnx(path)
    signature = signature_of_onnx(path, {"x": [[1, 2], [3, 4]]})
    assert signature.inputs[0].shape == (-1, 2)


@pytest.mark.parametrize(
    ("shape", "options", "example", "words"),
    [
        ([4, 3], {}, None, "the first dimension of x must be free"),
        ([], {}, None, "has no dimension for the rows"),
        (["n", 3], {"kind": TensorProto.COMPLEX64}, None, "cannot be loaded"),
        (["n", 3], {"op": "Transpose"}, None, "the first dimension of y must be free"),
        (["n", "m"], {"op": "Transpose"}, {"x": [1, 2, 3]}, "y must have a row for each row"),
        (["n", 3], {}, {"x": [1, 2]}, "x must have shape [3]; got [2]"),
        (["n", 3], {}, {"z": [1, 2]}, "the example has no input x"),
        (["n", 3], {}, {"x": ["a", "b", "c"]}, "example: x"),
    ],
)
def test_onnx_files_that_cannot_be_served_are_refused(
    tmp_path: Path, shape: list[Any], options: dict[str, Any], example: Any, words: str
) -> None:
    path = _onnx(tmp_path / "m.onnx", shape, **options)
    with pytest.raises(InvalidInput) as refused:
        signature_of_onnx(path, example)
    assert words in refused.value.message


def test_an_estimator_with_map_outputs_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(
        skl2onnx.to_onnx(LogisticRegression(max_iter=500).fit(X, Y), X[:1]).SerializeToString()
    )
    with pytest.raises(InvalidInput, match="export it with zipmap=False"):
        signature_of_onnx(tmp_path / "m.onnx")


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidInput, match="cannot be loaded by onnxruntime"):
        signature_of_onnx(tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match="there is no file"):
        signature_of_onnx(tmp_path / "other.onnx")
