"""The bounded, fair queue of a replica.

Tenants take turns, so that one who sends a hundred times as much waits longer and nobody else
does. Within a tenant the order is first come, first served. Low priority is served only when
nothing of normal priority waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
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
    cancelled: bool = field(default=False)


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
        line.append(entry)
        self.waiting += 1

    def cancel(self, entry: Entry) -> None:
        """The entry is skipped when its turn comes."""
        if not entry.cancelled:
            entry.cancelled = True
            self.waiting -= 1

    def take(self, max_rows: int) -> list[Entry]:
        """The next batch: entries of one priority and one shape, at most `max_rows` rows.

        One entry alone may exceed `max_rows`; the runtime then splits it.
        """
        for level, turns in self._lines:
            if turns:
                batch = _take(level, turns, max_rows)
                if batch:
                    self.waiting -= len(batch)
                    return batch
        return []

    def drain(self) -> Iterator[Entry]:
        """Everything that waits, in no particular order; the queue is empty afterwards."""
        while batch := self.take(1 << 62):
            yield from batch


def _take(level: dict[int, deque[Entry]], turns: deque[int], max_rows: int) -> list[Entry]:
    """One entry of each tenant in turn, until the batch is full or nobody's head fits it."""
    batch: list[Entry] = []
    room = max_rows
    passed = 0  # tenants in a row whose head does not fit
    while turns and passed < len(turns) and room > 0:
        tenant = turns[0]
        line = level[tenant]
        while line and line[0].cancelled:
            line.popleft()
        if not line:
            turns.popleft()
            del level[tenant]
            continue
        head = line[0]
        if batch and (head.rows > room or head.shapes != batch[0].shapes):
            passed += 1
        else:
            passed = 0
            room -= head.rows
            batch.append(line.popleft())
        if len(turns) > 1:
            turns.rotate(-1)
    return batch
