"""Request bodies: limited while they arrive, then parsed as strict JSON."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request

from maas.domain.errors import BodyTooLarge, InvalidInput, MalformedBody, UnsupportedMediaType
from maas.domain.names import shown
from maas.serving.wire.json_tensors import parse_json

MAX_JSON_BYTES = 4 << 20
INLINE_BYTES = 64 << 10
"""A larger body is parsed in a thread, so that it does not block the event loop."""
MAX_DEPTH = 64
"""Deepest nesting of a JSON body, far below the limit of recursive code."""
MAX_INTEGER = 1 << 63


async def read_json(request: Request, limit: int = MAX_JSON_BYTES) -> Any:
    """The body as a JSON value. Raises UnsupportedMediaType, BodyTooLarge or MalformedBody."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType(
            f"expected content-type application/json; got {shown(kind) if kind else 'none'}"
        )
    check_length(request, limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large(limit)
    # FastAPI reads the body before it reads its JSON.
    request._body = bytes(body)
    if len(body) > INLINE_BYTES:
        return await asyncio.to_thread(checked_json, request._body)
    return checked_json(request._body)


def check_length(request: Request, limit: int) -> None:
    """Raises BodyTooLarge for a Content-Length above `limit`, before the body is read."""
    length = request.headers.get("content-length")
    if length is not None and (not length.isdigit() or int(length[:20]) > limit):
        raise too_large(limit)


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body must have at most {limit} bytes", limit=limit)


def checked_json(body: bytes) -> Any:
    """The JSON value. Raises MalformedBody or InvalidInput for values that the database cannot
    store and for nesting that is too deep."""
    value = parse_json(body)
    level = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
                if any("\x00" in key for key in item):
                    raise InvalidInput("a name in the body contains a NUL character")
            elif isinstance(item, list):
                deeper.extend(item)
            elif isinstance(item, int) and not -MAX_INTEGER <= item < MAX_INTEGER:
                raise MalformedBody("the body has an integer beyond 64 bits")
            elif isinstance(item, str) and "\x00" in item:
                raise InvalidInput("a string in the body contains a NUL character")
        if not deeper:
            return value
        level = deeper
    raise MalformedBody(f"the body is nested more than {MAX_DEPTH} levels deep")
