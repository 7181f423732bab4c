"""Brings the gateways' usage counters into the ledger, and removes the files of dead gateways."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from maas.domain.errors import MaasError
from maas.domain.usage import Usage
from maas.serving.usage.usage_file import UsageFile
from maas.storage.usage import UsageLedger

log = logging.getLogger(__name__)

EVERY_S = 1.0


class UsageCollector:
    """Recording sets totals and never adds, so doing it twice, or dying halfway, is harmless."""

    def __init__(self, ledger: UsageLedger, directory: Path) -> None:
        self._ledger = ledger
        self._directory = directory
        self._recorded: dict[str, list[Usage]] = {}
        self._lock = asyncio.Lock()
        self.gateways: list[dict[str, Any]] = []
        """The gateways that count: `{source, requests}` each."""

    async def run(self) -> None:
        """Collects until it is cancelled."""
        while True:
            try:
                await self.collect()
            except MaasError as error:
                log.warning("usage is not recorded at the moment: %s", error)
            await asyncio.sleep(EVERY_S)

    async def collect(self) -> None:
        """Record what every gateway has counted until now."""
        async with self._lock:
            self.gateways = await asyncio.to_thread(self._collect)

    def _collect(self) -> list[dict[str, Any]]:
        gateways = []
        for path in sorted(self._directory.glob("*.usage")):
            try:
                source, totals, alive = UsageFile.read(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as wrong:
                # Perhaps it is being made at this moment; it stays for people to look at.
                log.debug("%s: %s", path.name, wrong)
                continue
            if self._recorded.get(source) != totals:
                self._ledger.record(source, totals)
                self._recorded[source] = totals
            if alive:
                gateways.append({"source": source, "requests": sum(t.requests for t in totals)})
            else:
                # `read` looks at liveness first, so these totals are final and now recorded.
                path.unlink(missing_ok=True)
                self._recorded.pop(source, None)
        return gateways
