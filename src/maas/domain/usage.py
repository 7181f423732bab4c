"""Usage of a key, counted when a gateway sends the answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Totals of one key for one deployment, operation and day (UTC)."""

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
    """Requests that were refused or failed after authentication."""
    compute_us: int
    """Share of the model's run time, microseconds."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """As the engine counted them, including answers whose client disconnected."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
