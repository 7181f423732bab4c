"""Pictures of explanations and training: terminal bars, SVG bars, heat maps, loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from maas.lifecycle.explain import Explanation


def terminal_bars(
    explanation: Explanation, *, width: int = 80, count: int = 12, color: bool = False
) -> str:
    """The strongest attributions as lines of text; `color` adds ANSI colors."""
    raise NotImplementedError


def heat_map_png(explanation: Explanation, image: npt.ArrayLike, *, side: int = 320) -> bytes:
    """The image and, beside it, what each part added (orange) or took away (blue)."""
    raise NotImplementedError


def loss_curves_svg(curves: Mapping[str, Sequence[float]], **options: Any) -> str:
    """Training and validation loss over the epochs as a stand-alone SVG document."""
    raise NotImplementedError
