"""Usage reaches the ledger exactly once, whichever process is killed at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from maas.control.usage_collector import UsageCollector
from maas.serving.usage.usage_file import REQUESTS, ROWS, UsageFile
from maas.storage.database import Database
from maas.storage.usage import UsageLedger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[UsageLedger]:
    database = Database.open(f"sqlite:///{tmp_path / 'maas.db'}")
    yield UsageLedger(database)
    database.close()


def counted(ledger: UsageLedger) -> dict[str, int]:
    return {t.key_id: t.requests for t in ledger.totals()}


def test_totals_of_running_gateways_are_set_and_not_added(
    ledger: UsageLedger, tmp_path: Path
) -> None:
    gateway = UsageFile(tmp_path / "usage", "gateway-1")
    collector = UsageCollector(ledger, tmp_path / "usage")
    slot = gateway.slot("k1", "digits", "predict")
    for expected in (1, 2, 3):
        slot[REQUESTS] += 1
        slot[ROWS] += 5
        asyncio.run(collector.collect())
        asyncio.run(collector.collect())
        assert counted(ledger) == {"k1": expected}
    assert collector.gateways == [{"source": "gateway-1", "requests": 3}]
    # A restarted control process reads everything again.
    asyncio.run(UsageCollector(ledger, tmp_path / "usage").collect())
    assert counted(ledger) == {"k1": 3}
    slot.release()
    gateway.close()


def test_the_file_of_an_exited_gateway_is_recorded_and_removed(
    ledger: UsageLedger, tmp_path: Path
) -> None:
    folder = tmp_path / "usage"
    collector = UsageCollector(ledger, folder)
    gateway = UsageFile(folder, "gateway-1")
    gateway.slot("k1", "digits", "predict")[REQUESTS] += 7
    gateway.close()
    asyncio.run(collector.collect())
    assert counted(ledger) == {"k1": 7} and not list(folder.iterdir())
    later = UsageFile(folder, "gateway-2")
    later.slot("k1", "digits", "predict")[REQUESTS] += 1
    later.close()
    asyncio.run(collector.collect())
    assert counted(ledger) == {"k1": 8} and collector.gateways == []


def test_a_file_in_another_format_is_left_alone(ledger: UsageLedger, tmp_path: Path) -> None:
    folder = tmp_path / "usage"
    folder.mkdir()
    (folder / "odd.usage").write_bytes(b"odd")
    asyncio.run(UsageCollector(ledger, folder).collect())
    assert counted(ledger) == {} and (folder / "odd.usage").exists()
