"""Decodes and encodes large bodies in a thread, so that they delay other requests less.

There is one thread: large bodies wait for each other, and use one core at most. The thread yields
to the event loop between Python instructions, but not within a call into C, such as the JSON parser
or encoder.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from maas.domain.errors import DeadlineExceeded, MaasError, Overloaded, Unavailable
from maas.gateway.http.request import Request

log = logging.getLogger(__name__)
T = TypeVar("T")

LARGE_BYTES = 64 << 10
"""Bytes of JSON to decode, or of tensors to encode as JSON, above which the thread is used."""
WAITING_BYTES = 256 << 20
"""Limit on the bytes of all bodies and answers in the thread or waiting for it. A larger one is
accepted if it is the only one."""


class _Work(Generic[T]):
    """A function for the thread that can be dropped before it runs."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function

    def run(self) -> T | MaasError:
        """Call the function; runs in the thread."""
        function = self._function
        return Unavailable() if function is None else attempt(function)

    def drop(self) -> None:
        """Free what the function refers to. The executor's queue still holds the object."""
        self._function = None


class LargeBodies:
    """The thread for large bodies, and a limit on the bytes that wait for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._is_open = True
        self.waiting = 0
        """Bytes in the thread or waiting for it."""

    def read(
        self,
        request: Request,
        deadline: float,
        work: Callable[[], T],
        then: Callable[[T | MaasError], None],
    ) -> None:
        """Call `work`, which decodes the body of `request`, in the thread.

        `then` is called on the event loop with the result or with the MaasError that `work`
        raised; with DeadlineExceeded if work has not begun by `deadline`, in seconds on the
        monotonic clock. It is not called if the client disconnects first. Raises Overloaded if too
        many bytes wait.
        """
        size = len(request.body)
        if not self._has_room(size):
            full = f"{self.waiting >> 20} MiB of large bodies waiting to be read or written"
            raise Overloaded(f"the server has {full}", retry_after=1.0)
        request.on_disconnect = self._start(request, size, partial(_in_time, deadline, work), then)

    def write(
        self,
        request: Request,
        size: int,
        work: Callable[[], T],
        then: Callable[[T | MaasError], None],
    ) -> None:
        """Call `work`, which encodes an answer of `size` bytes, in the thread.

        Unlike in `read`, `then` is called even if the client disconnects. If too many bytes wait,
        the calling thread does the work at once.
        """
        if self._has_room(size):
            self._start(request, size, work, then)
        else:
            _finish(request, then, attempt(work))

    async def close(self) -> None:
        """Take no more work, wait for the work in progress, and cancel what waits."""
        self._is_open = False
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _has_room(self, size: int) -> bool:
        return self._is_open and (not self.waiting or self.waiting + size <= WAITING_BYTES)

    def _start(
        self,
        request: Request,
        size: int,
        function: Callable[[], T],
        then: Callable[[T | MaasError], None],
    ) -> Callable[[], None]:
        """Queue `function` for the thread. The returned function abandons it; `then` is not
        called."""
        work = _Work(function)
        future = request.connection.server.loop.run_in_executor(self._thread, work.run)
        self.waiting += size
        is_abandoned = False

        def done(future: asyncio.Future[T | MaasError]) -> None:
            self.waiting -= size
            if is_abandoned:
                return
            stopping = Unavailable("the server is stopping", retry_after=1.0)
            _finish(request, then, stopping if future.cancelled() else future.result())

        def abandon() -> None:
            nonlocal is_abandoned
            is_abandoned = True
            work.drop()
            future.cancel()

        future.add_done_callback(done)
        return abandon


def _in_time(deadline: float, work: Callable[[], T]) -> T:
    if time.monotonic() >= deadline:
        raise DeadlineExceeded()
    return work()


def attempt(work: Callable[[], T]) -> T | MaasError:
    """The result of `work`, or its MaasError; any other exception is logged and becomes one."""
    try:
        return work()
    except MaasError as error:
        return error
    except Exception:
        log.exception("a large body could not be handled")
        return _internal()


def _finish(request: Request, then: Callable[[T | MaasError], None], result: T | MaasError) -> None:
    """Call `then`, and fail the request if it raises: no caller above would."""
    try:
        then(result)
    except Exception:
        log.exception("the request of a large body could not be continued")
        request.fail(_internal())


def _internal() -> MaasError:
    return MaasError("an internal error; the server's log has it")
