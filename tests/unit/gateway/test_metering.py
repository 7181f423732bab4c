"""Usage and metrics are counted once, and survive a crash; the snapshot is followed."""

from __future__ import annotations

import asyncio
import fcntl
import time
from array import array
from pathlib import Path

import msgspec
import pytest
import uvloop

from maas.domain.errors import Overloaded, Unauthenticated
from maas.domain.keys import Key, Scope, hash_token
from maas.domain.signature import Signature, TensorSpec
from maas.domain.snapshot import Snapshot, TargetRoute
from maas.gateway.http.auth import KeyRing
from maas.gateway.metering import (
    BATCH_ROWS,
    BATCHES,
    COUNT,
    FIRST_BUCKET,
    MODEL_US,
    QUEUE_US,
    GenerationUsage,
    Meter,
)
from maas.gateway.snapshot_watch import SnapshotWatch
from maas.serving.routing.live_target import LiveTarget
from maas.serving.usage import counter_file
from maas.serving.usage.usage_file import UsageFile
from maas.serving.wire.messages import Answers, Column
from tests.support.fakes.replica_peer import until

KEY = Key("k1", "caller", (Scope.CALL,), "hash")
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),), example={"x": [1]}
)


def meter_of(directory: Path, source: str) -> Meter:
    return Meter(directory / "usage", directory, source)


def test_answers_and_failures_are_counted_and_a_batch_once(tmp_path: Path) -> None:
    meter = meter_of(tmp_path, "g1")
    target = LiveTarget("d", TargetRoute(1, "v", 100, SIGNATURE, ()), 256)
    answers = Answers(
        array("Q", [1, 2]),
        array("I", [1, 3]),
        array("I", [10, 20]),
        800,
        8,
        [Column((1,), bytes(16))],
        total_rows=4,
    )
    for rows in answers.rows:
        meter.answered(KEY, "predict", target, rows, time.monotonic(), answers)
    meter.failed(KEY, "predict", "d", target, Overloaded())
    meter.failed(None, "predict", "d", None, Overloaded())
    totals = meter.totals()
    ok = totals["d\t1\tv\tok"]
    assert sum(ok[FIRST_BUCKET:]) == 2
    assert (ok[BATCHES], ok[BATCH_ROWS], ok[QUEUE_US], ok[MODEL_US]) == (1, 4, 30, 800)
    assert totals["d\t1\tv\toverloaded"][COUNT] == 1
    _, (usage,), alive = UsageFile.read(tmp_path / "usage" / "g1.usage")
    assert alive and (usage.requests, usage.rows, usage.errors) == (2, 4, 1)
    assert usage.compute_us == 800 * 4 // 8 and usage.prompt_tokens == 0
    answers.prompt_tokens, answers.completion_tokens = 10, 4
    meter.answered(KEY, "predict", target, 4, time.monotonic(), answers)
    _, (usage,), _ = UsageFile.read(tmp_path / "usage" / "g1.usage")
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 4)
    assert meter.totals("generations")["d\t1\tv\tpredict"][:2] == (10, 4)
    meter.close()


def test_the_usage_of_a_canceled_text_counts_without_a_request(tmp_path: Path) -> None:
    meter = meter_of(tmp_path, "g1")
    target = LiveTarget("d", TargetRoute(1, "v", 100, SIGNATURE, ()), 256)
    meter.computed(KEY, "predict", target, GenerationUsage(0, compute_us=30))
    meter.computed(KEY, "predict", target, GenerationUsage(0, 7, 2, compute_us=50))
    _, (usage,), _ = UsageFile.read(tmp_path / "usage" / "g1.usage")
    assert (usage.requests, usage.rows, usage.errors) == (0, 0, 0)
    assert (usage.compute_us, usage.prompt_tokens, usage.completion_tokens) == (80, 7, 2)
    assert meter.totals()["d\t1\tv\tok"][MODEL_US] == 80
    assert meter.totals("generations")["d\t1\tv\tpredict"][:2] == (7, 2)
    meter.close()


