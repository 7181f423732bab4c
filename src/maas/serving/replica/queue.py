"""The bounded, fair queue of a replica.

Tenants share each batch, so that one who sends a hundred times as much waits longer and nobody
else does. Within a tenant the order is first come, first served. Low priority is served only when
nothing of normal priority waits.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maas.runtimes.base import Arrays
from maas.serving.wire.messages import Buffer, Priority


class PartProgress:
    """How far a request is that is worked through in parts, because it would hold up others."""

    __slots__ = ("is_running", "next_rows", "outputs", "rows", "rows_done", "seconds", "started")

    def __init__(self, rows: int, next_rows: int = 0) -> None:
        self.rows = rows
        """Of the whole request."""
        self.next_rows = next_rows
        """Of its next part; 0: as many as a batch has."""
        self.rows_done = 0
        self.outputs: list[Arrays] = []
        """Of the parts that are done, in order."""
        self.seconds = 0.0
        """That the model took for them."""
        self.started = 0.0
        """When it began with the first, on the monotonic clock."""
        self.is_running = False

    def done(self, outputs: Arrays, rows: int, started: float, finished: float) -> None:
        self.started = self.started or started
        self.outputs.append(outputs)
        self.seconds += finished - started
        self.rows_done += rows

    @property
    def left(self) -> int:
        """Rows that are still to be computed."""
        return self.rows - self.rows_done


@dataclass(slots=True, eq=False)
class RequestGroup:
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
    parts: PartProgress | None = None
    """Of one request that is worked through in parts: what was done before these rows."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, last: int) -> RequestGroup:
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

    def split(self, count: int) -> tuple[RequestGroup, RequestGroup]:
        return self.part(0, count), self.part(count, len(self))

    def without(self, places: set[int]) -> list[RequestGroup]:
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

    def cut(self, rows: int, is_bytes: Sequence[bool]) -> tuple[RequestGroup, RequestGroup | None]:
        """The first `rows` rows of one request, and the others; nothing is copied. `is_bytes`
        says of every input whether it is BYTES, whose elements differ in length."""
        if rows >= self.total_rows:
            return self, None
        first: list[Buffer] = []
        others: list[Buffer] = []
        for column, shape, has_lengths in zip(self.columns, self.shapes, is_bytes, strict=True):
            view = memoryview(column)
            if has_lengths:
                end = 0
                for _ in range(rows * math.prod(shape)):
                    end += 4 + int.from_bytes(view[end : end + 4], "little")
            else:
                end = rows * (len(view) // self.total_rows)
            first.append(view[:end])
            others.append(view[end:])
        left = self.total_rows - rows
        return (
            replace(self, rows=array("I", [rows]), columns=first, total_rows=rows),
            replace(self, rows=array("I", [left]), columns=others, total_rows=left),
        )

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

    def __init__(self, limit: int, is_bytes: Sequence[bool] = ()) -> None:
        """`is_bytes` says of every input whether it is BYTES."""
        self.limit = limit
        self._is_bytes = is_bytes
        self.waiting = 0
        """Requests that wait."""
        self._lines: tuple[tuple[dict[int, deque[RequestGroup]], deque[int]], ...] = tuple(
            ({}, deque()) for _ in Priority
        )
        """By priority: each tenant's line, and the tenants in the order of their turns."""

    @property
    def room(self) -> int:
        """Requests that may still come."""
        return self.limit - self.waiting

    def put(self, parcel: RequestGroup) -> None:
        """The caller has checked that there is room."""
        level, turns = self._lines[parcel.priority]
        line = level.get(parcel.tenant)
        if line is None:
            level[parcel.tenant] = line = deque()
            turns.append(parcel.tenant)
        line.append(parcel)
        self.waiting += len(parcel)

    def cancel(self, owner: object, number: int) -> RequestGroup | None:
        """Request `number` of `owner` is not to be computed. The parcel that it was in; None if it
        does not wait."""
        for line in self._all_lines():
            for place, parcel in enumerate(line):
                if parcel.owner is owner and number in parcel.ids:
                    line.remove(parcel)
                    kept = parcel.without({parcel.ids.index(number)})
                    for part in reversed(kept):
                        line.insert(place, part)
                    self.waiting -= 1
                    return parcel
        return None

    def cancel_all(self, owner: object) -> None:
        """Nothing of `owner` is to be computed: nobody is left to answer to."""
        for line in self._all_lines():
            for parcel in [p for p in line if p.owner is owner]:
                line.remove(parcel)
                self.waiting -= len(parcel)

    def _all_lines(self) -> Iterator[deque[RequestGroup]]:
        for level, _ in self._lines:
            yield from level.values()

    def take(self, max_rows: int, max_low_rows: int | None = None) -> list[RequestGroup]:
        """The next batch: requests of one priority and one shape, at most `max_rows` rows (of low
        priority `max_low_rows`).

        A request that has more, or that is marked as long (`RequestGroup.parts`), comes in parts,
        each
        a batch of its own. Its other rows wait behind its tenant's other requests.
        """
        for priority, (level, turns) in enumerate(self._lines):
            if turns:
                limit = max_rows
                if priority == Priority.LOW and max_low_rows is not None:
                    limit = max_low_rows
                batch = _take(level, turns, limit)
                if batch:
                    self.waiting -= sum(map(len, batch))
                    return self._first_part(batch[0], limit) if batch[0].parts else batch
        return []

    def _first_part(self, request: RequestGroup, limit: int) -> list[RequestGroup]:
        parts = request.parts
        rows = (parts and parts.next_rows) or limit
        if request.priority == Priority.LOW:
            rows = min(rows, limit)
        part, others = request.cut(rows, self._is_bytes or [False] * len(request.columns))
        if others is not None:
            self.put(others)
        return [part]


def _take(
    level: dict[int, deque[RequestGroup]], turns: deque[int], max_rows: int
) -> list[RequestGroup]:
    """From each tenant in turn an equal share of the room, until it is used up or nothing fits."""
    batch: list[RequestGroup] = []
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
        fits = alike and head.parts is None
        count = (head.fitting(min(share, room)) or head.fitting(room)) if fits else 0
        if not count and batch:
            passed_over.append(turns.popleft())
            continue
        is_long = not count
        count = max(1, count)
        taken = head
        if count < len(head):
            taken, line[0] = head.split(count)
        else:
            line.popleft()
        room -= taken.total_rows
        batch.append(taken)
        if len(turns) > 1:
            turns.rotate(-1)
        if is_long:  # no batch has room for it: it goes alone, in parts
            taken.parts = taken.parts or PartProgress(taken.total_rows)
            break
    # Who did not fit keeps the place: the next batch begins with them, and fits them.
    turns.extendleft(reversed(passed_over))
    return batch
