"""Objectives of training: losses, optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.data.dataset import Dataset
from maas.lifecycle.data.spec import TrainingSpec
from maas.lifecycle.training.families import ServedModel

_REGRESSION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "huber": functional.huber_loss,
}


@dataclass(frozen=True)
class Objective:
    """A loss, and the width of the network's output that it requires."""

    name: str
    outputs: int
    weights: Tensor | None = None
    """[classes], mean 1 over the training rows"""

    def __call__(self, raw: Tensor, target: Tensor) -> Tensor:
        """The mean loss over rows; `raw` is [n, outputs], `target` as `targets` returns it."""
        if self.name in _REGRESSION:
            return _REGRESSION[self.name](raw, target)
        if self.name == "cross_entropy":
            losses = functional.cross_entropy(raw, target, reduction="none")
        else:
            losses = functional.binary_cross_entropy_with_logits(
                raw[:, 0], target.to(raw.dtype), reduction="none"
            )
        return losses.mean() if self.weights is None else (losses * self.weights[target]).mean()


def make_objective(spec: TrainingSpec, train: Dataset) -> Objective:
    """The loss for the task. Raises InvalidInput if the loss does not fit the task."""
    classes = len(train.class_names)
    default = {Task.REGRESSION: "mse", Task.BINARY: "bce"}.get(train.task, "cross_entropy")
    name = default if spec.loss == "auto" else spec.loss
    fits = {
        Task.REGRESSION: tuple(_REGRESSION),
        Task.BINARY: ("bce", "cross_entropy"),
        Task.MULTICLASS: ("cross_entropy",),
    }[train.task]
    if name not in fits:
        raise InvalidInput(
            f"training.loss for a {train.task} must be one of {', '.join(fits)}; got {name}",
            field="training.loss",
        )
    outputs = 1 if name != "cross_entropy" else classes
    return Objective(name, outputs, _class_weights(spec, train))


def targets(served: ServedModel, data: Dataset) -> Tensor:
    """[n] INT64 classes, or the [n, 1] standardized values of a regression."""
    values = torch.from_numpy(data.y)
    if data.task is not Task.REGRESSION:
        return values
    column = values.to(torch.float32)[:, None]
    return column if served.target is None else served.target(column)


def make_optimizer(spec: TrainingSpec, network: nn.Module) -> torch.optim.Optimizer:
    weights = [p for p in network.parameters() if p.requires_grad]
    if not weights:
        raise InvalidInput("the model has no weights to train", field="model")
    if spec.optimizer == "sgd":
        return torch.optim.SGD(
            weights,
            lr=spec.learning_rate,
            momentum=spec.momentum,
            nesterov=spec.nesterov,
            weight_decay=spec.weight_decay,
        )
    kind = torch.optim.AdamW if spec.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, lr=spec.learning_rate, weight_decay=spec.weight_decay)


def learning_rate(spec: TrainingSpec, epoch: int, reductions: int) -> float:
    """The learning rate of `epoch`, counted from 0; `reductions` counts plateaus of the loss.

    Cosine annealing has no restarts; it is equation 5 of Loshchilov and Hutter, arXiv:1608.03983.
    """
    rate = spec.learning_rate
    if spec.schedule == "step":
        return rate * spec.factor ** (epoch // spec.step_epochs)
    if spec.schedule == "plateau":
        return rate * spec.factor**reductions
    if spec.schedule == "constant":
        return rate
    warmup = min(spec.warmup_epochs, spec.epochs - 1) if spec.schedule == "warmup-cosine" else 0
    if epoch < warmup:
        return rate * (epoch + 1) / (warmup + 1)
    return rate * (1 + math.cos(math.pi * (epoch - warmup) / (spec.epochs - warmup))) / 2


def _class_weights(spec: TrainingSpec, train: Dataset) -> Tensor | None:
    if spec.class_weights == "none":
        return None
    if train.task is Task.REGRESSION:
        raise InvalidInput(
            "training.class_weights are for a classification", field="training.class_weights"
        )
    counts = torch.bincount(torch.from_numpy(train.y), minlength=len(train.class_names))
    if spec.class_weights == "balanced":
        weights = 1.0 / counts.to(torch.float32)
    else:
        weights = torch.tensor(spec.class_weights, dtype=torch.float32)
        if len(weights) != len(train.class_names) or not bool((weights > 0).all()):
            raise InvalidInput(
                f"training.class_weights must be {len(train.class_names)} numbers above 0; "
                f"got {list(spec.class_weights)}",
                field="training.class_weights",
            )
    return weights * counts.sum() / (weights * counts).sum()
