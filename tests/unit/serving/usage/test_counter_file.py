"""Counters can be read at any time, and survive a crash."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from maas.serving.usage.counter_file import CounterFile, read_counters
from maas.serving.usage.usage_file import UsageFile


def test_totals_can_be_read_while_the_writer_runs(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "c", "gateway-1", width=2)
    file.slot("a")[0] += 3
    file.slot("b")[1] += 4
    file.slot("a")[0] += 1
    assert read_counters(tmp_path / "c") == ("gateway-1", {"a": (4, 0), "b": (0, 4)}, True)
    file.close()
    assert read_counters(tmp_path / "c")[2] is False


def test_labels_beyond_the_capacity_share_a_slot(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "c", "g", width=1, capacity=3)
    for label in "abcde":
        file.slot(label)[0] += 1
    _, totals, _ = read_counters(tmp_path / "c")
    assert totals == {"a": (1,), "b": (1,), "": (3,)}
    file.close()


def test_an_incomplete_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="too short"):
        read_counters(tmp_path / "c")


def _count_and_die(directory: Path) -> None:
    usage = UsageFile(directory, "g1")
    for _ in range(1000):
        usage.slot("k1", "article", "predict")[0] += 1
    os.kill(os.getpid(), signal.SIGKILL)


def test_kill_9_of_the_writer_loses_no_count(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_count_and_die, args=(tmp_path,))
    child.start()
    child.join()
    source, usages, alive = UsageFile.read(tmp_path / "g1.usage")
    assert (child.exitcode, source, alive) == (-signal.SIGKILL, "g1", False)
    assert [(u.key_id, u.deployment, u.operation, u.requests) for u in usages] == [
        ("k1", "article", "predict", 1000)
    ]
