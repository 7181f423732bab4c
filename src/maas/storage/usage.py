"""The usage ledger: cumulative totals per gateway incarnation, summed when read.

A gateway counts in memory and reports totals, not increments. The ledger stores the highest total
of each count, so a report may arrive twice, late or in any order and is never counted twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date

from sqlalchemy import ColumnElement, RowMapping, case, func, select

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.domain.usage import Usage
from maas.storage.database import Database
from maas.storage.schema import usage
from maas.storage.upsert import upsert

_COUNTS = ("requests", "rows", "errors", "compute_us", "prompt_tokens", "completion_tokens")
_DIMENSIONS = ("key_id", "deployment", "operation", "day")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class UsageLedger:
    """Table of usage."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def record(self, source: str, totals: Sequence[Usage]) -> None:
        """Stores the totals of one gateway incarnation. A stored count never decreases."""
        if not totals:
            return
        statement = upsert(self._db, usage)
        new = statement.excluded
        highest: dict[str, ColumnElement[int]] = {
            name: case((new[name] > usage.c[name], new[name]), else_=usage.c[name])
            for name in _COUNTS
        }
        statement = statement.on_conflict_do_update(
            index_elements=["source", *_DIMENSIONS], set_=highest
        )
        rows = [{"source": source} | asdict(total) for total in totals]
        self._db.retry(lambda connection: connection.execute(statement, rows))

    def totals(
        self,
        key_id: str | None = None,
        deployment: str | None = None,
        since: str | None = None,
    ) -> list[Usage]:
        """Totals summed over gateways, ordered by day; `since` is the first day, YYYY-MM-DD."""
        dimensions = [usage.c[name] for name in _DIMENSIONS]
        sums = [func.sum(usage.c[name]).label(name) for name in _COUNTS]
        query = select(*dimensions, *sums).group_by(*dimensions)
        if key_id is not None:
            query = query.where(usage.c.key_id == key_id)
        if deployment is not None:
            query = query.where(usage.c.deployment == deployment)
        if since is not None:
            if not _is_day(since):
                raise InvalidInput(
                    f"since must be a day, YYYY-MM-DD; got {shown(since)}", field="since"
                )
            query = query.where(usage.c.day >= since)
        order = (usage.c.day, usage.c.key_id, usage.c.deployment, usage.c.operation)
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(*order)).mappings().all()
        return [_total(row) for row in rows]


def _is_day(text: str) -> bool:
    try:
        return _DAY.fullmatch(text) is not None and date.fromisoformat(text) is not None
    except ValueError:  # for example month 13
        return False


def _total(row: RowMapping) -> Usage:
    # PostgreSQL returns the sum of 64-bit integers as a decimal.
    return Usage(**dict(row) | {name: int(row[name]) for name in _COUNTS})
