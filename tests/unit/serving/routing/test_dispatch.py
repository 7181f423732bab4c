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
from tests.support.fakes.replica_peer import DOUBLES, Asked, Peer, until


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
        calls = [Asked((b"aa",)), Asked((b"bb", b"cc")), Asked((b"dd",))]
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


def test_calls_of_other_shapes_and_calls_that_travel_alone_get_frames_of_their_own(
    tmp_path: Path,
) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        calls = [Asked((b"a",)), Asked((b"bb",)), Asked((b"c",)), Asked((b"d",))]
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


def test_a_frame_ends_before_it_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "FRAME_BYTES", 1000)

    async def use(link: ReplicaLink, peer: Peer) -> None:
        calls = [Asked((bytes([n]) * 400,)) for n in range(5)]
        for call in (*calls, Asked((b"x" * 400,) * 5), Asked((b"y" * 400,))):
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
        bad, good = Asked(), Asked((b"g",))
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


def test_an_exception_in_one_call_costs_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        bad, good, failing = Asked(trouble=True), Asked((b"g",)), Asked(trouble=True)
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


def test_a_call_that_is_cancelled_before_it_is_sent_never_is(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        gone, stays = Asked((b"a",)), Asked((b"b",))
        link.submit(gone)
        link.submit(stays)
        link.cancel(gone)
        await until(lambda: peer.link.infers)
        assert bytes(peer.link.infers[0].columns[0].data) == b"b"
        peer.link.answer(peer.link.infers[0])
        await until(lambda: stays.ends)
        assert gone.ends == [] and peer.link.cancelled == [] and is_idle(link)

    linked(tmp_path, use)


def test_a_call_that_is_cancelled_later_is_cancelled_in_the_replica(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        gone, stays = Asked((b"a",)), Asked((b"b",))
        link.submit(gone)
        link.submit(stays)
        await until(lambda: peer.link.infers)
        link.cancel(gone)
        assert gone.link is None and link.in_flight == 1 and link.bytes_in_flight == 1
        await until(lambda: peer.link.cancelled == [1])
        peer.link.answer(peer.link.infers[0])  # it was too late there
        await until(lambda: stays.ends)
        assert gone.ends == [] and stays.ends == [b"b"] and is_idle(link)

    linked(tmp_path, use)


def test_calls_of_a_lost_link_go_to_its_owner_sent_or_not(tmp_path: Path) -> None:
    lost: list[Call] = []
    changes: list[bool] = []

    async def use(link: ReplicaLink, peer: Peer) -> None:
        sent, unsent, later = Asked(), Asked(), Asked()
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


def test_without_an_owner_they_fail(tmp_path: Path) -> None:
    async def use(link: ReplicaLink, peer: Peer) -> None:
        calls = [Asked(trouble=True), Asked()]
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


def test_a_link_whose_replica_goes_away_finishes_and_closes(tmp_path: Path) -> None:
    changes: list[bool] = []

    async def use(link: ReplicaLink, peer: Peer) -> None:
        call = Asked((b"a",))
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
            call = Asked((big,))
            link.submit(call)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            link.cancel(call)  # its place is free, its bytes are still here
        await until(lambda: not link.usable)
        assert link.is_open and is_idle(link)
        peer.link.read_on()
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
