"""Predictions of every evaluated row in a CSV file, which is attached to the metrics.

The file is enough to recompute the metrics, or to compute others, without the data and the model.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.lifecycle.evaluate import EvaluationRequest

NAME = "predictions.csv"


def write_predictions(request: EvaluationRequest, path: Path) -> Path:
    """Writes a CSV file with a line per row.

    Its columns are `true`, `predicted`, and those of `score_0`, … (one per class, in the order of
    the classes), `slice_<name>` and `weight` that the request has. A regression with several
    targets has `true_0`, …, `predicted_0`, … instead. Numbers are written exactly.
    """
    columns = [
        *_columns("true", request.y_true),
        *_columns("predicted", request.y_pred),
        *(_columns("score", _wide(request.y_score)) if request.y_score is not None else ()),
        *((f"slice_{name}", values.tolist()) for name, values in request.slices.items()),
        *(_columns("weight", request.weights) if request.weights is not None else ()),
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(name for name, _ in columns)
        writer.writerows(zip(*(values for _, values in columns), strict=True))
    return path


def _columns(name: str, values: npt.NDArray[Any]) -> Iterable[tuple[str, list[Any]]]:
    if values.ndim == 1:
        return [(name, values.tolist())]
    return [(f"{name}_{at}", column.tolist()) for at, column in enumerate(values.T)]


def _wide(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scores as [n, classes]; a single score per row becomes one column."""
    return scores[:, np.newaxis] if scores.ndim == 1 else scores
