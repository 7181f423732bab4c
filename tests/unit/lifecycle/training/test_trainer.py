from __future__ import annotations

import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maas.domain.errors import InvalidInput
from maas.domain.jobs import Progress
from maas.domain.models import Task
from maas.lifecycle.data.dataset import Dataset, Split, load_dataset, split
from maas.lifecycle.data.spec import BuildCancelled, DataSource, ModelSpec, SplitSpec, TrainingSpec
from maas.lifecycle.training.checkpoints import load_checkpoint
from maas.lifecycle.training.families import Standardize, make_served
from maas.lifecycle.training.objectives import learning_rate, make_objective
from maas.lifecycle.training.trainer import Trained, Trainer

MODEL = ModelSpec(family="mlp", hidden=(8,), dropout=0.3)

# Every kind of state that a resume must bring back: momentum, plateau, dropout, best weights.
SPEC = TrainingSpec(
    epochs=12,
    optimizer="sgd",
    momentum=0.9,
    nesterov=True,
    learning_rate=0.05,
    weight_decay=1e-3,
    batch_size=16,
    schedule="plateau",
    plateau_epochs=1,
    factor=0.5,
    clip_norm=1.0,
    seed=7,
)


def _clouds() -> Split:
    random = np.random.default_rng(0)
    y = np.arange(150) % 3
    x = (random.normal(size=(150, 4)) + y[:, None]).astype(np.float32)
    return split(Dataset(x, y, Task.MULTICLASS, class_names=("a", "b", "c")), SplitSpec())


CLOUDS = _clouds()
SLOW_TRAINING = """
import sys, time
from pathlib import Path
import test_trainer as t

def told(progress):
    print(progress.done, flush=True)

trainer = t.Trainer(t.MODEL, t.SPEC, t.CLOUDS, Path(sys.argv[1]))
trainer.run("same", told, lambda: time.sleep(0.01) is not None)
"""


def _train(
    directory: Path,
    spec: TrainingSpec,
    model: ModelSpec = MODEL,
    parts: Split = CLOUDS,
    stop_after: int | None = None,
) -> tuple[Trained, list[Progress]]:
    reports: list[Progress] = []
    checks = iter(range(10**9))
    trained = Trainer(model, spec, parts, directory / "checkpoint.pt").run(
        "same", reports.append, lambda: stop_after is not None and next(checks) >= stop_after
    )
    return trained, reports


def _weights(trained: Trained) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in trained.model.state_dict().items()}


def test_a_killed_training_resumes_with_the_same_weights(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_TRAINING, str(tmp_path / "checkpoint.pt")],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    for _ in range(4):
        assert child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    resumed, reports = _train(tmp_path, SPEC)
    assert 0 < len(reports) <= 12 - 4, "the training restarted instead of resuming"
    (tmp_path / "undisturbed").mkdir()
    undisturbed, _ = _train(tmp_path / "undisturbed", SPEC)
    assert _weights(resumed) == _weights(undisturbed)
    assert resumed.summary["curves"] == undisturbed.summary["curves"]


@pytest.mark.parametrize("batches", [1, 10, 33])
def test_a_cancelled_training_leaves_a_checkpoint(tmp_path: Path, batches: int) -> None:
    with pytest.raises(BuildCancelled):
        _train(tmp_path, SPEC, stop_after=batches)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt", "same")
    assert checkpoint is not None
    assert checkpoint["state"]["epoch"] * 7 + checkpoint["state"]["batch"] == batches
    resumed, _ = _train(tmp_path, SPEC)
    (tmp_path / "undisturbed").mkdir()
    undisturbed, _ = _train(tmp_path / "undisturbed", SPEC)
    assert _weights(resumed) == _weights(undisturbed)


def test_foreign_and_damaged_checkpoints_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    _train(tmp_path, TrainingSpec(epochs=1))
    assert load_checkpoint(path, "another") is None
    path.write_bytes(path.read_bytes()[:-200])
    assert load_checkpoint(path, "same") is None
    path.write_bytes(b"")
    assert load_checkpoint(path, "same") is None


def test_pickled_objects_in_a_checkpoint_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"fingerprint": "same", "state": _Bomb()}, path)
    assert load_checkpoint(path, "same") is None


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_weights_depend_on_the_seed(tmp_path: Path) -> None:
    weights = []
    for index, seed in enumerate((1, 1, 2)):
        (tmp_path / str(index)).mkdir()
        trained, _ = _train(tmp_path / str(index), TrainingSpec(epochs=2, seed=seed))
        weights.append(_weights(trained))
    assert weights[0] == weights[1] != weights[2]


