"""Training: a PyTorch loop that resumes after a kill with bit-identical results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maas.domain.errors import InvalidInput
from maas.domain.jobs import Progress
from maas.domain.machine import usable_cores
from maas.domain.models import Task
from maas.lifecycle.data.dataset import Split
from maas.lifecycle.data.spec import BuildCancelled, ModelSpec, TrainingSpec
from maas.lifecycle.training.checkpoints import (
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
    seed_everything,
)
from maas.lifecycle.training.families import ServedModel, make_served
from maas.lifecycle.training.objectives import (
    learning_rate,
    make_objective,
    make_optimizer,
    targets,
)

REPORT_SECONDS = 0.2
CHECKPOINT_SECONDS = 30.0
"""Interval of checkpoints within an epoch; every epoch ends with one, too."""
SMALL_NETWORK = 100_000
"""Number of weights below which a second thread costs more than it gains."""
EVALUATION_ROWS = 1024


@dataclass
class TrainingState:
    """State of a training besides weights and random generators."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    """Sum of the losses of this epoch's rows so far."""
    rows: int = 0
    curves: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: int = -1
    best_loss: float = math.inf
    stale: int = 0
    """Epochs since the best validation loss."""
    plateau: int = 0
    """Epochs since the best validation loss or the last reduction of the rate."""
    reductions: int = 0
    seconds: float = 0.0
    stopped: str = ""
    """Why the training ended: `epochs` or `patience`; '' while it runs."""


@dataclass(frozen=True)
class Trained:
    model: ServedModel
    summary: dict[str, Any]


class Trainer:
    """Trains one network on one split."""

    def __init__(
        self, model: ModelSpec, spec: TrainingSpec, parts: Split, checkpoint: Path
    ) -> None:
        """Raises InvalidInput if model, loss, schedule and rows do not fit each other."""
        needs_validation = spec.patience > 0 or spec.schedule == "plateau"
        if needs_validation and not len(parts.validation):
            raise InvalidInput(
                "training.patience and schedule plateau need rows in split.validation; got 0",
                field="split.validation",
            )
        self.spec = spec
        self.checkpoint = checkpoint
        self.state = TrainingState()
        self.best: dict[str, Tensor] = {}
        seed_everything(spec.seed)
        self.objective = make_objective(spec, parts.train)
        self.served = make_served(model, parts.train, self.objective.outputs)
        self.optimizer = make_optimizer(spec, self.served)
        self.x = torch.from_numpy(parts.train.x)
        self.y = targets(self.served, parts.train)
        self.val_x = torch.from_numpy(parts.validation.x)
        self.val_y = targets(self.served, parts.validation)
        self.is_classification = parts.train.task is not Task.REGRESSION
        self.batches = math.ceil(len(self.x) / spec.batch_size)
        self._saved_at = time.monotonic()

    def run(
        self,
        fingerprint: str,
        report: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> Trained:
        """Resumes from the checkpoint if it has this fingerprint, else starts at the beginning.

        Raises InvalidInput if the loss becomes infinite or NaN, BuildCancelled between batches.
        """
        with reproducible(self._threads()):
            self._resume(fingerprint)
            clock = _Clock(self.state, self.batches, self.spec.epochs, report)
            while not self.state.stopped:
                self._epoch(fingerprint, clock, cancelled)
                clock.report(force=True)
        if self.best:
            self.served.load_state_dict(self.best)
        self.served.eval()
        return Trained(self.served, self._summary())

    def _epoch(self, fingerprint: str, clock: _Clock, cancelled: Callable[[], bool]) -> None:
        state, spec = self.state, self.spec
        rate = learning_rate(spec, state.epoch, state.reductions)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # The order depends only on seed and epoch, so that a resumed training repeats it.
        shuffle = torch.Generator().manual_seed(spec.seed * 1_000_003 + state.epoch)
        order = torch.randperm(len(self.x), generator=shuffle)
        self.served.train()
        while state.batch < self.batches:
            if cancelled():
                self._save(fingerprint)
                raise BuildCancelled(
                    f"cancelled in epoch {state.epoch + 1}; the next build resumes from there"
                )
            self._step(order[state.batch * spec.batch_size :][: spec.batch_size])
            clock.report()
            if time.monotonic() - self._saved_at > CHECKPOINT_SECONDS:
                self._save(fingerprint)
        self._finish_epoch(rate)
        state.seconds = clock.seconds
        self._save(fingerprint)

    def _step(self, rows: Tensor) -> None:
        self.optimizer.zero_grad()
        loss = self.objective(self.served.raw(self.x[rows]), self.y[rows])
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        loss.backward()  # type: ignore[no-untyped-call]
        if self.spec.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.served.parameters(), self.spec.clip_norm)
        self.optimizer.step()
        self.state.loss_sum += value * len(rows)
        self.state.rows += len(rows)
        self.state.batch += 1

    def _finish_epoch(self, rate: float) -> None:
        state, spec = self.state, self.spec
        curves = {"loss": state.loss_sum / state.rows, "learning_rate": rate} | self._validate()
        for name, value in curves.items():
            state.curves.setdefault(name, []).append(value)
        state.stale += 1
        state.plateau += 1
        val_loss = curves.get("val_loss")
        if val_loss is not None and val_loss < state.best_loss:
            state.best_loss, state.best_epoch = val_loss, state.epoch
            state.stale = state.plateau = 0
            if spec.restore_best:
                self.best = {k: v.clone() for k, v in self.served.state_dict().items()}
        if spec.schedule == "plateau" and state.plateau >= spec.plateau_epochs:
            state.plateau = 0
            state.reductions += 1
        state.epoch += 1
        state.batch = state.rows = 0
        state.loss_sum = 0.0
        if spec.patience and state.stale >= spec.patience:
            state.stopped = "patience"
        elif state.epoch >= spec.epochs:
            state.stopped = "epochs"

    def _validate(self) -> dict[str, float]:
        if not len(self.val_x):
            return {}
        self.served.eval()
        total = correct = 0.0
        with torch.no_grad():
            for start in range(0, len(self.val_x), EVALUATION_ROWS):
                y = self.val_y[start : start + EVALUATION_ROWS]
                raw = self.served.raw(self.val_x[start : start + EVALUATION_ROWS])
                total += self.objective(raw, y).item() * len(y)
                if self.is_classification:
                    predicted = (raw[:, 0] > 0).long() if raw.shape[1] == 1 else raw.argmax(dim=1)
                    correct += (predicted == y).sum().item()
        rows = len(self.val_x)
        if not math.isfinite(total):
            raise self._diverged(f"the validation loss is {total}")
        losses = {"val_loss": total / rows}
        return losses | {"val_accuracy": correct / rows} if self.is_classification else losses

    def _diverged(self, cause: str) -> InvalidInput:
        clip = "" if self.spec.clip_norm else ", set training.clip_norm = 1.0"
        return InvalidInput(
            f"the training diverged in epoch {self.state.epoch + 1}, batch "
            f"{self.state.batch + 1}: {cause}. Lower training.learning_rate (it is "
            f"{self.spec.learning_rate:g}; try {self.spec.learning_rate / 10:g}){clip}, or check "
            "the data for extreme values",
            field="training.learning_rate",
        )

    def _save(self, fingerprint: str) -> None:
        state = {
            "fingerprint": fingerprint,
            "state": asdict(self.state),
            "model": self.served.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "random": random_states(),
        }
        save_checkpoint(self.checkpoint, state)
        self._saved_at = time.monotonic()

    def _resume(self, fingerprint: str) -> None:
        checkpoint = load_checkpoint(self.checkpoint, fingerprint)
        if checkpoint is None:
            return
        self.served.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.state = TrainingState(**checkpoint["state"])
        self.best = checkpoint["best"]
        restore_random_states(checkpoint["random"])

    def _threads(self) -> int:
        weights = sum(p.numel() for p in self.served.parameters())
        return self.spec.threads or (1 if weights < SMALL_NETWORK else min(8, usable_cores()))

    def _summary(self) -> dict[str, Any]:
        state = self.state
        return {
            "curves": state.curves,
            "loss": self.objective.name,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch + 1 if self.best else state.epoch,
            "stopped": state.stopped,
            "seconds": round(state.seconds, 3),
            "weights": sum(p.numel() for p in self.served.parameters()),
        }


