"""Publications of models of every type, with real conversions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from maas.domain.errors import InvalidInput, UnsafeArtifact
from maas.domain.models import Task
from maas.lifecycle.evaluate import EvaluationRequest, evaluate
from maas.lifecycle.measure import OnnxModel
from maas.lifecycle.prepared_publication import PreparedPublication
from maas.lifecycle.publish import prepare
from maas.lifecycle.publish_inputs import PublishOptions

X, Y = load_iris(return_X_y=True)
CLASSES = ("setosa", "versicolor", "virginica")
FEATURES = ("sepal length", "sepal width", "petal length", "petal width")


@pytest.fixture(scope="module")
def classifier() -> LogisticRegression:
    return LogisticRegression(max_iter=500).fit(X, Y)


@pytest.fixture(scope="module")
def prepared(
    classifier: LogisticRegression, tmp_path_factory: pytest.TempPathFactory
) -> PreparedPublication:
    options = PublishOptions(
        "iris",
        evaluation=(X, Y),
        feature_names=FEATURES,
        class_names=CLASSES,
        metadata={"seed": 1},
    )
    return prepare(classifier, options, tmp_path_factory.mktemp("iris"))


def evidence(prepared: PreparedPublication, kind: str) -> Any:
    return next(e for e in prepared.evidence if e.kind == kind)


def test_the_manifest_has_the_models_signature(prepared: PreparedPublication) -> None:
    manifest = prepared.manifest
    assert manifest.task is Task.MULTICLASS
    assert manifest.signature.inputs[0].labels == FEATURES
    probabilities = next(s for s in manifest.signature.outputs if s.name == "probabilities")
    assert probabilities.labels == CLASSES
    background = manifest.metadata["background"]["x"]
    assert np.allclose(background, X[: len(background)], rtol=1e-5)
    assert manifest.metadata == {"seed": 1, "background": {"x": background}}
    assert set(manifest.signature.example) == {"x"}


def test_files_have_their_paths_and_digests(prepared: PreparedPublication) -> None:
    files = [evidence(prepared, kind).file for kind in ("metrics", "report")]
    named = [*prepared.manifest.files(), *files]
    assert [f for _, f in prepared.files] == named
    for path, file in prepared.files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
        assert path.stat().st_size == file.size


def test_metrics_equal_scikit_learn(
    prepared: PreparedPublication, classifier: LogisticRegression
) -> None:
    metrics = evidence(prepared, "metrics").values["metrics"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(Y, classifier.predict(X)))
    expected = log_loss(Y, classifier.predict_proba(X))
    assert metrics["log_loss"] == pytest.approx(expected, abs=1e-5)


def test_a_publication_is_saved_and_loaded(prepared: PreparedPublication, tmp_path: Path) -> None:
    prepared.save(tmp_path / "kept")
    again = PreparedPublication.load(tmp_path / "kept")
    assert again.manifest == prepared.manifest
    assert again.evidence == prepared.evidence
    assert [f for _, f in again.files] == [f for _, f in prepared.files]
    assert all(path.is_file() and path.parent.name == "kept" for path, _ in again.files)
    with pytest.raises(InvalidInput, match="no finished build"):
        PreparedPublication.load(tmp_path)


def test_a_second_publication_has_the_same_manifest(
    prepared: PreparedPublication, classifier: LogisticRegression, tmp_path: Path
) -> None:
    options = PublishOptions(
        "iris", evaluation=(X, Y), feature_names=FEATURES, class_names=CLASSES, metadata={"seed": 1}
    )
    assert prepare(classifier, options, tmp_path).manifest.digest == prepared.manifest.digest


def test_an_onnx_file_is_published_unchanged(prepared: PreparedPublication, tmp_path: Path) -> None:
    path = prepared.files[0][0]
    options = PublishOptions("iris", evaluation=(X, Y), class_names=CLASSES)
    again = prepare(path, options, tmp_path)
    assert again.manifest.files() == prepared.manifest.files()
    assert again.manifest.task is Task.MULTICLASS
    want = evidence(prepared, "metrics").values["metrics"]["accuracy"]
    assert evidence(again, "metrics").values["metrics"]["accuracy"] == want
    assert again.manifest.signature.example["x"] == pytest.approx(X[0].tolist(), abs=1e-6)


def test_a_regression_needs_only_rows(tmp_path: Path) -> None:
    target = X @ np.array([1.0, -2.0, 0.5, 3.0]) + 1
    options = PublishOptions("line", evaluation=(X, target))
    prepared = prepare(LinearRegression().fit(X, target), options, tmp_path)
    assert prepared.manifest.task is Task.REGRESSION
    assert evidence(prepared, "metrics").values["metrics"]["r2"] == pytest.approx(1.0)


def test_a_given_evaluation_is_used(classifier: LogisticRegression, tmp_path: Path) -> None:
    own = evaluate(EvaluationRequest(Task.MULTICLASS, Y, np.roll(Y, 1), class_names=CLASSES))
    options = PublishOptions("iris", example=X[:3], evaluation=own)
    prepared = prepare(classifier, options, tmp_path)
    assert evidence(prepared, "metrics").values == own.values
    assert own.values["metrics"]["accuracy"] < 1


def test_logits_of_a_network_become_probabilities(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    options = PublishOptions(
        "net", evaluation=(X.astype(np.float32), Y), output_names=("scores",), class_names=CLASSES
    )
    prepared = prepare(net, options, tmp_path)
    signature = prepared.manifest.signature
    assert [s.name for s in signature.outputs] == ["scores"]
    assert signature.outputs[0].labels == CLASSES
    with torch.no_grad():
        logits = net(torch.from_numpy(X.astype(np.float32)))
    metrics = evidence(prepared, "metrics").values["metrics"]
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(Y)).item()
    assert metrics["log_loss"] == pytest.approx(expected, abs=1e-4)
    answer = OnnxModel(prepared.files[0][0])({"x": X[:1].astype(np.float32)})
    assert answer["scores"] == pytest.approx(logits[:1].numpy(), abs=1e-5)


@pytest.mark.parametrize("name", ["net.pt", "net.PTH", "a.pkl", "a.joblib", "weights.bin"])
def test_files_that_can_run_code_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArtifact, match="Load it yourself"):
        prepare(tmp_path / name, PublishOptions("net"), tmp_path)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (object(), {"example": [1]}, "must be an nn.Module"),
        ("model.txt", {}, "path of an .onnx file"),
        ("none.onnx", {}, "there is no file"),
        (LinearRegression(), {}, "an example row is needed"),
        (LinearRegression(), {"evaluation": (X, Y[:3])}, "X has 150 rows and y has 3"),
        (LinearRegression(), {"evaluation": X}, r"must be \(X, y\)"),
        (LinearRegression(), {"example": {"a": [1], "b": [2]}}, "has one input"),
    ],
)
def test_unpublishable_models_are_refused_with_a_reason(
    model: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        prepare(model, PublishOptions("x", **options), tmp_path)


def test_an_unknown_task_is_refused(classifier: LogisticRegression, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="task must be one of"):
        prepare(classifier, PublishOptions("x", example=X[:2], task="clasification"), tmp_path)