def test_early_stopping_serves_the_best_epoch(tmp_path: Path) -> None:
    spec = TrainingSpec(epochs=200, learning_rate=0.05, patience=5, seed=1)
    trained, reports = _train(tmp_path, spec)
    curve = trained.summary["curves"]["val_loss"]
    best = int(np.argmin(curve))
    assert trained.summary["stopped"] == "patience"
    assert len(curve) == best + 1 + 5 < 200
    assert trained.summary["best_epoch"] == best + 1
    objective = make_objective(spec, CLOUDS.train)
    with torch.no_grad():
        raw = trained.model.raw(torch.from_numpy(CLOUDS.validation.x))
        loss = objective(raw, torch.from_numpy(CLOUDS.validation.y)).item()
    assert loss == pytest.approx(curve[best], rel=1e-6)
    assert reports[-1].done == reports[-1].total
    assert reports[-1].message.endswith("stopped early")


def test_a_diverging_training_suggests_a_remedy(tmp_path: Path) -> None:
    data = load_dataset(DataSource(source="sklearn:diabetes"))
    spec = TrainingSpec(optimizer="sgd", learning_rate=900.0)
    with pytest.raises(
        InvalidInput, match=r"diverged in epoch \d+, batch \d+: the loss is (nan|inf)"
    ) as e:
        _train(tmp_path, spec, parts=split(data, SplitSpec()))
    assert "Lower training.learning_rate (it is 900; try 90), set training.clip_norm" in str(
        e.value
    )


def test_progress_has_batches_losses_and_remaining_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maas.lifecycle.training.trainer.REPORT_SECONDS", 0.0)
    _, reports = _train(tmp_path, TrainingSpec(epochs=3, batch_size=50))
    # 105 rows are 3 batches; the end of each epoch is told besides.
    assert [p.done for p in reports] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
    assert {p.total for p in reports} == {9}
    assert "val_loss" not in reports[0].values
    assert reports[5].values.keys() == {"loss", "val_loss", "val_accuracy", "learning_rate"}
    assert reports[5].eta_seconds is not None and reports[5].eta_seconds > 0
    assert reports[-1].eta_seconds == 0
    assert reports[5].message == "epoch 2 of 3"


def test_schedules() -> None:
    def rates(schedule: Any, **keys: Any) -> list[float]:
        spec = TrainingSpec(epochs=8, learning_rate=1.0, schedule=schedule, **keys)
        return [learning_rate(spec, epoch, reductions=0) for epoch in range(8)]

    def cosine(at: float, of: int) -> float:
        return (1 + math.cos(math.pi * at / of)) / 2

    assert rates("constant") == [1.0] * 8
    assert rates("step", step_epochs=3, factor=0.5) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert rates("cosine") == pytest.approx([cosine(e, 8) for e in range(8)])
    warm = rates("warmup-cosine", warmup_epochs=2)
    assert warm == pytest.approx([1 / 3, 2 / 3, *(cosine(e, 6) for e in range(6))])
    spec = TrainingSpec(learning_rate=1.0, schedule="plateau", factor=0.5)
    assert learning_rate(spec, 30, reductions=3) == 0.125


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_a_linear_function_is_learned(tmp_path: Path, optimizer: Any, loss: Any) -> None:
    random = np.random.default_rng(0)
    x = (random.normal(size=(400, 3)) * [1, 10, 100] + 5).astype(np.float32)
    y = (x @ np.array([2.0, -0.3, 0.04]) + 1000).astype(np.float32)
    parts = split(Dataset(x, y, Task.REGRESSION), SplitSpec())
    spec = TrainingSpec(
        epochs=30,
        optimizer=optimizer,
        momentum=0.9,
        loss=loss,
        learning_rate=0.02,
        schedule="cosine",
    )
    trained, _ = _train(tmp_path, spec, ModelSpec(family="linear"), parts)
    predicted = trained.model(torch.from_numpy(parts.test.x))
    assert predicted.shape == (80, 1)
    assert np.abs(predicted.detach().numpy()[:, 0] - parts.test.y).max() < 0.02 * y.std()


