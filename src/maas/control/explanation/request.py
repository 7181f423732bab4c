"""The request for an explanation, and how an explanation calls its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maas.serving.wire.tensors import Tensors

DEFAULT_SAMPLES = 2048

PredictRows = Callable[[Tensors, int], Tensors]
"""From named tensors and their number of rows to the model's outputs; blocks."""


@dataclass(frozen=True)
class RowToExplain:
    """One row of inputs whose output a client wants explained."""

    inputs: dict[str, Any]
    output: str | None = None
    target: int | str | None = None
    """Element of the output: its index or its label."""
    samples: int = DEFAULT_SAMPLES
    seed: int = 0
    background: dict[str, Any] | None = None
    """Background rows: a list of values per input."""
