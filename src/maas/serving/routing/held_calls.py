"""Calls that wait because no replica takes them at the moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from maas.serving.routing.call import Call


class HeldCalls:
    """A queue of calls in the order of their arrival."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of all calls."""
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
        """Remove and return all calls."""
        calls, self._calls = self._calls, deque()
        self.size = 0
        return calls
