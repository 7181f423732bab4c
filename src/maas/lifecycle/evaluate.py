"""Evaluate: from predictions on rows that were held back to metrics with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.models import Evidence, Task

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EvaluationRequest:
    """What a model said about n rows, and what was true."""

    task: Task
    y_true: Array
    """[n]; class index for a classification; [n] or [n, targets] numbers for a regression"""
    y_pred: Array
    """like y_true"""
    y_score: npt.NDArray[np.floating[Any]] | None = None
    """Classification: [n, classes]; binary also [n] or [n, 1], the score of class 1.
    Probabilities for log loss, Brier and calibration; any score for the ranking metrics."""
    class_names: tuple[str, ...] = ()
    slices: Mapping[str, Array] = field(default_factory=dict)
    """By slice name: [n] of str, the group that each row belongs to."""
    weights: npt.NDArray[np.floating[Any]] | None = None
    """[n], ≥ 0, how much each row counts; None: all the same."""
    units: str = ""
    """Of a regression's target."""
    seed: int = 0
    resamples: int = 1000
    """Bootstrap resamples; 0: no intervals."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics as JSON values, and how they were obtained.

    `values` has: metrics {name: number or None}, intervals {name: [low, high]}, undefined
    {name: reason}, notes {name: remark}, slices [{slice, value, rows, metrics, intervals,
    undefined}]. A classification adds classes, per_class, confusion, calibration, curves; a
    regression adds sample (true and predicted values) and residuals (a histogram).
    """

    task: Task
    values: dict[str, Any]
    how: dict[str, Any]
    """rows, seed, resamples, confidence, method"""

    def evidence(self) -> Evidence:
        return Evidence(kind="metrics", values=self.values, how=self.how)

    def to_dict(self) -> dict[str, Any]:
        return {"task": str(self.task), "values": self.values, "how": self.how}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Evaluation:
        return cls(Task(raw["task"]), dict(raw["values"]), dict(raw["how"]))


def evaluate(request: EvaluationRequest) -> Evaluation:
    """All metrics that the task and the given arrays allow.

    Raises InvalidInput that names the array whose length, range or finiteness is wrong.
    """
    raise NotImplementedError
