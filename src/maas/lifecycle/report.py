"""Report: everything measured about a version as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from maas.domain.models import Manifest
from maas.lifecycle.evaluate import Evaluation
from maas.lifecycle.explain import Explanation


@dataclass(frozen=True)
class Example:
    """One explained row."""

    explanation: Explanation
    title: str = ""
    """For example `test row 17, true class 3`."""
    image: npt.NDArray[Any] | None = None
    """The row's pixels, if it is an image."""


@dataclass(frozen=True)
class Report:
    """What is known about a version; whatever is missing is left out of the page."""

    manifest: Manifest
    evaluation: Evaluation | None = None
    training: Mapping[str, Any] | None = None
    """{curves: {loss, val_loss: one number per epoch}, epochs, seconds, seed, …}"""
    parity: Mapping[str, Any] | None = None
    """{max_abs_diff, rows, tolerance, passed, …}"""
    examples: tuple[Example, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More lines for the table of facts: version number, data digest, machine, command."""
    created_at: float = 0.0
    """Seconds since the epoch, UTC."""


def render_report(report: Report) -> str:
    """One self-contained HTML document: inline style and pictures, no script, no network."""
    raise NotImplementedError
