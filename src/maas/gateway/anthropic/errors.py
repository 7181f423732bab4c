"""Errors in the shape of the Anthropic Messages protocol."""

from __future__ import annotations

import json

import msgspec

from maas.domain.errors import MaasError
from maas.gateway.http.request import JSON
from maas.gateway.text.error_status import status_of
from maas.protocols.anthropic import AnthropicError, AnthropicErrorDetails

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By status; other types depend on whether the status is below 500."""


def error_body(error: MaasError) -> AnthropicError:
    status = status_of(error)
    default_type = "api_error" if status >= 500 else "invalid_request_error"
    kind = _TYPES.get(status, default_type)
    return AnthropicError("error", AnthropicErrorDetails(kind, error.message))


def anthropic_shape(error: MaasError, request_id: str) -> tuple[int, bytes, bytes]:
    """Status, content type and body of an error response."""
    body = error_body(error)
    if request_id:
        body.request_id = request_id
    # `json` escapes an unpaired surrogate that a message may quote; msgspec would raise.
    return status_of(error), JSON, json.dumps(msgspec.to_builtins(body)).encode()
