"""Files of the artifact store, by their SHA-256; streamed both ways, never whole in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from maas.control.api.bodies import check_length
from maas.control.api.principal import guarded_router, needs
from maas.control.routes import UseServices
from maas.domain.errors import NotFound, RequestTimeout
from maas.domain.keys import Scope

SILENCE_S = 60.0
"""How long an upload may pause."""
UPLOADS_AT_ONCE = 8

router = guarded_router("files")
_uploads = ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="upload")


@router.head("/api/v1/files/{sha256}", dependencies=[needs(Scope.READ)])
@router.get("/api/v1/files/{sha256}", dependencies=[needs(Scope.READ)])
def get_file(sha256: str, request: Request, services: UseServices) -> Response:
    """The file, checked while it is sent: a damaged one breaks off before its end."""
    size = services.publisher.stored_size(sha256)
    if size is None:
        raise NotFound(f"there is no file {sha256}")
    headers = {
        "content-length": str(size),
        "content-disposition": f'attachment; filename="{sha256}"',
        "x-content-type-options": "nosniff",
        "etag": f'"{sha256}"',
    }
    if request.method == "HEAD":
        return Response(headers=headers, media_type="application/octet-stream")
    chunks = _last_one_last(services.stores.artifacts.get(sha256))
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")


@router.put("/api/v1/files/{sha256}", dependencies=[needs(Scope.WRITE)])
async def put_file(sha256: str, request: Request, services: UseServices) -> Response:
    """Stores the body under its SHA-256: 201 if it is new, 200 if it was there."""
    publisher = services.publisher
    check_length(request, publisher.max_file_bytes)
    stream = request.stream()
    size = await asyncio.to_thread(publisher.stored_size, sha256)
    if size is not None:
        # Read to the end all the same: a client in the middle of sending expects that.
        async for _ in stream:
            pass
        return JSONResponse({"sha256": sha256, "size": size})
    loop = asyncio.get_running_loop()
    chunks = _from_loop(stream, loop)
    stored = await loop.run_in_executor(_uploads, publisher.store, sha256, chunks)
    return JSONResponse({"sha256": sha256, "size": stored}, status_code=201)


def _from_loop(
    stream: AsyncGenerator[bytes, None], loop: asyncio.AbstractEventLoop
) -> Iterator[bytes]:
    """The chunks of a body, for a thread; the client is held back to the pace of the thread."""

    async def next_chunk() -> bytes:
        return await anext(stream, b"")

    while True:
        try:
            chunk = asyncio.run_coroutine_threadsafe(next_chunk(), loop).result(SILENCE_S)
        except FutureTimeout:
            raise RequestTimeout(f"nothing of the body came for {SILENCE_S:g} s") from None
        if not chunk:
            return
        yield chunk


def _last_one_last(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Holds each chunk back until the next one came, so that a file whose digest turns out wrong
    at its end is never sent to its end."""
    held: Any = None
    for chunk in chunks:
        if held is not None:
            yield held
        held = chunk
    if held is not None:
        yield held
