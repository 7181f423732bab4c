"""The bounded, fair queue of a replica.

Tenants take turns, so that one who sends a hundred times as much waits longer and nobody else
does. Within a tenant the order is first come, first served. Low priority is served only when
nothing of normal priority waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from maas.serving.messages import Buffer, Priority


@dataclass(slots=True, eq=False)
class Entry:
    """One request in a replica."""

    id: int
    rows: int
    deadline: float
    tenant: int
    priority: Priority
    shapes: tuple[tuple[int, ...], ...]
    """Per row and input; only equal shapes can share a batch."""
    columns: list[Buffer]
    owner: Any
    """Whoever is to be told: the connection that it came over."""
    arrived: float
    waiting: bool = False
    """Whether it waits in the queue; the queue's own."""
    cancelled: bool = False
    """Nobody wants its answer any more."""


class FairQueue:
    """Entries by priority and tenant; at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        """Entries that wait and were not cancelled."""
        self._lines: tuple[tuple[dict[int, deque[Entry]], deque[int]], ...] = tuple(
            ({}, deque()) for _ in Priority
        )
        """By priority: each tenant's line, and the tenants in the order of their turns."""

    @property
    def is_full(self) -> bool:
        return self.waiting >= self.limit

    def put(self, entry: Entry) -> None:
        """The caller has checked `is_full`."""
        level, turns = self._lines[entry.priority]
        line = level.get(entry.tenant)
        if line is None:
            level[entry.tenant] = line = deque()
            turns.append(entry.tenant)
        entry.waiting = True
        line.append(entry)
        self.waiting += 1

    def cancel(self, entry: Entry) -> None:
        """The entry is skipped when its turn comes; one that runs already runs on."""
        entry.cancelled = True
        if entry.waiting:
            entry.waiting = False
            entry.columns = []  # its body need not wait for its turn
            self.waiting -= 1

    def take(self, max_rows: int, max_low_rows: int | None = None) -> list[Entry]:
        """The next batch: entries of one priority and one shape, at most `max_rows` rows (of low
        priority `max_low_rows`).

        One entry alone may exceed that; whoever runs it then splits it.
        """
        for priority, (level, turns) in enumerate(self._lines):
            if turns:
                low = priority == Priority.LOW and max_low_rows is not None
                batch = _take(level, turns, max_low_rows if low and max_low_rows else max_rows)
                if batch:
                    self.waiting -= len(batch)
                    return batch
        return []


def _take(level: dict[int, deque[Entry]], turns: deque[int], max_rows: int) -> list[Entry]:
    """One entry of each tenant in turn, until the batch is full or nobody's head fits it."""
    batch: list[Entry] = []
    passed_over: list[int] = []
    room = max_rows
    while turns and room > 0:
        tenant = turns[0]
        line = level[tenant]
        while line and not line[0].waiting:
            line.popleft()
        if not line:
            turns.popleft()
            del level[tenant]
            continue
        head = line[0]
        if batch and (head.rows > room or head.shapes != batch[0].shapes):
            passed_over.append(turns.popleft())
            continue
        room -= head.rows
        head.waiting = False
        batch.append(line.popleft())
        if len(turns) > 1:
            turns.rotate(-1)
    # Who did not fit keeps the place: the next batch begins with them, and fits them.
    turns.extendleft(reversed(passed_over))
    return batch
