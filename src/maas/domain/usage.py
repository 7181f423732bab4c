"""Usage: what a key used, counted where the answer leaves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Totals of one key on one deployment on one day (UTC)."""

    key_id: str
    deployment: str
    operation: str
    """predict | explain"""
    day: str
    """YYYY-MM-DD"""
    requests: int
    """Answers with status 200."""
    rows: int
    errors: int
    """Requests that were refused or failed after the key was known."""
    compute_us: int
    """Share of the model's run time, microseconds."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
