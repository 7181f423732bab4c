"""Explain: how much each input entry moved one answer away from the background's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.signature import Signature

Array = npt.NDArray[Any]
Predict = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""From named inputs [n, …] to named outputs [n, …], for at most `batch_rows` rows a call."""


@dataclass(frozen=True)
class ExplainRequest:
    """One row to explain."""

    signature: Signature
    row: Mapping[str, Any]
    """Every input's value, in its per-row shape or as a batch of one row: arrays or lists."""
    background: Mapping[str, Any] | None = None
    """Rows [m, …] of the inputs to compare with (m may be 1: a mean row); None: all zeros.
    An input that is left out keeps the row's value and is not explained."""
    output: str | None = None
    """Default: the first floating-point output."""
    target: int | str | None = None
    """Entry of the output, by index or label. Default: the largest."""
    samples: int = 2048
    """Most rows that the model is asked about; more samples, smaller standard errors."""
    seed: int = 0
    batch_rows: int = 64
    """Most rows in one call of `predict`."""
    image_shape: tuple[int, ...] | None = None
    """[height, width], [channels, height, width] or [height, width, channels] of an image that
    arrives as a flat vector; inputs of rank 2 and 3 are taken for images by themselves."""


@dataclass(frozen=True)
class Attribution:
    """One player of the Shapley game: an input entry, or a group of entries that move together."""

    name: str
    input: str
    entries: tuple[int, ...]
    """Flat indices within the input's row."""
    shapley: float
    """In the output's units."""
    standard_error: float
    value: float
    """The row's value (a group's mean)."""
    background: float
    """The background's mean value."""
    units: str | None = None


@dataclass(frozen=True)
class Explanation:
    """Shapley values of one answer, and how they were obtained."""

    output: str
    target: int
    """Flat index within the output."""
    label: str | None
    """The target's name, if the output's entries have names."""
    units: str | None
    prediction: float
    baseline: float
    """Mean output over the background rows."""
    attributions: tuple[Attribution, ...]
    additivity_error: float
    """prediction − baseline − sum of the Shapley values, as measured."""
    calls: int
    rows: int
    permutations: int
    background_rows: int
    seed: int
    method: str
    image: dict[str, Any] | None = None
    """{input, height, width, channels, layout, patch: [height, width]} if an input is an image"""

    def top(self, count: int | None = None) -> list[Attribution]:
        """Attributions by falling absolute value."""
        return sorted(self.attributions, key=lambda a: -abs(a.shapley))[:count]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Explanation:
        players = tuple(
            Attribution(**{**a, "entries": tuple(a["entries"])}) for a in raw["attributions"]
        )
        return cls(**{**raw, "attributions": players})


def explain(request: ExplainRequest, predict: Predict) -> Explanation:
    """Shapley values by antithetic permutation sampling; see docs/explanation/shapley.md.

    Raises InvalidInput that names the field at fault; errors of `predict` pass through.
    """
    raise NotImplementedError
