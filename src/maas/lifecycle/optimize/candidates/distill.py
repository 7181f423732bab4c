"""Distillation: a smaller member of the same family is trained with the original's outputs."""

from __future__ import annotations

from typing import Any

import msgspec

from maas.domain.machine import library_versions
from maas.lifecycle.data.spec import ModelSpec
from maas.lifecycle.optimize.candidates.fine_tune import TEACHER_SHARE, TEMPERATURE, FineTuner
from maas.lifecycle.optimize.subject import NotApplicable, Training
from maas.lifecycle.training.checkpoints import seed_everything
from maas.lifecycle.training.families import ServedModel, make_served
from maas.lifecycle.training.objectives import make_objective

SMALLEST_WIDTH = 4


def smaller(spec: ModelSpec, factor: float) -> ModelSpec:
    """Spec of the family's member with every hidden width multiplied by `factor`.

    Raises NotApplicable if the model has no smaller member.
    """
    if spec.family not in ("mlp", "cnn") or not (spec.hidden or spec.channels):
        family = spec.family or spec.module or spec.estimator
        raise NotApplicable(f"{family} has no smaller member to distill into; only mlp and cnn do")

    def scaled(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(SMALLEST_WIDTH, round(width * factor)) for width in widths)

    return msgspec.structs.replace(
        spec,
        hidden=scaled(spec.hidden),
        channels=scaled(spec.channels),
        dropout=spec.dropout * factor,
    )


def distill(
    training: Training, tuner: FineTuner, factor: float, epochs: int
) -> tuple[ServedModel, dict[str, Any]]:
    """A trained student, and how it was made."""
    spec = smaller(training.spec.model, factor)
    outputs = make_objective(training.spec.training, training.parts.train).outputs
    seed_everything(tuner.seed)
    student = make_served(spec, training.parts.train, outputs)
    losses = tuner.run(student, epochs, rate=1.0)
    how = {
        "by": "maas.lifecycle.optimize.candidates.distill",
        "settings": {
            "family": spec.family,
            "channels": list(spec.channels),
            "hidden": list(spec.hidden),
            "epochs": epochs,
            "seed": tuner.seed,
            "temperature": TEMPERATURE,
            "teacher_share": TEACHER_SHARE,
            "last_loss": losses[-1] if losses else None,
            "parameters": sum(p.numel() for p in student.parameters()),
        },
        "libraries": library_versions("torch"),
    }
    return student, how
