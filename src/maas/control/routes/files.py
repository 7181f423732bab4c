"""Routes of the files in the artifact store, by SHA-256. Bodies are streamed in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import TimeoutError as FutureTimeout

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from maas.control.api.bodies import check_length
from maas.control.api.principal import guarded_router, requires
from maas.control.routes import UseServices
from maas.domain.errors import NotFound, RequestTimeout
from maas.domain.keys import Scope

CHUNK_TIMEOUT_S = 60.0
"""Longest pause between two chunks of an upload."""

router = guarded_router("files")


@router.head("/api/v1/files/{sha256}", dependencies=[requires(Scope.READ)])
@router.get("/api/v1/files/{sha256}", dependencies=[requires(Scope.READ)])
def get_file(sha256: str, request: Request, services: UseServices) -> Response:
    """The file, verified while it is sent: the response of a damaged file is incomplete."""
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
    chunks = _one_behind(services.stores.artifacts.get(sha256))
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")


@router.put("/api/v1/files/{sha256}", dependencies=[requires(Scope.WRITE)])
async def put_file(sha256: str, request: Request, services: UseServices) -> Response:
    """Stores the body under its SHA-256: 201 if the file is new, 200 if it exists."""
    publisher = services.publisher
    check_length(request, publisher.max_file_bytes)
    stream = request.stream()
    size = await asyncio.to_thread(publisher.stored_size, sha256)
    if size is not None:
        # Read the body to its end all the same, because the client is sending it.
        async for _ in stream:
            pass
        return JSONResponse({"sha256": sha256, "size": size})
    loop = asyncio.get_running_loop()
    chunks = _from_loop(stream, loop)
    stored = await loop.run_in_executor(services.uploads, publisher.store, sha256, chunks)
    return JSONResponse({"sha256": sha256, "size": stored}, status_code=201)


def _from_loop(
    stream: AsyncGenerator[bytes, None], loop: asyncio.AbstractEventLoop
) -> Iterator[bytes]:
    """The chunks of a body, for a thread. The thread's speed limits the client's."""

    async def next_chunk() -> bytes:
        return await anext(stream, b"")

    while True:
        try:
            chunk = asyncio.run_coroutine_threadsafe(next_chunk(), loop).result(CHUNK_TIMEOUT_S)
        except FutureTimeout:
            raise RequestTimeout(f"no data of the body arrived for {CHUNK_TIMEOUT_S:g} s") from None
        if not chunk:
            return
        yield chunk


def _one_behind(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields each chunk after the next one was read.

    The digest is verified after the last chunk, so a damaged file is never sent completely.
    """
    previous: bytes | None = None
    for chunk in chunks:
        if previous is not None:
            yield previous
        previous = chunk
    if previous is not None:
        yield previous
