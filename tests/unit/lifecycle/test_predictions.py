import csv
from pathlib import Path

import numpy as np

from maas.domain.models import Task
from maas.lifecycle.evaluate import EvaluationRequest
from maas.lifecycle.predictions import write_predictions


def read(path: Path) -> dict[str, list[str]]:
    head, *lines = csv.reader(path.open(newline=""))
    return {name: [line[at] for line in lines] for at, name in enumerate(head)}


def test_predictions_are_written_exactly(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((5, 3), dtype=np.float32)
    request = EvaluationRequest(
        task=Task.MULTICLASS,
        y_true=np.array([0, 1, 2, 1, 0]),
        y_pred=np.array([0, 1, 2, 2, 0]),
        y_score=scores,
        slices={"site": np.array(["a", "b, c", 'd"', "", "ü"])},
        weights=np.array([1.0, 0.1, 1e-300, 2.0, 0.0]),
    )
    columns = read(write_predictions(request, tmp_path / "p.csv"))
    assert list(columns) == ["true", "predicted", "score_0", "score_1", "score_2", "slice_site",
                             "weight"]  # fmt: skip
    assert columns["true"] == ["0", "1", "2", "1", "0"]
    for at in range(3):
        np.testing.assert_array_equal(np.array(columns[f"score_{at}"], np.float32), scores[:, at])
    assert columns["slice_site"] == ["a", "b, c", 'd"', "", "ü"]
    assert [float(w) for w in columns["weight"]] == [1.0, 0.1, 1e-300, 2.0, 0.0]


def test_regressions_and_single_scores(tmp_path: Path) -> None:
    several = EvaluationRequest(Task.REGRESSION, np.zeros((2, 2)), np.ones((2, 2)))
    columns = read(write_predictions(several, tmp_path / "p.csv"))
    assert list(columns) == ["true_0", "true_1", "predicted_0", "predicted_1"]
    binary = EvaluationRequest(
        Task.BINARY, np.array([0, 1]), np.array([0, 1]), y_score=np.array([0.25, 0.75])
    )
    columns = read(write_predictions(binary, tmp_path / "p.csv"))
    assert columns == {"true": ["0", "1"], "predicted": ["0", "1"], "score_0": ["0.25", "0.75"]}
