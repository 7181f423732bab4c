"""Fine-tuning of a changed network, with the labels and with the outputs of the original."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd as _Dropout

from maas.domain.models import Task
from maas.lifecycle.data.spec import BuildCancelled
from maas.lifecycle.optimize.subject import Training
from maas.lifecycle.training.checkpoints import seed_everything
from maas.lifecycle.training.families import ServedModel
from maas.lifecycle.training.objectives import (
    learning_rate,
    make_objective,
    make_optimizer,
    targets,
)
from maas.lifecycle.training.trainer import reproducible

TEMPERATURE = 2.0
TEACHER_SHARE = 0.5
"""Weight in the loss of the original's outputs; the labels have the rest."""
EVALUATION_ROWS = 1024
THREADS = 1


@dataclass(frozen=True)
class FineTuner:
    """Trains candidates of one model. Equal calls produce equal weights."""

    training: Training
    seed: int
    progress: Callable[[str], None] = lambda message: None
    cancelled: Callable[[], bool] = lambda: False

    def run(self, served: ServedModel, epochs: int, rate: float) -> list[float]:
        """Trains `served` in place; at the end it has the weights of its best validation loss.

        `rate`: factor of the build's learning rate, which decreases to 0 along half a cosine.
        Returns the mean loss of each epoch. Raises BuildCancelled between batches.
        """
        spec = msgspec.structs.replace(
            self.training.spec.training,
            schedule="cosine",
            epochs=max(1, epochs),
            learning_rate=self.training.spec.training.learning_rate * rate,
        )
        parts, teacher = self.training.parts, self.training.served.eval()
        objective = make_objective(spec, parts.train)
        x, y = torch.from_numpy(parts.train.x), targets(served, parts.train)
        losses: list[float] = []
        best, best_loss = {}, math.inf
        with reproducible(THREADS):
            seed_everything(self.seed)
            optimizer = make_optimizer(spec, served)
            for epoch in range(epochs):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(spec, epoch, 0)
                _train_mode(served)
                total = 0.0
                for rows in torch.split(torch.randperm(len(x)), spec.batch_size):
                    if self.cancelled():
                        raise BuildCancelled("cancelled during the training of a candidate")
                    optimizer.zero_grad()
                    mixtures = mixed(x[rows])
                    teacher_raw = _raw(teacher, mixtures)
                    loss = (1 - TEACHER_SHARE) * objective(served.raw(x[rows]), y[rows])
                    loss = loss + TEACHER_SHARE * distillation_loss(
                        served.raw(mixtures), teacher_raw, parts.train.task
                    )
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    total += loss.item() * len(rows)
                losses.append(total / len(x))
                self.progress(f"epoch {epoch + 1} of {epochs}")
                validation = self._validate(served)
                if validation <= best_loss:
                    best_loss = validation
                    best = {k: v.clone() for k, v in served.state_dict().items()}
        if best:
            served.load_state_dict(best)
        served.eval()
        return losses

    def _validate(self, served: ServedModel) -> float:
        rows = self.training.parts.validation
        if not len(rows):
            return 0.0  # without validation rows the last epoch counts as the best
        objective = make_objective(self.training.spec.training, self.training.parts.train)
        served.eval()
        return float(objective(_raw(served, torch.from_numpy(rows.x)), targets(served, rows)))


def distillation_loss(raw: Tensor, teacher: Tensor, task: Task) -> Tensor:
    """Distance between raw outputs [n, k] and those of the teacher [n, k].

    For classes it is the divergence of both softened distributions, multiplied by the square of the
    temperature (Hinton, Vinyals and Dean, arXiv:1503.02531, section 2).
    """
    if task is Task.REGRESSION:
        return functional.mse_loss(raw, teacher)
    if raw.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(raw, torch.sigmoid(teacher))
    student_log = functional.log_softmax(raw / TEMPERATURE, dim=1)
    target = functional.softmax(teacher / TEMPERATURE, dim=1)
    return functional.kl_div(student_log, target, reduction="batchmean") * TEMPERATURE**2


def _train_mode(served: ServedModel) -> None:
    """Training mode without dropout.

    The teacher is a deterministic function, and a smaller network has no redundant width.
    """
    served.train()
    for layer in served.modules():
        if isinstance(layer, _Dropout):
            layer.eval()


def mixed(x: Tensor) -> Tensor:
    """Random mixtures of each row of `x` [n, …] with another row.

    The teacher has outputs for every point, so the supply of rows is unlimited (Beyer et al.,
    "Knowledge distillation: a good teacher is patient and consistent", arXiv:2106.05237,
    section 3).
    """
    share = torch.rand(len(x), *(1 for _ in x.shape[1:]))
    return share * x + (1 - share) * x[torch.randperm(len(x))]


@torch.no_grad()
def _raw(served: ServedModel, x: Tensor) -> Tensor:
    served.eval()
    return torch.cat([served.raw(rows) for rows in torch.split(x, EVALUATION_ROWS)])
