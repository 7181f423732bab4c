"""HTTP status of errors in the protocols of OpenAI and Anthropic."""

from __future__ import annotations

from maas.domain.errors import InvalidInput, MaasError, Overloaded


def status_of(error: MaasError) -> int:
    """400 for an invalid request and 429 for overload, as the protocols' clients expect."""
    if isinstance(error, InvalidInput):
        return 400
    return 429 if isinstance(error, Overloaded) else error.status
