"""Work on large bodies goes to a thread, so that whoever sends or gets one holds up others less.

One thread: large bodies wait for each other, and a flood of them takes one core at most. Between
two steps of Python the thread gives way to the event loop. Within one, such as a pass of the JSON
parser or writer, it does not, and everybody waits for its end.
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
"""Of JSON to be read or tensors to be written as JSON: what is less is done at once."""
WAITING_BYTES = 256 << 20
"""Of bodies and answers that the thread has or that wait for it. One that is larger is taken while
there is no other."""


class _Work(Generic[T]):
    """One piece of it."""

    def __init__(self, do: Callable[[], T]) -> None:
        self._do: Callable[[], T] | None = do

    def run(self) -> T | MaasError:
        """In the thread."""
        do = self._do
        return Unavailable() if do is None else attempt(do)

    def drop(self) -> None:
        """Free what it holds: the thread's queue still has it when nobody wants it any more."""
        self._do = None


class LargeBodies:
    """The thread, and how much waits for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._is_open = True
        self.waiting = 0
        """Bytes."""

    def read(
        self,
        request: Request,
        deadline: float,
        work: Callable[[], T],
        then: Callable[[T | MaasError], None],
    ) -> None:
        """Have `work` done on the body of `request`, and `then` get what it returned or the
        MaasError that it raised, on the loop; DeadlineExceeded if it is not begun by `deadline`,
        seconds on the monotonic clock. Neither happens if the client leaves before. Raises
        Overloaded if too much waits."""
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
        """As `read` for an answer made of `size` bytes, which is always made, also if nobody waits
        for it: at once, if too much waits for the thread."""
        if self._has_room(size):
            self._start(request, size, work, then)
        else:
            _finish(request, then, attempt(work))

    async def close(self) -> None:
        """Take nothing more, wait for what the thread is at, and give up what waits for it."""
        self._is_open = False
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _has_room(self, size: int) -> bool:
        return self._is_open and (not self.waiting or self.waiting + size <= WAITING_BYTES)

    def _start(
        self,
        request: Request,
        size: int,
        do: Callable[[], T],
        then: Callable[[T | MaasError], None],
    ) -> Callable[[], None]:
        """The returned function gives it up without a word."""
        work = _Work(do)
        future = request.connection.server.loop.run_in_executor(self._thread, work.run)
        self.waiting += size
        is_given_up = False

        def done(future: asyncio.Future[T | MaasError]) -> None:
            self.waiting -= size
            if is_given_up:
                return
            stopping = Unavailable("the server is stopping", retry_after=1.0)
            _finish(request, then, stopping if future.cancelled() else future.result())

        def give_up() -> None:
            nonlocal is_given_up
            is_given_up = True
            work.drop()
            future.cancel()

        future.add_done_callback(done)
        return give_up


large_bodies = LargeBodies()
"""Of this process."""


def _in_time(deadline: float, work: Callable[[], T]) -> T:
    if time.monotonic() >= deadline:
        raise DeadlineExceeded()
    return work()


def attempt(work: Callable[[], T]) -> T | MaasError:
    """What `work` returns or the MaasError that it raises; one for any other exception, too."""
    try:
        return work()
    except MaasError as error:
        return error
    except Exception:
        log.exception("a large body could not be handled")
        return _internal()


def _finish(request: Request, then: Callable[[T | MaasError], None], found: T | MaasError) -> None:
    """Nobody above would answer for what goes wrong in `then`."""
    try:
        then(found)
    except Exception:
        log.exception("what follows a large body went wrong")
        request.fail(_internal())


def _internal() -> MaasError:
    return MaasError("an internal error; the server's log has it")
