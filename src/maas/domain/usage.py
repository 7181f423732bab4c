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
    """predict | explain | chat | completions | embeddings | transcriptions | messages | rerank"""
    day: str
    """YYYY-MM-DD"""
    requests: int
    """Answers with status 200."""
    rows: int
    errors: int
    """Requests that were refused or failed after the key was known."""
    compute_us: int
    """Share of the model's run time, microseconds."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """As the engines counted them; also those of answers that nobody waited for."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
