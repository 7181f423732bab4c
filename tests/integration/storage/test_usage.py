"""The usage ledger: totals per gateway, without double counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from maas.domain.errors import InvalidInput
from maas.domain.usage import Usage
from maas.storage.database import Database
from maas.storage.usage import UsageLedger

ONE = Usage("k1", "digits", "predict", "2026-03-01", 10, 100, 1, 5_000)


def test_a_replayed_report_counts_once(db: Database) -> None:
    ledger = UsageLedger(db)
    for _ in range(3):
        ledger.record("gateway-1", [ONE])
    assert ledger.totals() == [ONE]


def test_a_late_report_does_not_lower_a_total(db: Database) -> None:
    ledger = UsageLedger(db)
    newer = replace(ONE, requests=20, rows=200, errors=2, compute_us=9_000)
    ledger.record("gateway-1", [newer])
    ledger.record("gateway-1", [ONE])
    assert ledger.totals() == [newer]
    mixed = replace(newer, requests=5, rows=300)
    ledger.record("gateway-1", [mixed])
    assert ledger.totals() == [replace(newer, rows=300)]


def test_totals_are_summed_over_gateways_only(db: Database) -> None:
    ledger = UsageLedger(db)
    others = [
        replace(ONE, key_id="k2"),
        replace(ONE, deployment="article"),
        replace(ONE, operation="explain"),
        replace(ONE, day="2026-03-02"),
    ]
    ledger.record("gateway-1", [ONE, *others])
    ledger.record("gateway-2", [ONE])
    twice = replace(ONE, requests=20, rows=200, errors=2, compute_us=10_000)
    # By day, then key, then deployment, then operation.
    assert ledger.totals() == [others[1], others[2], twice, others[0], others[3]]


def test_totals_can_be_filtered(db: Database) -> None:
    ledger = UsageLedger(db)
    other = replace(ONE, key_id="k2", deployment="article", day="2026-03-02")
    ledger.record("gateway-1", [ONE, other])
    assert ledger.totals(key_id="k2") == [other]
    assert ledger.totals(deployment="digits") == [ONE]
    assert ledger.totals(since="2026-03-02") == [other]
    assert ledger.totals(key_id="k1", since="2026-03-02") == []
    with pytest.raises(InvalidInput, match="YYYY-MM-DD"):
        ledger.totals(since="yesterday")


def test_counts_beyond_32_bits_are_exact(db: Database) -> None:
    large = replace(ONE, compute_us=2**53 + 1, rows=2**40)
    UsageLedger(db).record("gateway-1", [large])
    UsageLedger(db).record("gateway-2", [large])
    total = UsageLedger(db).totals()[0]
    assert total.compute_us == 2 * (2**53 + 1)
    assert {type(total.rows), type(total.compute_us)} == {int}, "JSON has no decimals"


def test_an_empty_report_has_no_effect(db: Database) -> None:
    UsageLedger(db).record("gateway-1", [])
    assert UsageLedger(db).totals() == []


def test_concurrent_reports_all_count(db: Database) -> None:
    ledger = UsageLedger(db)
    totals = [replace(ONE, key_id=f"k{i}") for i in range(20)]

    def report(i: int) -> None:
        ledger.record(f"gateway-{i % 3}", totals)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(24)))
    assert {u.requests for u in ledger.totals()} == {30}