def test_workers_are_added_up_and_files_of_exited_ones_are_deleted(tmp_path: Path) -> None:
    first, second = meter_of(tmp_path, "g1"), meter_of(tmp_path, "g2")
    target = LiveTarget("d", TargetRoute(1, "v", 100, SIGNATURE, ()), 256)
    for meter in (first, second):
        meter.failed(None, "predict", "d", target, Overloaded())
    assert second.totals()["d\t1\tv\toverloaded"][COUNT] == 2
    first.close()
    (tmp_path / "junk.metrics").write_bytes(b"junk")
    third = meter_of(tmp_path, "g3")
    assert {p.name for p in tmp_path.glob("*.metrics")} == {"g2.metrics", "g3.metrics"}
    assert (tmp_path / "usage" / "g1.usage").exists()
    second.close()
    third.close()


@pytest.mark.parametrize("moment", ["before the lock", "after the lock"])
def test_a_file_in_creation_does_not_look_like_one_of_an_exited_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    others: list[Meter] = []
    visible: list[Path] = []

    class FcntlWithConcurrentStart:
        LOCK_EX, LOCK_SH = fcntl.LOCK_EX, fcntl.LOCK_SH
        LOCK_NB, LOCK_UN = fcntl.LOCK_NB, fcntl.LOCK_UN

        @staticmethod
        def flock(fd: int, operation: int) -> None:
            if moment == "after the lock":
                fcntl.flock(fd, operation)
            if operation == fcntl.LOCK_EX:
                monkeypatch.setattr(counter_file, "fcntl", fcntl)
                others.append(meter_of(tmp_path, "g2"))
                visible.extend(p for p in tmp_path.rglob("g1.*") if p.suffix != ".new")
            if moment == "before the lock":
                fcntl.flock(fd, operation)

    monkeypatch.setattr(counter_file, "fcntl", FcntlWithConcurrentStart)
    file = counter_file.CounterFile(tmp_path / "g1.metrics", "g1", 2)
    assert len(others) == 1 and visible == []
    assert counter_file.read_counters(tmp_path / "g1.metrics") == ("g1", {}, True)
    with pytest.raises(FileExistsError):
        counter_file.CounterFile(tmp_path / "g1.metrics", "g1", 2)
    file.close()
    others[0].close()


def test_a_new_key_is_accepted_before_the_next_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maas.gateway.snapshot_watch.POLL_SECONDS", 60.0)
    path = tmp_path / "snapshot.json"
    path.write_bytes(msgspec.json.encode(Snapshot(1)))
    key = Key("k1", "k", (Scope.CALL,), hash_token("maas_k1_secret"))

    async def main() -> None:
        ring = KeyRing()
        watch = SnapshotWatch(path, lambda snapshot: ring.replace(snapshot.keys))
        ring.reload = watch.poll
        (tmp_path / "new").write_bytes(msgspec.json.encode(Snapshot(2, keys=(key,))))
        (tmp_path / "new").rename(path)
        assert ring.authenticate({b"x-api-key": b"maas_k1_secret"}).id == "k1"
        with pytest.raises(Unauthenticated):
            ring.authenticate({b"x-api-key": b"maas_k1_other"})
        watch.close()

    uvloop.run(main())


def test_bad_snapshots_are_logged_once_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("maas.gateway.snapshot_watch.POLL_SECONDS", 0.002)
    path = tmp_path / "snapshot.json"
    applied: list[int] = []
    attempts: list[int] = []

    def apply(snapshot: Snapshot) -> None:
        attempts.append(snapshot.generation)
        if snapshot.generation == 2:
            raise ZeroDivisionError("a bug")
        applied.append(snapshot.generation)

    def write(data: bytes) -> None:
        (tmp_path / "new").write_bytes(data)
        (tmp_path / "new").rename(path)

    async def main() -> None:
        watch = SnapshotWatch(path, apply)
        assert not watch.has_snapshot
        write(msgspec.json.encode(Snapshot(1)))
        await until(lambda: applied == [1])
        write(b"{")
        await until(lambda: len(caplog.records) == 1)
        write(msgspec.json.encode(Snapshot(2)))
        await until(lambda: len(attempts) >= 4)
        assert len(caplog.records) == 2 and watch.generation == 1
        write(msgspec.json.encode(Snapshot(3)))
        await until(lambda: applied == [1, 3])
        await asyncio.sleep(0.01)
        assert applied == [1, 3] and watch.generation == 3
        watch.close()

    uvloop.run(main())
    assert "ZeroDivisionError" in caplog.text