def _lopsided() -> Split:
    random = np.random.default_rng(0)
    y = (random.random(600) < 0.05).astype(np.int64)
    x = (random.normal(size=(600, 2)) + y[:, None]).astype(np.float32)
    data = Dataset(x, y, Task.BINARY, class_names=("no", "yes"))
    return split(data, SplitSpec())


@pytest.mark.parametrize("loss", ["bce", "cross_entropy"])
def test_balanced_class_weights_improve_the_rare_class(tmp_path: Path, loss: Any) -> None:
    recalls = []
    for weights in ("none", "balanced"):
        (tmp_path / weights).mkdir()
        parts = _lopsided()
        spec = TrainingSpec(
            epochs=30,
            learning_rate=0.02,
            loss=loss,
            class_weights=weights,
        )
        trained, _ = _train(tmp_path / weights, spec, ModelSpec(family="linear"), parts)
        label, probabilities = trained.model(torch.from_numpy(parts.test.x))
        assert probabilities.shape == (120, 2)
        assert torch.allclose(probabilities.sum(dim=1), torch.ones(120))
        assert torch.equal(label, probabilities.argmax(dim=1))
        rare = parts.test.y == 1
        recalls.append((label.numpy()[rare] == 1).mean())
    assert recalls[1] > recalls[0] + 0.3


@pytest.mark.parametrize(
    ("spec", "model", "words"),
    [
        (TrainingSpec(loss="mse"), MODEL, "training.loss for a multiclass-classification must be"),
        (TrainingSpec(loss="bce"), MODEL, "must be one of cross_entropy; got bce"),
        (TrainingSpec(class_weights=(1.0,)), MODEL, "must be 3 numbers above 0"),
        (TrainingSpec(), ModelSpec(family="cnn"), "cnn needs rows of shape [channels, height"),
    ],
)
def test_incompatible_settings_are_refused(
    tmp_path: Path, spec: TrainingSpec, model: ModelSpec, words: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        _train(tmp_path, spec, model)
    assert words in refused.value.message


def test_patience_needs_validation_rows(tmp_path: Path) -> None:
    parts = replace(CLOUDS, validation=CLOUDS.train.take(np.arange(0)))
    with pytest.raises(InvalidInput, match=r"need rows in split\.validation"):
        _train(tmp_path, TrainingSpec(patience=3), parts=parts)
    trained, _ = _train(tmp_path, TrainingSpec(epochs=2), parts=parts)
    assert trained.summary["curves"].keys() == {"loss", "learning_rate"}


def test_the_owners_module_is_checked_before_it_is_trained(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Good(nn.Linear):\n"
        "    def __init__(self, width): super().__init__(width, 3)\n"
        "def other(width): return 5\n"
    )

    def module(entry: str, **arguments: Any) -> ModelSpec:
        return ModelSpec(module=entry, arguments=arguments, directory=str(tmp_path))

    assert make_served(module("net.py:Good", width=4), CLOUDS.train, 3).raw(
        torch.zeros(5, 4)
    ).shape == (5, 3)
    for model, outputs, words in [
        (module("net.py:Good"), 3, "model.arguments do not fit net.py:Good: missing"),
        (module("net.py:Good", width=4), 2, "must answer 2 rows with shape [2, 2]; got [2, 3]"),
        (module("net.py:Good", width=7), 3, "does not take rows of shape [4]"),
        (module("net.py:other", width=4), 3, "must be or return an nn.Module; got int"),
    ]:
        with pytest.raises(InvalidInput) as refused:
            make_served(model, CLOUDS.train, outputs)
        assert words in refused.value.message


def test_standardize_uses_training_rows_and_keeps_constants() -> None:
    layer = Standardize.fitted(CLOUDS.train.x)
    assert layer.mean.numpy() == pytest.approx(CLOUDS.train.x.mean(axis=0))
    assert layer.scale.numpy() == pytest.approx(CLOUDS.train.x.std(axis=0), rel=1e-5)
    constant = Standardize.fitted(np.full((5, 1), 300.0, dtype=np.float32))
    assert constant(torch.tensor([[300.0], [302.0]])).tolist() == [[0.0], [2.0]]
    images = Standardize.fitted(np.random.default_rng(0).normal(size=(9, 2, 4, 4)).astype("f4"))
    assert images.mean.shape == (2, 1, 1)
