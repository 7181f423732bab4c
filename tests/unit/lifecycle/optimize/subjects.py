"""Subjects for optimizations: small models for scikit-learn's digits, built as by a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maas.lifecycle.build import build
from maas.lifecycle.data.dataset import load_dataset, split
from maas.lifecycle.data.spec import BuildSpec
from maas.lifecycle.measure import named_rows
from maas.lifecycle.optimize.results import Candidate, EvaluationRows
from maas.lifecycle.optimize.subject import Subject, Training, calibration_rows

EPOCHS = 3


def _digits_spec(**model: Any) -> BuildSpec:
    network = {"family": "cnn", "channels": [16, 32], "hidden": [64]} | model
    return BuildSpec.from_dict(
        {
            "data": {"source": "sklearn:digits"},
            "model": network,
            "training": {"epochs": EPOCHS, "learning_rate": 0.005, "batch_size": 64},
        }
    )


def digits_subject(folder: Path, **model: Any) -> Subject:
    spec = _digits_spec(**model)
    built = build(spec, workdir=folder)
    parts = split(load_dataset(spec.data), spec.split)
    return Subject(
        original=Candidate("onnx", "onnx", {"model.onnx": built.onnx_path}),
        signature=built.signature,
        rows=EvaluationRows(
            inputs=named_rows(built.signature, parts.test.x),
            y=parts.test.y,
            task=parts.test.task,
            class_names=parts.test.class_names,
            digest=parts.test.digest,
        ),
        calibration=calibration_rows(built.signature, parts),
        training=Training(built.model, spec, parts) if not spec.model.estimator else None,
        estimator=built.model if spec.model.estimator else None,
        how={"skipped": "not in tests"},
    )
