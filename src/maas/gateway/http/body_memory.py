"""How much of bodies that are still on their way all connections may hold together."""

from __future__ import annotations

from maas.domain.errors import Overloaded

ARRIVING_BYTES = 512 << 20


class BodyMemory:
    """Who sends slowly keeps what it has sent in our memory; so many of them would fill it."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int) -> None:
        """Raises Overloaded if that is too much."""
        if self.bytes + size > ARRIVING_BYTES:
            raise Overloaded("too many large bodies arrive at once", retry_after=1.0)
        self.bytes += size

    def release(self, size: int) -> None:
        self.bytes -= size
