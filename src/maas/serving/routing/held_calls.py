"""Calls that wait for a replica, because there is none that takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from maas.serving.routing.call import Call


class HeldCalls:
    """In the order in which they came."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes that they carry together."""
        self._calls: deque[Call] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def add(self, call: Call) -> None:
        self._calls.append(call)
        self.size += call.size

    def remove(self, call: Call) -> None:
        self._calls.remove(call)
        self.size -= call.size

    def take_all(self) -> deque[Call]:
        """All of them, and none is held any more."""
        taken, self._calls = self._calls, deque()
        self.size = 0
        return taken
