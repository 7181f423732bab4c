import time

from hypothesis import given
from hypothesis import strategies as st

from maas.serving.messages import Priority
from maas.serving.queue import Entry, FairQueue


def entry(
    number: int,
    tenant: int = 0,
    rows: int = 1,
    priority: Priority = Priority.NORMAL,
    size: int = 3,
) -> Entry:
    return Entry(number, rows, time.monotonic() + 60, tenant, priority, ((size,),), [], None, 0.0)


def test_tenants_take_turns_however_much_one_of_them_sends() -> None:
    queue = FairQueue(100)
    for number in range(50):
        queue.put(entry(number, tenant=1))
    queue.put(entry(50, tenant=2))
    queue.put(entry(51, tenant=3))
    assert {e.id for e in queue.take(3)} == {0, 50, 51}


def test_within_a_tenant_the_first_comes_first() -> None:
    queue = FairQueue(100)
    for number in range(5):
        queue.put(entry(number))
    assert [e.id for e in queue.take(3)] == [0, 1, 2]


def test_low_priority_waits_until_nothing_else_does() -> None:
    queue = FairQueue(100)
    queue.put(entry(1, priority=Priority.LOW))
    queue.put(entry(2))
    assert [e.id for e in queue.take(10)] == [2]
    assert [e.id for e in queue.take(10)] == [1]


def test_a_batch_has_one_shape() -> None:
    queue = FairQueue(100)
    queue.put(entry(1, size=3))
    queue.put(entry(2, tenant=2, size=4))
    queue.put(entry(3, tenant=3, size=3))
    assert [e.id for e in queue.take(10)] == [1, 3]
    assert [e.id for e in queue.take(10)] == [2]


def test_a_request_larger_than_a_batch_goes_alone() -> None:
    queue = FairQueue(100)
    queue.put(entry(1, rows=1000))
    queue.put(entry(2))
    assert [e.id for e in queue.take(64)] == [1]
    assert [e.id for e in queue.take(64)] == [2]


def test_a_cancelled_entry_is_never_taken_and_frees_its_place() -> None:
    queue = FairQueue(2)
    first, second = entry(1), entry(2)
    queue.put(first)
    queue.put(second)
    assert queue.is_full
    queue.cancel(first)
    queue.cancel(first)
    assert not queue.is_full
    assert [e.id for e in queue.take(10)] == [2]
    assert queue.waiting == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.integers(1, 5), st.sampled_from(Priority), st.booleans(),
            st.integers(1, 2),
        ),
        max_size=60,
    ),
    st.integers(1, 16),
)  # fmt: skip
def test_everything_put_and_not_cancelled_is_taken_once(
    puts: list[tuple[int, int, Priority, bool, int]], max_rows: int
) -> None:
    queue = FairQueue(1000)
    expected = set()
    for number, (tenant, rows, priority, cancelled, size) in enumerate(puts):
        one = entry(number, tenant, rows, priority, size)
        queue.put(one)
        if cancelled:
            queue.cancel(one)
        else:
            expected.add(number)
    taken = []
    while batch := queue.take(max_rows):
        assert len({e.shapes for e in batch}) == 1
        assert len(batch) == 1 or sum(e.rows for e in batch) <= max_rows
        taken += [e.id for e in batch]
    assert sorted(taken) == sorted(expected)
    assert queue.waiting == 0


def test_who_does_not_fit_a_batch_is_first_in_the_next() -> None:
    for size, rows in ((4, 1), (3, 2)):
        queue = FairQueue(10_000)
        queue.put(entry(0, tenant=1))
        queue.put(entry(1, tenant=2, size=size, rows=rows))
        queue.put(entry(2, tenant=3))
        served: set[int] = set()
        for number in range(10, 40, 2):
            queue.put(entry(number, tenant=1))
            queue.put(entry(number + 1, tenant=3))
            served |= {e.tenant for e in queue.take(2)}
        assert served == {1, 2, 3}


def test_cancelling_what_runs_already_changes_no_count() -> None:
    queue = FairQueue(10)
    running, waiting = entry(1), entry(2)
    queue.put(running)
    assert queue.take(1) == [running]
    queue.put(waiting)
    queue.cancel(running)
    assert queue.waiting == 1
    assert queue.take(1) == [waiting]
    assert queue.waiting == 0
