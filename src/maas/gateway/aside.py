"""Work on large bodies goes to a thread, so that whoever sent or gets one holds up nobody else.

One thread: large bodies wait for each other, and a flood of them takes one core at most. Between
two steps of Python the thread gives way to the event loop; a single pass of the JSON parser does
not, and takes about 10 ms per megabyte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from maas.domain.errors import MaasError
from maas.gateway.request import Request

log = logging.getLogger(__name__)
T = TypeVar("T")

LARGE_BYTES = 64 << 10
"""Of JSON to be read or tensors to be written as JSON: what is less takes about a millisecond,
and is done at once."""

_thread = ThreadPoolExecutor(1, thread_name_prefix="large")


def aside(
    request: Request,
    work: Callable[[], T],
    then: Callable[[T | MaasError], None],
    *,
    may_leave: bool,
) -> None:
    """Have `work` done, and `then` get what it returned or the MaasError that it raised, on the
    loop. With `may_leave` neither happens if the client leaves before."""
    future = request.wire.door.loop.run_in_executor(_thread, _attempt, work)

    def leave() -> None:
        future.cancel()

    def done(future: asyncio.Future[T | MaasError]) -> None:
        if not future.cancelled():
            then(future.result())

    if may_leave:
        request.on_disconnect = leave
    future.add_done_callback(done)


def _attempt(work: Callable[[], T]) -> T | MaasError:
    try:
        return work()
    except MaasError as error:
        return error
    except Exception:
        log.exception("a large body could not be handled")
        return MaasError("an internal error; the server's log has it")
