"""The order of answers: whoever came first on a connection is answered first."""

from __future__ import annotations

import asyncio
from collections import deque

from maas.domain.errors import Unavailable
from maas.gateway.http.request import Request


class AnswerOrder:
    """A connection's requests that are not fully answered yet, in the order in which they came."""

    __slots__ = ("_loop", "requests", "streams")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.requests: deque[Request] = deque()
        self.streams: dict[Request, asyncio.Future[None]] = {}
        """Those whose answers are written piece by piece, and whether it is their turn."""

    @property
    def accepts_more(self) -> bool:
        """False once a request is here after which the connection closes."""
        return not self.requests or self.requests[-1].keep_alive

    def take(self) -> Request | None:
        """The next one whose whole answer may be written now, removed from here."""
        requests = self.requests
        if requests and requests[0].is_answered and requests[0] not in self.streams:
            return requests.popleft()
        return None

    async def wait(self, request: Request) -> None:
        """Until all earlier ones are answered; raises Unavailable if that is of no use any more."""
        if request not in self.requests or request.is_answered:
            raise _gone()
        self.streams[request] = turn = self._loop.create_future()
        self.wake()
        try:
            await turn
        except BaseException:
            self.streams.pop(request, None)
            raise

    def wake(self) -> None:
        """Tell the first one, if it waits for its turn."""
        if self.requests and self.streams:
            turn = self.streams.get(self.requests[0])
            if turn is not None and not turn.done():
                turn.set_result(None)

    def forget_stream(self, request: Request) -> None:
        """It has ended, or the request was answered in another way while it waited."""
        turn = self.streams.pop(request, None)
        if turn is not None:
            _fail(turn)

    def abandon(self) -> None:
        """Nobody will read these answers."""
        for turn in self.streams.values():
            _fail(turn)
        requests, self.requests = self.requests, deque()
        for request in requests:
            if request.on_disconnect is not None:
                request.on_disconnect()


def _gone() -> Unavailable:
    return Unavailable("the client went away")


def _fail(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(_gone())
        turn.exception()  # seen, or asyncio complains that nobody looked
