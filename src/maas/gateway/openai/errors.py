"""Errors in the shape of OpenAI's protocols."""

from __future__ import annotations

import json

import msgspec

from maas.domain.errors import ContextLengthExceeded, MaasError
from maas.gateway.http.request import JSON
from maas.gateway.text.error_status import status_of
from maas.protocols.openai_responses import ErrorDetails, OpenAIError

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""By status; other types depend on whether the status is below 500."""
_CODES = {"unauthenticated": "invalid_api_key", "overloaded": "rate_limit_exceeded"}
"""By our code, the protocol's code for the same error."""


def error_body(error: MaasError) -> OpenAIError:
    status = status_of(error)
    default_type = "server_error" if status >= 500 else "invalid_request_error"
    field = error.details.get("field")
    if field is None and isinstance(error, ContextLengthExceeded):
        field = "messages"
    return OpenAIError(
        ErrorDetails(
            message=error.message,
            type=_TYPES.get(status, default_type),
            param=field,
            code=_CODES.get(error.code, error.code),
        )
    )


def openai_shape(error: MaasError, request_id: str) -> tuple[int, bytes, bytes]:
    """Status, content type and body of an error response."""
    # `json` escapes an unpaired surrogate that a message may quote; msgspec would raise.
    return status_of(error), JSON, json.dumps(msgspec.to_builtins(error_body(error))).encode()
