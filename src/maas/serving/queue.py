"""The bounded, fair queue of a replica.

Tenants share each batch, so that one who sends a hundred times as much waits longer and nobody
else does. Within a tenant the order is first come, first served. Low priority is served only when
nothing of normal priority waits.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from maas.serving.messages import Buffer, Priority


@dataclass(slots=True, eq=False)
class Parcel:
    """Requests that came in one frame, from one tenant and of one priority, in their order.

    They travel the queue together, so that what a request costs here is shared by its fellows;
    they are taken apart where fairness, a cancel, a deadline or a failure needs it.
    """

    ids: array[int]
    rows: array[int]
    deadlines: array[float]
    tenant: int
    priority: Priority
    shapes: tuple[tuple[int, ...], ...]
    """Per row and input; only equal shapes can share a batch."""
    columns: list[Buffer]
    """Per input, the rows of all requests end to end."""
    owner: Any
    """Whoever is to be told: the connection that it came over."""
    arrived: float
    total_rows: int

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, last: int) -> Parcel:
        """Requests `first` to `last` (excluded) as a parcel of their own."""
        if first == 0 and last == len(self.ids):
            return self
        before = sum(self.rows[:first])
        rows = self.rows[first:last]
        count = sum(rows)
        columns: list[Buffer] = []
        for column in self.columns:
            size = len(column) // self.total_rows
            columns.append(column[before * size : (before + count) * size])
        return replace(
            self,
            ids=self.ids[first:last],
            rows=rows,
            deadlines=self.deadlines[first:last],
            columns=columns,
            total_rows=count,
        )

    def split(self, count: int) -> tuple[Parcel, Parcel]:
        return self.part(0, count), self.part(count, len(self))

    def without(self, places: set[int]) -> list[Parcel]:
        """The requests that are not at `places`, as parcels of neighbors."""
        kept = []
        first = None
        for place in range(len(self) + 1):
            gone = place == len(self) or place in places
            if gone and first is not None:
                kept.append(self.part(first, place))
                first = None
            elif not gone and first is None:
                first = place
        return kept

    def fitting(self, max_rows: int) -> int:
        """How many of its first requests have at most `max_rows` rows together."""
        if self.total_rows <= max_rows:
            return len(self)
        if self.total_rows == len(self):
            return max_rows
        count = taken = 0
        for rows in self.rows:
            taken += rows
            if taken > max_rows:
                break
            count += 1
        return count


class FairQueue:
    """Parcels by priority and tenant; at most `limit` requests."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting = 0
        """Requests that wait."""
        self._lines: tuple[tuple[dict[int, deque[Parcel]], deque[int]], ...] = tuple(
            ({}, deque()) for _ in Priority
        )
        """By priority: each tenant's line, and the tenants in the order of their turns."""

    @property
    def room(self) -> int:
        """Requests that may still come."""
        return self.limit - self.waiting

    def put(self, parcel: Parcel) -> None:
        """The caller has checked that there is room."""
        level, turns = self._lines[parcel.priority]
        line = level.get(parcel.tenant)
        if line is None:
            level[parcel.tenant] = line = deque()
            turns.append(parcel.tenant)
        line.append(parcel)
        self.waiting += len(parcel)

    def cancel(self, owner: object, number: int) -> None:
        """Request `number` of `owner` is not to be computed; nothing if it does not wait."""
        for line in self._all_lines():
            for place, parcel in enumerate(line):
                if parcel.owner is owner and number in parcel.ids:
                    line.remove(parcel)
                    kept = parcel.without({parcel.ids.index(number)})
                    for part in reversed(kept):
                        line.insert(place, part)
                    self.waiting -= 1
                    return

    def cancel_all(self, owner: object) -> None:
        """Nothing of `owner` is to be computed: nobody is left to answer to."""
        for line in self._all_lines():
            for parcel in [p for p in line if p.owner is owner]:
                line.remove(parcel)
                self.waiting -= len(parcel)

    def _all_lines(self) -> Iterator[deque[Parcel]]:
        for level, _ in self._lines:
            yield from level.values()

    def take(self, max_rows: int, max_low_rows: int | None = None) -> list[Parcel]:
        """The next batch: requests of one priority and one shape, at most `max_rows` rows (of low
        priority `max_low_rows`).

        One request alone may have more; whoever runs it then splits it.
        """
        for priority, (level, turns) in enumerate(self._lines):
            if turns:
                limit = max_rows
                if priority == Priority.LOW and max_low_rows is not None:
                    limit = max_low_rows
                batch = _take(level, turns, limit)
                if batch:
                    self.waiting -= sum(map(len, batch))
                    return batch
        return []


def _take(level: dict[int, deque[Parcel]], turns: deque[int], max_rows: int) -> list[Parcel]:
    """From each tenant in turn an equal share of the room, until it is used up or nothing fits."""
    batch: list[Parcel] = []
    passed_over: list[int] = []
    room = max_rows
    share = max(1, room // max(1, len(turns)))
    while turns and room > 0:
        tenant = turns[0]
        line = level[tenant]
        if not line:
            turns.popleft()
            del level[tenant]
            continue
        head = line[0]
        alike = not batch or head.shapes == batch[0].shapes
        count = (head.fitting(min(share, room)) or head.fitting(room)) if alike else 0
        if not count and batch:
            passed_over.append(turns.popleft())
            continue
        count = max(1, count)  # a request that no batch has room for goes alone
        taken = head
        if count < len(head):
            taken, line[0] = head.split(count)
        else:
            line.popleft()
        room -= taken.total_rows
        batch.append(taken)
        if len(turns) > 1:
            turns.rotate(-1)
    # Who did not fit keeps the place: the next batch begins with them, and fits them.
    turns.extendleft(reversed(passed_over))
    return batch
