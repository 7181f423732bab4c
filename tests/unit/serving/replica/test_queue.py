"""The queue of a replica is fair, ordered, bounded and complete."""

from __future__ import annotations

import time
from array import array

import hypothesis
from hypothesis import strategies as st

from maas.serving.replica.queue import FairQueue, RequestGroup
from maas.serving.wire.messages import Priority

OWNER = object()


def entry(
    number: int,
    tenant: int = 0,
    rows: int = 1,
    priority: Priority = Priority.NORMAL,
    size: int = 3,
) -> RequestGroup:
    """A group of one request."""
    return group([number], [rows], tenant, priority, size)


def group(
    numbers: list[int],
    rows: list[int],
    tenant: int = 0,
    priority: Priority = Priority.NORMAL,
    size: int = 3,
) -> RequestGroup:
    """A group of requests whose rows are their number, in `size` bytes."""
    data = b"".join(bytes([n % 256]) * size * r for n, r in zip(numbers, rows, strict=True))
    deadlines = array("d", [time.monotonic() + 60] * len(numbers))
    return RequestGroup(
        array("Q", numbers),
        array("I", rows),
        deadlines,
        tenant,
        priority,
        ((size,),),
        [data],
        OWNER,
        0.0,
        sum(rows),
    )


def numbers_of(batch: list[RequestGroup]) -> list[int]:
    return [number for group in batch for number in group.ids]


def test_tenants_are_served_in_turn_whatever_their_load() -> None:
    queue = FairQueue(100)
    for number in range(50):
        queue.put(entry(number, tenant=1))
    queue.put(entry(50, tenant=2))
    queue.put(entry(51, tenant=3))
    assert set(numbers_of(queue.take(3))) == {0, 50, 51}


def test_requests_of_a_tenant_are_served_in_order() -> None:
    queue = FairQueue(100)
    for number in range(5):
        queue.put(entry(number))
    assert numbers_of(queue.take(3)) == [0, 1, 2]


def test_low_priority_waits_for_all_other_requests() -> None:
    queue = FairQueue(100)
    queue.put(entry(1, priority=Priority.LOW))
    queue.put(entry(2))
    assert numbers_of(queue.take(10)) == [2]
    assert numbers_of(queue.take(10)) == [1]


def test_a_batch_has_requests_of_one_shape() -> None:
    queue = FairQueue(100)
    queue.put(entry(1, size=3))
    queue.put(entry(2, tenant=2, size=4))
    queue.put(entry(3, tenant=3, size=3))
    assert numbers_of(queue.take(10)) == [1, 3]
    assert numbers_of(queue.take(10)) == [2]


def test_a_request_larger_than_a_batch_is_split_with_others_in_between() -> None:
    queue = FairQueue(100)
    queue.put(entry(1, rows=150))
    queue.put(entry(2))
    queue.put(entry(3, tenant=1))
    assert [(p.ids[0], p.total_rows) for p in queue.take(64)] == [(1, 64)]
    assert sorted(numbers_of(queue.take(64))) == [2, 3]
    assert queue.waiting == 1
    assert [(p.ids[0], p.total_rows) for p in queue.take(64)] == [(1, 64)]
    assert [(p.ids[0], p.total_rows) for p in queue.take(64)] == [(1, 22)]
    assert queue.waiting == 0


def test_a_canceled_request_frees_its_place() -> None:
    queue = FairQueue(2)
    queue.put(entry(1))
    queue.put(entry(2))
    assert queue.room == 0
    queue.cancel(OWNER, 1)
    queue.cancel(OWNER, 1)
    assert queue.room == 1
    assert numbers_of(queue.take(10)) == [2]
    assert queue.waiting == 0


REQUESTS = st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=8)
PUTS = st.tuples(st.integers(0, 3), st.sampled_from(Priority), st.integers(1, 2), REQUESTS)


@hypothesis.given(st.lists(PUTS, max_size=20), st.integers(1, 16))
def test_each_request_that_is_not_canceled_is_taken_once_with_its_rows(
    puts: list[tuple[int, Priority, int, list[tuple[int, bool]]]], max_rows: int
) -> None:
    queue = FairQueue(10_000)
    expected: set[int] = set()
    rows_of: dict[int, int] = {}
    number = 0
    for tenant, priority, size, requests in puts:
        numbers = list(range(number, number + len(requests)))
        number += len(requests)
        queue.put(group(numbers, [rows for rows, _ in requests], tenant, priority, size))
        for one, (rows, canceled) in zip(numbers, requests, strict=True):
            rows_of[one] = rows
            if canceled:
                queue.cancel(OWNER, one)
            else:
                expected.add(one)
    assert queue.waiting == len(expected)
    served: list[int] = []
    done: dict[int, int] = {}
    while batch := queue.take(max_rows):
        assert len({p.shapes for p in batch}) == 1
        assert len({p.priority for p in batch}) == 1
        total = sum(p.total_rows for p in batch)
        assert total <= max_rows
        for p in batch:
            (size,) = p.shapes[0]
            each = zip(p.ids, p.rows, strict=True)
            assert p.columns == [b"".join(bytes([n % 256]) * size * rows for n, rows in each)]
            if p.parts is None:
                assert list(p.rows) == [rows_of[n] for n in p.ids]
            else:
                assert len(batch) == 1
                done[p.ids[0]] = done.get(p.ids[0], 0) + p.total_rows
            served += [n for n in p.ids if done.get(n, rows_of[n]) == rows_of[n]]
    assert sorted(served) == sorted(expected)
    assert queue.waiting == 0


def test_one_tenant_does_not_fill_the_batch_while_another_waits() -> None:
    queue = FairQueue(1000)
    queue.put(group(list(range(100)), [1] * 100, tenant=1))
    queue.put(group(list(range(100, 110)), [1] * 10, tenant=2))
    batch = numbers_of(queue.take(20))
    assert batch == [*range(10), *range(100, 110)]


def test_the_unused_share_of_a_tenant_is_used_by_others() -> None:
    queue = FairQueue(1000)
    queue.put(group(list(range(100)), [1] * 100, tenant=1))
    queue.put(entry(200, tenant=2))
    assert sorted(numbers_of(queue.take(20))) == [*range(19), 200]


def test_all_requests_of_an_owner_can_be_canceled() -> None:
    queue = FairQueue(1000)
    queue.put(group([1, 2, 3], [1, 1, 1]))
    other = entry(4)
    other.owner = object()
    queue.put(other)
    queue.cancel_all(OWNER)
    assert queue.waiting == 1
    assert numbers_of(queue.take(10)) == [4]


def test_a_tenant_that_does_not_fit_a_batch_is_first_in_the_next() -> None:
    for size, rows in ((4, 1), (3, 2)):
        queue = FairQueue(10_000)
        queue.put(entry(0, tenant=1))
        queue.put(entry(1, tenant=2, size=size, rows=rows))
        queue.put(entry(2, tenant=3))
        served: set[int] = set()
        for number in range(10, 40, 2):
            queue.put(entry(number, tenant=1))
            queue.put(entry(number + 1, tenant=3))
            served |= {p.tenant for p in queue.take(2)}
        assert served == {1, 2, 3}


def test_canceling_a_running_request_changes_no_count() -> None:
    queue = FairQueue(10)
    queue.put(entry(1))
    assert numbers_of(queue.take(1)) == [1]
    queue.put(entry(2))
    queue.cancel(OWNER, 1)
    assert queue.waiting == 1
    assert numbers_of(queue.take(1)) == [2]
    assert queue.waiting == 0
