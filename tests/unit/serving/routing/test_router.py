"""Deployments, their targets by weight, and what happens to calls of replaced ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from maas.domain.errors import (
    DeadlineExceeded,
    NotFound,
    Unavailable,
)
from maas.domain.snapshot import Snapshot
from tests.support.fakes.cluster import (
    OTHER,
    Cluster,
    submit_and_wait,
    target,
    with_cluster,
)
from tests.support.fakes.replica_peer import FakeCall, until


def test_unknown_names_and_versions_are_refused(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        router = cluster.router
        with pytest.raises(NotFound, match="no default deployment"):
            router.get(None)
        a = await cluster.peer()
        await cluster.serve(target(a, version=3), target(a, version=4, weight=0))
        assert router.get(None) is router.get("d")
        with pytest.raises(NotFound, match=r"^there is no deployment 'other'$"):
            router.get("other")
        router.deployments["digits"] = router.deployments["d"]
        with pytest.raises(NotFound, match=r"'digts'; did you mean 'digits'\?$"):
            router.get("digts")
        del router.deployments["digits"]
        assert router.get("d").pick(4).version == 4
        with pytest.raises(NotFound, match="does not serve version 9"):
            router.get("d").pick(9)

    with_cluster(tmp_path, use)


def test_traffic_is_shared_by_weight_among_ready_targets(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        targets = (target(a, version=1, weight=90), target(b, version=2, weight=10))
        await cluster.serve(*targets, target(a, version=3, weight=0))
        live = cluster.router.get("d")
        picked = Counter(live.pick().version for _ in range(4000))
        assert 3400 < picked[1] < 3800 and picked[1] + picked[2] == 4000
        a.crash()
        await until(lambda: not live.targets[0].is_ready)
        assert {live.pick().version for _ in range(50)} == {2}

    with_cluster(tmp_path, use)


def test_a_replaced_target_still_enforces_deadlines(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer()
        live = await cluster.serve(target(a))
        call, patient = (
            await submit_and_wait(live, a, FakeCall(seconds=0.2)),
            await submit_and_wait(live, a),
        )
        await cluster.serve(target(b, version=2))
        await until(lambda: call.ends)
        assert isinstance(call.error, DeadlineExceeded)
        a.link.answer(a.link.infers[-1])
        await until(lambda: patient.ends)
        assert patient.ends == [b"\0"]
        await until(lambda: not cluster.router.get("d")._retired)

    with_cluster(tmp_path, use)


def test_a_deleted_deployment_still_enforces_deadlines(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a = await cluster.peer()
        live = await cluster.serve(target(a))
        call = await submit_and_wait(live, a, FakeCall(seconds=0.2))
        cluster.router.apply(Snapshot(2))
        await until(lambda: call.ends)
        assert isinstance(call.error, DeadlineExceeded)
        await until(lambda: not cluster.router._removed)

    with_cluster(tmp_path, use)


def test_calls_that_a_replaced_target_loses_go_to_its_successor(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        call = await submit_and_wait(live, a, FakeCall((b"h",)))
        await cluster.serve(target(b, version=2))
        a.crash()
        await until(lambda: call.ends)
        assert call.ends == [b"h"]

    with_cluster(tmp_path, use)


class PinnedCall(FakeCall):
    is_pinned = True


def test_a_pinned_call_is_answered_by_no_other_version(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        lost = await submit_and_wait(live, a, PinnedCall())
        await cluster.serve(target(b, version=2))
        with pytest.raises(Unavailable, match="replaced meanwhile"):
            live.submit(PinnedCall())
        a.crash()
        await until(lambda: lost.ends)
        assert isinstance(lost.error, Unavailable) and b.received_ids == []

    with_cluster(tmp_path, use)


def test_a_pinned_call_is_answered_by_another_target_of_its_version(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        await cluster.serve(replace(target(b), variant="other"))
        late = PinnedCall((b"p",))
        live.submit(late)
        await until(lambda: late.ends)
        assert late.ends == [b"p"]

    with_cluster(tmp_path, use)


def test_a_target_with_another_signature_is_no_successor(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        a, b = await cluster.peer(), await cluster.peer(answers_at_once=True)
        live = await cluster.serve(target(a))
        call = await submit_and_wait(live, a)
        await cluster.serve(target(b, version=2, signature=OTHER))
        a.crash()
        await until(lambda: call.ends)
        assert isinstance(call.error, Unavailable) and b.received_ids == []

    with_cluster(tmp_path, use)


def test_waiting_calls_of_a_replaced_target_move_and_can_be_canceled(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        live = await cluster.serve(target())
        canceled, waiting_call = FakeCall(), FakeCall((b"s",))
        live.submit(canceled)
        live.submit(waiting_call)
        await cluster.serve(target(version=2))
        live.cancel(canceled)
        a = await cluster.peer(answers_at_once=True)
        await cluster.serve(target(a, version=3))
        await until(lambda: waiting_call.ends)
        assert waiting_call.ends == [b"s"] and len(a.received_ids) == 1

    with_cluster(tmp_path, use)


def test_waiting_calls_of_a_deleted_deployment_fail(tmp_path: Path) -> None:
    async def use(cluster: Cluster) -> None:
        live = await cluster.serve(target())
        bad, call = FakeCall(raises=True), FakeCall()
        live.submit(bad)
        live.submit(call)
        cluster.router.apply(Snapshot(2))
        assert isinstance(call.error, NotFound)

    with_cluster(tmp_path, use)
