"""Pruned and distilled networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.lifecycle.data.spec import BuildCancelled, ModelSpec
from maas.lifecycle.optimize.candidates.distill import distill, smaller
from maas.lifecycle.optimize.candidates.fine_tune import FineTuner, distillation_loss
from maas.lifecycle.optimize.candidates.prune import (
    last_layer,
    multiply_adds,
    prune_structured,
    prune_unstructured,
)
from maas.lifecycle.optimize.subject import NotApplicable, Subject, Training

EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def training(subject: Subject) -> Training:
    assert subject.training is not None
    return subject.training


def accuracy(network: nn.Module, subject: Subject) -> float:
    served = copy.deepcopy(training(subject).served)
    served.network = network
    with torch.no_grad():
        label, _ = served.eval()(torch.from_numpy(subject.rows.inputs["x"]))
    return float(np.mean(label.numpy() == subject.rows.y))


class Residual(nn.Module):
    """A sum whose two sides must keep the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(x + self.second(x))
        return self.head(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def needs_torch_pruning() -> None:
    pytest.importorskip("torch_pruning", reason="torch-pruning is an extra")


def test_structured_pruning_makes_the_network_smaller_and_leaves_the_original() -> None:
    network = Residual()
    before = {name: tuple(p.shape) for name, p in network.named_parameters()}
    counts: list[int] = []
    pruned = prune_structured(
        network,
        EXAMPLE,
        0.5,
        fine_tune=lambda m: counts.append(sum(p.numel() for p in m.parameters())),
    )
    assert {name: tuple(p.shape) for name, p in network.named_parameters()} == before
    count, remaining = pruned.parameters
    assert remaining == sum(p.numel() for p in pruned.module.parameters()) <= 0.5 * count
    assert pruned.multiply_adds[1] < pruned.multiply_adds[0]
    assert pruned.module(EXAMPLE).shape == (2, 10)
    assert len(counts) == 3 and counts == sorted(counts, reverse=True) and counts[-1] == remaining
    shapes = {name: tuple(p.shape) for name, p in pruned.module.named_parameters()}
    assert shapes["first.weight"][0] == shapes["second.weight"][0] == shapes["head.weight"][1]


def test_a_network_without_hidden_layers_is_not_pruned() -> None:
    with pytest.raises(NotApplicable, match="hidden layer"):
        prune_structured(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), EXAMPLE, 0.5)
    with pytest.raises(InvalidInput, match="keep must be between 0 and 1"):
        prune_structured(Residual(), EXAMPLE, 1.0)


def test_unstructured_pruning_keeps_the_size_and_notes_it() -> None:
    pruned = prune_unstructured(Residual(), 0.8)
    weights = [p for n, p in pruned.module.named_parameters() if n.endswith("weight")]
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert zeros / sum(w.numel() for w in weights) == pytest.approx(0.8, abs=0.01)
    assert pruned.parameters[0] == pruned.parameters[1]
    assert "neither smaller nor faster" in pruned.how["note"]
    assert [round(s["sparsity"], 3) for s in pruned.schedule] == [0.563, 0.770, 0.8]


def test_the_last_layer_is_the_one_that_runs_last() -> None:
    network = Residual()
    assert last_layer(network, EXAMPLE) is network.head


def test_fine_tuning_recovers_the_loss_of_pruning(digits: Subject) -> None:
    served = training(digits).served
    example = served.inputs(torch.from_numpy(training(digits).parts.train.x[:2]))
    pruned = prune_structured(served.network, example, 0.3, steps=1)
    tuned = copy.deepcopy(served)
    tuned.network = copy.deepcopy(pruned.module)
    losses = FineTuner(training(digits), seed=0).run(tuned, 3, 0.5)
    assert losses[-1] < losses[0]
    assert accuracy(tuned.network, digits) > accuracy(pruned.module, digits)


def test_equal_calls_train_equal_weights(digits: Subject) -> None:
    def once() -> list[float]:
        tuned = copy.deepcopy(training(digits).served)
        return FineTuner(training(digits), seed=3).run(tuned, 1, 0.5)

    assert once() == once()


def test_cancellation_stops_the_training(digits: Subject) -> None:
    tuner = FineTuner(training(digits), seed=0, cancelled=lambda: True)
    with pytest.raises(BuildCancelled):
        tuner.run(copy.deepcopy(training(digits).served), 1, 0.5)


def test_a_student_is_smaller_and_learns_the_outputs_of_the_teacher(digits: Subject) -> None:
    student, how = distill(training(digits), FineTuner(training(digits), seed=0), 0.5, 6)
    teacher = training(digits).served
    assert sum(p.numel() for p in student.parameters()) < 0.5 * sum(
        p.numel() for p in teacher.parameters()
    )
    assert accuracy(student.network, digits) > 0.8
    assert how["settings"]["channels"] == [8, 16]


def test_only_families_have_smaller_members() -> None:
    with pytest.raises(NotApplicable, match="only mlp and cnn do"):
        smaller(ModelSpec(module="net.py:Net"), 0.5)


def test_the_distillation_loss_is_least_for_equal_outputs() -> None:
    teacher = torch.tensor([[2.0, 0.0, -1.0]])
    other = torch.tensor([[0.0, 2.0, -1.0]])
    assert distillation_loss(teacher, teacher, Task.MULTICLASS).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(other, teacher, Task.MULTICLASS).item() > 0.1
    # Shifted logits are the same distribution.
    assert distillation_loss(teacher + 5, teacher, Task.MULTICLASS).item() == pytest.approx(
        0, abs=1e-5
    )


def test_multiply_adds_match_the_formula() -> None:
    # 8×8 outputs, kernels of 3×3: 1 → 32 and 32 → 32 channels; then 32 → 10.
    assert multiply_adds(Residual(), EXAMPLE) == 64 * 9 * (32 + 32 * 32) + 320
