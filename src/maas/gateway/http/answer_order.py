"""The order of answers: a connection's requests are answered in the order of their arrival."""

from __future__ import annotations

import asyncio
from collections import deque

from maas.domain.errors import Unavailable
from maas.gateway.http.request import Request


class AnswerOrder:
    """A connection's requests without a complete answer, in the order of their arrival."""

    __slots__ = ("_loop", "requests", "streams")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.requests: deque[Request] = deque()
        self.streams: dict[Request, asyncio.Future[None]] = {}
        """Requests with a streamed answer, and a future that is done when it is their turn."""

    @property
    def accepts_more(self) -> bool:
        """False after a request that closes the connection."""
        return not self.requests or self.requests[-1].keep_alive

    def take(self) -> Request | None:
        """Remove and return the first request if its complete answer may be written now."""
        requests = self.requests
        if requests and requests[0].is_answered and requests[0] not in self.streams:
            return requests.popleft()
        return None

    async def wait(self, request: Request) -> None:
        """Wait until all earlier requests are answered.

        Raises Unavailable if `request` was answered otherwise or the client disconnected.
        """
        if request not in self.requests or request.is_answered:
            raise _disconnected()
        self.streams[request] = turn = self._loop.create_future()
        self.wake()
        try:
            await turn
        except BaseException:
            self.streams.pop(request, None)
            raise

    def wake(self) -> None:
        """Wake the first request if it waits for its turn."""
        if self.requests and self.streams:
            turn = self.streams.get(self.requests[0])
            if turn is not None and not turn.done():
                turn.set_result(None)

    def forget_stream(self, request: Request) -> None:
        """Forget a stream that has ended, or whose request was answered otherwise meanwhile."""
        turn = self.streams.pop(request, None)
        if turn is not None:
            _fail(turn)

    def abandon(self) -> None:
        """Drop all requests: their answers will not be read."""
        for turn in self.streams.values():
            _fail(turn)
        requests, self.requests = self.requests, deque()
        for request in requests:
            if request.on_disconnect is not None:
                request.on_disconnect()


def _disconnected() -> Unavailable:
    return Unavailable("the client disconnected")


def _fail(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(_disconnected())
        turn.exception()  # asyncio logs exceptions that are never retrieved
