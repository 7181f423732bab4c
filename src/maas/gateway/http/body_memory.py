"""Limits the memory for request bodies that have not arrived completely."""

from __future__ import annotations

from maas.domain.errors import Overloaded
from maas.gateway.http.request import Request

INCOMPLETE_BYTES = 512 << 20


class BodyMemory:
    """Bytes of the incomplete bodies of all connections.

    A body that arrives slowly stays in memory. Without a limit, many of them would fill it.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int) -> None:
        """Reserve `size` bytes. Raises Overloaded if the limit is exceeded."""
        if self.bytes + size > INCOMPLETE_BYTES:
            raise Overloaded("too many large bodies arrive at once", retry_after=1.0)
        self.bytes += size

    def release(self, size: int) -> None:
        self.bytes -= size


class BodyBuffer:
    """Collects the body of a connection's current request, within the limit of BodyMemory."""

    __slots__ = ("_memory", "_reserved")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._reserved = 0

    def append(self, request: Request, piece: bytes) -> None:
        """Append `piece` to the body of `request`. Raises Overloaded."""
        self._memory.take(len(piece))
        self._reserved += len(piece)
        if not request.body:
            request.body = piece
        else:
            if isinstance(request.body, bytes):
                request.body = bytearray(request.body)
            request.body += piece

    def release(self) -> None:
        """Release the reservation: the body is complete, refused or lost."""
        self._memory.release(self._reserved)
        self._reserved = 0
