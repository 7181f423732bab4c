"""The link to a replica: frames, answers, failures, cancellation and loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from maas.domain.errors import DeadlineExceeded, InvalidInput, ReplicaLost
from maas.serving.routing import dispatch
from maas.serving.routing.call import Call
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.tensors import Tensor
from tests.support.fakes.replica_peer import DOUBLES, FakeCall, Peer, until


def linked(
    directory: Path,
    use: Callable[[ReplicaLink, Peer], Awaitable[None]],
    on_closed: Callable[[ReplicaLink, list[Call]], None] | None = None,
    on_usable: Callable[[ReplicaLink], None] | None = None,
) -> None:
    async def main() -> None:
        peer = await Peer(directory / "s").listen()
        link = await ReplicaLink.connect(peer.path, on_closed, on_usable)
        await until(lambda: peer.links)
        try:
            await use(link, peer)
        finally:
            link.abort()
            peer.crash()
            await asyncio.sleep(0.01)

    uvloop.run(main())


def is_idle(link: ReplicaLink) -> bool:
    return (link.in_flight, link.rows_in_flight, link.bytes_in_flight) == (0, 0, 0)


def test_calls_of_one_tick_share_a_frame_and_get_their_own_rows(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        calls = [FakeCall((b"aa",)), FakeCall((b"bb", b"cc")), FakeCall((b"dd",))]
        for call in calls:
            link.submit(call)
        assert (link.in_flight, link.rows_in_flight, link.bytes_in_flight) == (3, 4, 8)
        await until(lambda: peer.link.infers)
        (infer,) = peer.link.infers
        assert list(infer.rows) == [1, 2, 1]
        peer.link.answer(infer)
        await until(lambda: all(call.ends for call in calls))
        assert [call.ends for call in calls] == [[b"aa"], [b"bbcc"], [b"dd"]]
        assert is_idle(link)

    linked(tmp_path, use)


def test_calls_of_other_shapes_and_lone_travelers_get_their_own_frames(
    tmp_path: Path,
) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        calls = [
            FakeCall((b"a",)),
            FakeCall((b"bb",)),
            FakeCall((b"c",)),
            FakeCall((b"d",)),
        ]
        calls[3].travels_alone = True
        for call in calls:
            link.submit(call)
        await until(lambda: len(peer.link.ids) == 4)
        assert [len(infer.ids) for infer in peer.link.infers] == [2, 1, 1]
        for infer in peer.link.infers:
            peer.link.answer(infer)
        await until(lambda: all(call.ends for call in calls))
        assert [call.ends for call in calls] == [[b"a"], [b"bb"], [b"c"], [b"d"]]

    linked(tmp_path, use)


def test_frames_have_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "FRAME_BYTES", 1000)

    async def use(link: ReplicaLink, peer: Peer) -> None:
        calls = [FakeCall((bytes([n]) * 400,)) for n in range(5)]
        for call in (*calls, FakeCall((b"x" * 400,) * 5), FakeCall((b"y" * 400,))):
            link.submit(call)
        await until(lambda: len(peer.link.ids) == 7)
        assert [len(infer.ids) for infer in peer.link.infers] == [2, 2, 1, 1, 1]
        assert peer.link.ids == list(range(1, 8))
        for infer in peer.link.infers:
            peer.link.answer(infer)
        await until(lambda: is_idle(link))
        assert [call.ends for call in calls] == [[bytes([n]) * 400] for n in range(5)]

    linked(tmp_path, use)


def test_a_failure_reaches_its_call_only(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        bad, good = FakeCall(), FakeCall((b"g",))
        link.submit(bad)
        link.submit(good)
        await until(lambda: peer.link.infers)
        peer.link.fail(bad.number, InvalidInput("not this"))
        await until(lambda: bad.ends)
        assert isinstance(bad.error, InvalidInput) and bad.error.message == "not this"
        assert good.ends == [] and link.in_flight == 1 and link.bytes_in_flight == 1
        peer.link.answer(peer.link.infers[0])
        await until(lambda: good.ends)
        assert good.ends == [b"g"] and len(bad.ends) == 1 and is_idle(link)

    linked(tmp_path, use)


def test_an_exception_in_one_call_does_not_affect_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        bad, good, failing = (
            FakeCall(raises=True),
            FakeCall((b"g",)),
            FakeCall(raises=True),
        )
        for call in (failing, bad, good):
            link.submit(call)
        await until(lambda: peer.link.infers)
        peer.link.fail(failing.number, InvalidInput())
        peer.link.answer(peer.link.infers[0])
        await until(lambda: good.ends)
        assert good.ends == [b"g"]
        assert bad.error.code == "internal" and "internal error" in bad.error.message
        assert isinstance(failing.error, InvalidInput)
        assert link.is_open and is_idle(link)

    linked(tmp_path, use)
    assert "ZeroDivisionError" in caplog.text


def test_a_call_canceled_before_it_is_sent_is_not_sent(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        canceled, other = FakeCall((b"a",)), FakeCall((b"b",))
        link.submit(canceled)
        link.submit(other)
        link.cancel(canceled)
        await until(lambda: peer.link.infers)
        assert bytes(peer.link.infers[0].columns[0].data) == b"b"
        peer.link.answer(peer.link.infers[0])
        await until(lambda: other.ends)
        assert canceled.ends == [] and peer.link.cancelled == [] and is_idle(link)

    linked(tmp_path, use)


def test_a_call_canceled_after_it_is_sent_is_canceled_in_the_replica(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        canceled, other = FakeCall((b"a",)), FakeCall((b"b",))
        link.submit(canceled)
        link.submit(other)
        await until(lambda: peer.link.infers)
        link.cancel(canceled)
        assert canceled.link is None and link.in_flight == 1 and link.bytes_in_flight == 1
        await until(lambda: peer.link.cancelled == [1])
        peer.link.answer(peer.link.infers[0])  # the cancellation was too late
        await until(lambda: other.ends)
        assert canceled.ends == [] and other.ends == [b"b"] and is_idle(link)

    linked(tmp_path, use)


def test_calls_of_a_lost_link_go_to_its_owner(tmp_path: Path) -> None:
    lost: list[Call] = []
    changes: list[bool] = []

    async def use(link: ReplicaLink, peer: Peer) -> None:
        sent, unsent, later = FakeCall(), FakeCall(), FakeCall()
        link.submit(sent)
        await until(lambda: peer.link.infers)
        link.submit(unsent)
        link.abort()
        await until(lambda: not link.usable)
        await until(lambda: len(lost) == 2)
        assert set(lost) == {sent, unsent} and sent.ends == [] and is_idle(link)
        link.submit(later)
        await until(lambda: len(lost) == 3)
        assert lost[2] is later and later.link is None and is_idle(link)

    linked(
        tmp_path, use, lambda _, calls: lost.extend(calls), lambda link: changes.append(link.usable)
    )
    assert changes == [True, False]


def test_calls_of_a_lost_link_without_an_owner_fail(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        calls = [FakeCall(raises=True), FakeCall()]
        for call in calls:
            link.submit(call)
        ping = asyncio.ensure_future(link.ping(5))
        await until(lambda: peer.link.infers)
        peer.crash()
        await until(lambda: calls[1].ends)
        assert all(isinstance(call.error, ReplicaLost) for call in calls)
        with pytest.raises(ReplicaLost):
            await ping

    linked(tmp_path, use)


def test_a_link_to_a_draining_replica_closes_after_the_last_answer(tmp_path: Path) -> None:
    changes: list[bool] = []

    async def use(link: ReplicaLink, peer: Peer) -> None:
        call = FakeCall((b"a",))
        link.submit(call)
        await until(lambda: peer.link.infers)
        peer.link.go_away()
        await until(lambda: not link.usable)
        assert link.is_open and link.going_away and changes == [True, False]
        peer.link.answer(peer.link.infers[0])
        await until(lambda: peer.link.is_closed)
        assert call.ends == [b"a"] and not link.is_open

    linked(tmp_path, use, on_usable=lambda link: changes.append(link.usable))
    assert changes == [True, False]


def test_a_replica_that_does_not_read_gets_no_more_calls_until_it_does(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        peer.link.stop_reading()
        big = bytes(dispatch.UNSENT_BYTES // 2)
        for _ in range(5):
            call = FakeCall((big,))
            link.submit(call)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            link.cancel(call)  # the call is canceled, its bytes are still unsent
        await until(lambda: not link.usable)
        assert link.is_open and is_idle(link)
        peer.link.resume_reading()
        await until(lambda: link.usable)
        await until(lambda: len(peer.link.cancelled) == 5)

    linked(tmp_path, use)


def test_awaited_predictions(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        x = {"x": Tensor("UINT8", (2, 3), b"abcdef")}
        peer.answers_at_once = True
        answer = await link.predict(DOUBLES, x, 2, time.monotonic() + 5)
        assert answer == {"y": Tensor("UINT8", (2, 3), b"abcdef")}
        peer.answers_at_once = False
        with pytest.raises(DeadlineExceeded):
            await link.predict(DOUBLES, x, 2, time.monotonic() - 0.95)
        await until(lambda: peer.link.cancelled == [2])
        assert is_idle(link)
        waits = asyncio.ensure_future(link.predict(DOUBLES, x, 2, time.monotonic() + 5))
        await until(lambda: len(peer.link.ids) == 3)
        peer.link.fail(3, InvalidInput("no"))
        with pytest.raises(InvalidInput):
            await waits

    linked(tmp_path, use)
