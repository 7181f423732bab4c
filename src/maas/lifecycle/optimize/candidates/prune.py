"""Pruning of whole channels, which makes a network smaller, or of weights, which does not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.nn.utils import prune as torch_prune

from maas.domain.errors import InvalidInput
from maas.domain.machine import library_versions
from maas.lifecycle.optimize.candidates.libraries import require
from maas.lifecycle.optimize.subject import NotApplicable

SUBSTEPS = 64
"""Number of steps to the largest channel ratio; small steps meet a target closely."""
LARGEST_RATIO = 0.95
WIDE = 32
"""Networks with at least this many channels keep multiples of 8, the width of vector units."""
NO_SPEED = (
    "zeros are stored and multiplied like other numbers: unstructured pruning makes a model "
    "neither smaller nor faster; it shows how much of it is redundant"
)
Step = Callable[[nn.Module], None]


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned copy of a network."""

    module: nn.Module
    parameters: tuple[int, int]
    """Number before and after."""
    multiply_adds: tuple[int, int]
    """Number per row, before and after."""
    schedule: list[dict[str, float]]
    """Result of each step: {parameters: fraction of the original's}, or {sparsity}."""
    how: dict[str, Any] = field(default_factory=dict)


def prune_structured(
    module: nn.Module,
    example: Tensor,
    keep: float,
    *,
    steps: int = 3,
    fine_tune: Step = lambda module: None,
) -> PrunedNetwork:
    """A copy of `module` without its least important channels.

    `example`: at least one row of input. `keep`: largest fraction of the parameters to keep, which
    is reached in `steps` equal steps with a call of `fine_tune` after each. A dependency graph
    groups channels that must be removed together, and the importance of a group is its L2 norm
    (Fang et al., "DepGraph", arXiv:2301.12900). The output layer keeps its width.

    Raises InvalidInput if `keep` is not between 0 and 1. Raises NotApplicable if torch-pruning is
    missing, if the network has no hidden layer, or if `keep` cannot be reached.
    """
    require("torch-pruning", "optimize")
    import torch_pruning as tp  # noqa: PLC0415

    if not 0 < keep < 1:
        raise InvalidInput(f"keep must be between 0 and 1; got {keep}", field="keep")
    smaller = copy.deepcopy(module).eval()
    weights = [m for m in smaller.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    last = last_layer(smaller, example)
    if len(weights) < 2:
        raise NotApplicable("structured pruning needs a network with a hidden layer")
    before = multiply_adds(smaller, example), _parameters(smaller)
    narrowest = min(_width(layer) for layer in weights if layer is not last)
    round_to = 8 if narrowest >= WIDE else None
    pruner = tp.pruner.BasePruner(
        smaller,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=LARGEST_RATIO,
        iterative_steps=SUBSTEPS,
        ignored_layers=[last],
        round_to=round_to,
    )
    schedule = []
    for step in range(1, steps + 1):
        target = before[1] * (1 - (1 - keep) * step / steps)
        _prune_to(pruner, smaller, target)
        fine_tune(smaller)
        schedule.append({"parameters": _parameters(smaller) / before[1]})
    after = multiply_adds(smaller.eval(), example), _parameters(smaller)
    if after[1] > before[1] * keep:
        raise NotApplicable(
            f"pruning left {after[1]} of {before[1]} parameters, more than {keep:.0%}"
        )
    how = {
        "by": "torch_pruning.pruner.BasePruner",
        "settings": {"importance": "group L2", "keep": keep, "steps": steps, "round_to": round_to},
        "libraries": library_versions("torch", "torch-pruning"),
    }
    return PrunedNetwork(smaller, (before[1], after[1]), (before[0], after[0]), schedule, how)


def prune_unstructured(
    module: nn.Module,
    sparsity: float,
    *,
    steps: int = 3,
    fine_tune: Step = lambda module: None,
) -> PrunedNetwork:
    """A copy of `module` whose smallest weights are 0; it is neither smaller nor faster.

    The share of zeros increases to `sparsity` along a cubic curve (Zhu and Gupta, arXiv:1710.01878,
    equation 1), with a call of `fine_tune` after each step. Biases are not pruned.
    """
    if not 0 < sparsity < 1:
        raise InvalidInput(f"sparsity must be between 0 and 1; got {sparsity}", field="sparsity")
    sparse = copy.deepcopy(module)
    weights = [(m, "weight") for m in sparse.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if not weights:
        raise NotApplicable("the network has no convolution or linear layer to prune")
    schedule, current = [], 0.0
    for step in range(1, steps + 1):
        target = sparsity * (1 - (1 - step / steps) ** 3)
        torch_prune.global_unstructured(
            weights,
            pruning_method=torch_prune.L1Unstructured,
            amount=(target - current) / (1 - current),
        )
        current = target
        fine_tune(sparse)
        schedule.append({"sparsity": target})
    for layer, name in weights:
        torch_prune.remove(layer, name)  # type: ignore[no-untyped-call]
    count = _parameters(sparse)
    how = {
        "by": "torch.nn.utils.prune.global_unstructured",
        "settings": {"method": "L1", "sparsity": sparsity, "steps": steps},
        "libraries": library_versions("torch"),
        "note": NO_SPEED,
    }
    return PrunedNetwork(sparse, (count, count), (0, 0), schedule, how)


def last_layer(module: nn.Module, example: Tensor) -> nn.Module:
    """The convolution or linear layer that runs last and produces the output."""
    layers = _executed_layers(module, example)
    if not layers:
        raise NotApplicable("the network has no convolution or linear layer to prune")
    return layers[-1][0]


def multiply_adds(module: nn.Module, example: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers for one row."""
    total = 0
    for layer, shape in _executed_layers(module, example[:1]):
        positions = math.prod(shape[2:]) if isinstance(layer, nn.Conv2d) else 1
        total += layer.weight.numel() * positions
    return total


def _executed_layers(
    module: nn.Module, example: Tensor
) -> list[tuple[nn.Conv2d | nn.Linear, Size]]:
    """Convolutions and linear layers in order of execution, with the shapes of their outputs."""
    executed: list[tuple[nn.Conv2d | nn.Linear, Size]] = []

    def record(layer: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            executed.append((layer, output.shape))

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return executed


def _prune_to(pruner: Any, module: nn.Module, target: float) -> None:
    while _parameters(module) > target and pruner.current_step < SUBSTEPS:
        pruner.step()


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _width(layer: nn.Module) -> int:
    return int(layer.weight.shape[0])  # type: ignore[index]
