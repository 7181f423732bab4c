from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maas.domain.errors import InvalidInput
from maas.domain.jobs import Progress
from maas.domain.models import Task
from maas.lifecycle.build import BuildCancelled, Built, build
from maas.lifecycle.conversion.onnx_files import open_session, run_session
from maas.lifecycle.data.spec import BuildSpec

EXAMPLES = Path(__file__).parents[3] / "examples"
ARTICLE = {
    "data": {"source": "data.py:rows"},
    "model": {"module": "model.py:Net", "output": "y_pred"},
    "training": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "epochs": 15},
}
DIGITS = {
    "data": {"source": "sklearn:digits"},
    "model": {
        "family": "cnn",
        "channels": [32, 64],
        "hidden": [128],
        "dropout": 0.4,
    },
    "training": {"epochs": 12, "batch_size": 64, "learning_rate": 0.005, "schedule": "cosine"},
}


def _build(workdir: Path, raw: dict[str, Any], directory: Path | str = ".") -> Built:
    return build(BuildSpec.from_dict(raw, str(directory)), workdir=workdir)


def test_the_article_net(tmp_path: Path) -> None:
    built = _build(tmp_path, ARTICLE, EXAMPLES / "article")
    assert built.task is Task.REGRESSION
    assert [(s.name, s.shape) for s in built.signature.inputs] == [("x", (10,))]
    assert [(s.name, s.shape) for s in built.signature.outputs] == [("y_pred", (1,))]
    residual = built.test.y_true - built.test.y_pred
    assert (residual**2).mean() < 0.01 * built.test.y_true.var()
    row = np.arange(1, 11, dtype=np.float32)[None]
    served = run_session(open_session(built.onnx_path), {"x": row})["y_pred"]
    with torch.no_grad():
        assert abs(served - built.model(torch.from_numpy(row)).numpy()).max() < 1e-5
    assert built.background.shape == (100, 10)
    assert json.loads(json.dumps(built.metadata, allow_nan=False))["build"]["model"]["module"]
    assert str(EXAMPLES) not in json.dumps(built.metadata)
    assert [e.kind for e in built.evidence] == ["parity", "training"]
    for evidence in built.evidence:
        json.dumps(evidence.to_dict(), allow_nan=False)


def test_the_digits_cnn_has_an_accuracy_of_97_percent(tmp_path: Path) -> None:
    built = _build(tmp_path, DIGITS)
    assert (built.test.y_true == built.test.y_pred).mean() >= 0.97
    assert built.signature.inputs[0].shape == (1, 8, 8)
    label, probabilities = built.signature.outputs
    assert (label.name, label.datatype, label.shape) == ("label", "INT64", ())
    assert (probabilities.shape, probabilities.labels) == ((10,), tuple("0123456789"))
    assert built.test.y_score is not None
    assert np.array_equal(built.test.y_score.argmax(axis=1), built.test.y_pred)


def test_a_second_build_gives_the_same_version(tmp_path: Path) -> None:
    raw = {
        "data": {"source": "sklearn:iris"},
        "model": {"family": "mlp", "dropout": 0.1},
        "training": {"epochs": 2},
    }
    one, two = _build(tmp_path / "1", raw), _build(tmp_path / "2", raw)
    assert one.onnx_path.read_bytes() == two.onnx_path.read_bytes()
    assert (one.metadata, one.signature) == (two.metadata, two.signature)


def test_a_finished_training_is_repeated_only_if_the_module_changed(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(4, 3)\n"
    )
    raw = {
        "data": {"source": "sklearn:iris"},
        "model": {"module": "net.py:Net"},
        "training": {"epochs": 3},
    }
    epochs = []
    for _ in range(3):
        reports: list[Progress] = []
        build(
            BuildSpec.from_dict(raw, str(tmp_path)),
            workdir=tmp_path / "work",
            report=reports.append,
        )
        epochs.append(len(reports))
        if len(epochs) == 2:
            net.write_text(net.read_text() + "    def extra(self): pass\n")
    assert epochs == [3, 0, 3]


def test_a_cancelled_build_raises_build_cancelled(tmp_path: Path) -> None:
    with pytest.raises(BuildCancelled):
        build(BuildSpec.from_dict(DIGITS), workdir=tmp_path, cancelled=lambda: True)


def test_csv_with_slices_units_and_a_forest(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["length,mass,region,kind"]
    for _ in range(200):
        length, mass = random.normal(size=2)
        region = "north" if random.random() < 0.5 else "south"
        kind = "big" if length + mass > 0 else "small"
        lines.append(f"{length:.4f},{mass:.4f},{region},{kind}")
    (tmp_path / "d.csv").write_text("\n".join(lines))
    data = {
        "source": "d.csv",
        "target": "kind",
        "slices": ["region"],
        "units": {"length": "m", "mass": "kg"},
    }
    forest = {
        "estimator": "sklearn.ensemble:RandomForestClassifier",
        "arguments": {"n_estimators": 10},
    }
    built = _build(tmp_path, {"data": data, "model": forest}, tmp_path)
    assert built.task is Task.BINARY
    assert built.class_names == ("big", "small")
    assert built.signature.inputs[0].labels == ("length", "mass")
    assert built.signature.inputs[0].description == "length in m, mass in kg"
    assert set(built.test.slices["region"]) == {"north", "south"}
    assert (built.test.y_true == built.test.y_pred).mean() > 0.8
    again = _build(tmp_path / "again", {"data": data, "model": forest}, tmp_path)
    assert again.onnx_path.read_bytes() == built.onnx_path.read_bytes(), "the seed is given on"


def test_the_owners_pipeline_takes_flattened_images(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from sklearn.decomposition import PCA\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "from sklearn.pipeline import make_pipeline\n"
        "def steps(kept): return make_pipeline(PCA(kept), LogisticRegression(max_iter=500))\n"
    )
    model = {"estimator": "own.py:steps", "arguments": {"kept": 30}, "standardize": True}
    built = _build(tmp_path, {"data": {"source": "sklearn:digits"}, "model": model}, tmp_path)
    assert built.signature.inputs[0].shape == (64,)
    assert (built.test.y_true == built.test.y_pred).mean() > 0.9
    assert built.background.shape == (100, 64)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"estimator": "sklearn.linear_model:Ridge"}, "is not for a multiclass"),
        ({"estimator": "sklearn.svm:SVC", "arguments": {"c": 1}}, "model.arguments do not fit"),
        ({"estimator": "sklearn.svm:Nothing"}, "sklearn.svm has no 'Nothing'"),
        ({"estimator": "builtins:dict"}, "must be or return an estimator"),
        (
            {"estimator": "sklearn.svm:SVC", "arguments": {"C": -1.0}},
            "SVC cannot be fitted: The 'C' parameter",
        ),
    ],
)
def test_an_estimator_that_does_not_fit_is_refused(
    tmp_path: Path, model: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        _build(tmp_path, {"data": {"source": "sklearn:iris"}, "model": model})
    assert words in refused.value.message


def test_importing_build_and_publishing_code_loads_no_heavy_library() -> None:
    code = (
        "import sys, maas.lifecycle.build, maas.lifecycle.conversion.convert\n"
        "print([m for m in ('torch', 'sklearn', 'onnx', 'onnxruntime', 'pyarrow')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
