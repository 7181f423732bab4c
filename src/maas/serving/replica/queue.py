"""The bounded, fair queue of a replica.

Tenants share each batch, so that a tenant with a hundred times as many requests delays only its
own. Requests of a tenant are served in the order of their arrival. Requests of low priority are
served only when none of normal priority waits.
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
    """The progress of a long request that is computed in parts, so that it delays others less."""

    __slots__ = ("is_running", "next_rows", "outputs", "rows", "rows_done", "seconds", "started")

    def __init__(self, rows: int, next_rows: int = 0) -> None:
        self.rows = rows
        """Rows of the whole request."""
        self.next_rows = next_rows
        """Rows of the next part; 0 for as many as fit a batch."""
        self.rows_done = 0
        self.outputs: list[Arrays] = []
        """Outputs of the finished parts, in order."""
        self.seconds = 0.0
        """Run time of the model for the finished parts."""
        self.started = 0.0
        """Start of the first part, in seconds on the monotonic clock."""
        self.is_running = False

    def add(self, outputs: Arrays, rows: int, started: float, finished: float) -> None:
        """Add a finished part."""
        self.started = self.started or started
        self.outputs.append(outputs)
        self.seconds += finished - started
        self.rows_done += rows

    @property
    def left(self) -> int:
        """Rows that are not computed yet."""
        return self.rows - self.rows_done


@dataclass(slots=True, eq=False)
class RequestGroup:
    """Requests of one frame, one tenant and one priority, in order.

    They are queued together, which makes the queue cheap per request. A group is split where
    fairness, a cancellation, a deadline or a failure requires it.
    """

    ids: array[int]
    rows: array[int]
    deadlines: array[float]
    tenant: int
    priority: Priority
    shapes: tuple[tuple[int, ...], ...]
    """The shape of one row of each input. A batch has requests of equal shapes."""
    columns: list[Buffer]
    """The rows of all requests, one after another, for each input."""
    owner: Any
    """The connection that gets the answers."""
    arrived: float
    """Arrival time, in seconds on the monotonic clock."""
    total_rows: int
    parts: PartProgress | None = None
    """The progress of a single request that is computed in parts."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, first: int, last: int) -> RequestGroup:
        """Requests `first` to `last` (exclusive) as a group of their own."""
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
        """The first `count` requests, and the others."""
        return self.part(0, count), self.part(count, len(self))

    def without(self, places: set[int]) -> list[RequestGroup]:
        """The requests that are not at `places`, as groups of adjacent requests."""
        groups = []
        first = None
        for place in range(len(self) + 1):
            is_left_out = place == len(self) or place in places
            if is_left_out and first is not None:
                groups.append(self.part(first, place))
                first = None
            elif not is_left_out and first is None:
                first = place
        return groups

    def cut(self, rows: int, is_bytes: Sequence[bool]) -> tuple[RequestGroup, RequestGroup | None]:
        """The first `rows` rows of a single request, and the others, without copying.

        `is_bytes` has for each input whether it is BYTES, whose elements differ in length.
        """
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
        """The number of leading requests that have at most `max_rows` rows together."""
        if self.total_rows <= max_rows:
            return len(self)
        if self.total_rows == len(self):
            return max_rows
        count = total = 0
        for rows in self.rows:
            total += rows
            if total > max_rows:
                break
            count += 1
        return count


class FairQueue:
    """Groups of requests by priority and tenant; at most `limit` requests."""

    def __init__(self, limit: int, is_bytes: Sequence[bool] = ()) -> None:
        """`is_bytes` has for each input whether it is BYTES."""
        self.limit = limit
        self._is_bytes = is_bytes
        self.waiting = 0
        """Number of waiting requests."""
        self._levels: tuple[tuple[dict[int, deque[RequestGroup]], deque[int]], ...] = tuple(
            ({}, deque()) for _ in Priority
        )
        """For each priority, the groups by tenant, and the tenants in the order of service."""

    @property
    def room(self) -> int:
        """Number of requests that may be added."""
        return self.limit - self.waiting

    def put(self, group: RequestGroup) -> None:
        """Add `group`. The caller has checked `room`."""
        by_tenant, turns = self._levels[group.priority]
        groups = by_tenant.get(group.tenant)
        if groups is None:
            by_tenant[group.tenant] = groups = deque()
            turns.append(group.tenant)
        groups.append(group)
        self.waiting += len(group)

    def cancel(self, owner: object, number: int) -> RequestGroup | None:
        """Remove request `number` of `owner`.

        Returns the group that it was in, or None if it does not wait.
        """
        for groups in self._tenant_queues():
            for place, group in enumerate(groups):
                if group.owner is owner and number in group.ids:
                    groups.remove(group)
                    rest = group.without({group.ids.index(number)})
                    for part in reversed(rest):
                        groups.insert(place, part)
                    self.waiting -= 1
                    return group
        return None

    def cancel_all(self, owner: object) -> None:
        """Remove all requests of `owner`, which has disconnected."""
        for groups in self._tenant_queues():
            for group in [g for g in groups if g.owner is owner]:
                groups.remove(group)
                self.waiting -= len(group)

    def _tenant_queues(self) -> Iterator[deque[RequestGroup]]:
        for by_tenant, _ in self._levels:
            yield from by_tenant.values()

    def take(self, max_rows: int, max_low_rows: int | None = None) -> list[RequestGroup]:
        """Remove and return the next batch: requests of one priority and equal shapes, with at most
        `max_rows` rows, or `max_low_rows` at low priority.

        A request with more rows, or with `RequestGroup.parts`, is returned in parts, each a batch
        of its own. Its other rows wait behind the other requests of its tenant.
        """
        for priority, (by_tenant, turns) in enumerate(self._levels):
            if turns:
                limit = max_rows
                if priority == Priority.LOW and max_low_rows is not None:
                    limit = max_low_rows
                batch = _take(by_tenant, turns, limit)
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
    by_tenant: dict[int, deque[RequestGroup]], turns: deque[int], max_rows: int
) -> list[RequestGroup]:
    """Take an equal share of rows from each tenant in turn, until the batch is full or nothing
    fits."""
    batch: list[RequestGroup] = []
    passed_over: list[int] = []
    room = max_rows
    share = max(1, room // max(1, len(turns)))
    while turns and room > 0:
        tenant = turns[0]
        groups = by_tenant[tenant]
        if not groups:
            turns.popleft()
            del by_tenant[tenant]
            continue
        head = groups[0]
        has_shapes = not batch or head.shapes == batch[0].shapes
        fits = has_shapes and head.parts is None
        count = (head.fitting(min(share, room)) or head.fitting(room)) if fits else 0
        if not count and batch:
            passed_over.append(turns.popleft())
            continue
        is_long = not count
        count = max(1, count)
        group = head
        if count < len(head):
            group, groups[0] = head.split(count)
        else:
            groups.popleft()
        room -= group.total_rows
        batch.append(group)
        if len(turns) > 1:
            turns.rotate(-1)
        if is_long:  # too long for any batch: it is computed alone, in parts
            group.parts = group.parts or PartProgress(group.total_rows)
            break
    # Tenants whose requests did not fit keep their place: the next batch begins with them.
    turns.extendleft(reversed(passed_over))
    return batch