class _Clock:
    """Periodic progress reports with an estimate of the remaining time."""

    def __init__(
        self, state: TrainingState, batches: int, epochs: int, report: Callable[[Progress], None]
    ) -> None:
        self._state, self._batches, self._epochs, self._report = state, batches, epochs, report
        self._began = self._reported_at = time.monotonic()
        self._before = state.seconds
        self._first = self._done()

    @property
    def seconds(self) -> float:
        """Duration of this training, including the finished epochs before an interruption."""
        return self._before + time.monotonic() - self._began

    def report(self, *, force: bool = False) -> None:
        """Reports the progress unless it was reported less than REPORT_SECONDS ago."""
        now = time.monotonic()
        if not force and now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        state, done, total = self._state, self._done(), self._epochs * self._batches
        values = {name: values[-1] for name, values in state.curves.items()}
        if state.rows:
            values["loss"] = state.loss_sum / state.rows
        steps = done - self._first
        eta = (now - self._began) / steps * (total - done) if steps else None
        ended = state.stopped == "patience"
        self._report(
            Progress(
                done=done,
                total=done if ended else total,
                message=f"epoch {min(state.epoch + bool(state.batch), self._epochs)} "
                f"of {self._epochs}" + (", stopped early" if ended else ""),
                values=values,
                eta_seconds=0.0 if ended else eta,
            )
        )

    def _done(self) -> int:
        return self._state.epoch * self._batches + self._state.batch


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Makes torch deterministic for a given seed within the block, on `threads` threads."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(threads)
    # As use_deterministic_algorithms(True), which loads a compiler that is not needed (2 s).
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
