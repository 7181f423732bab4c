"""Bodies of requests: bounded while they arrive, and strict JSON once they are here."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request

from maas.domain.errors import BodyTooLarge, InvalidInput, MalformedBody, UnsupportedMediaType
from maas.domain.names import shown
from maas.serving.wire.json_tensors import parse_json

MAX_JSON_BYTES = 4 << 20
INLINE_BYTES = 64 << 10
"""A larger body is parsed in a thread, so that the event loop goes on."""
MAX_DEPTH = 64
"""Deepest nesting of a JSON body; well within what code that walks it recursively can take."""
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
    # FastAPI asks for the body before it asks for its JSON.
    request._body = bytes(body)
    if len(body) > INLINE_BYTES:
        return await asyncio.to_thread(checked_json, request._body)
    return checked_json(request._body)


def check_length(request: Request, limit: int) -> None:
    """Refuse by the announced length, before anything of the body was read."""
    announced = request.headers.get("content-length")
    if announced is not None and (not announced.isdigit() or int(announced[:20]) > limit):
        raise too_large(limit)


def too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body may have at most {limit} bytes", limit=limit)


def checked_json(body: bytes) -> Any:
    """The JSON value; refuses what later code, or the database, could not take."""
    value = parse_json(body)
    level = [value]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
                if any("\x00" in key for key in item):
                    raise InvalidInput("a name in the body has a NUL character")
            elif isinstance(item, list):
                deeper.extend(item)
            elif isinstance(item, int) and not -MAX_INTEGER <= item < MAX_INTEGER:
                raise MalformedBody("the body has an integer beyond 64 bits")
            elif isinstance(item, str) and "\x00" in item:
                raise InvalidInput("a text in the body has a NUL character")
        if not deeper:
            return value
        level = deeper
    raise MalformedBody(f"the body is nested more than {MAX_DEPTH} levels deep")
