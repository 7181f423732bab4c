"""Collection of the gateways' usage counters into the ledger."""

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

INTERVAL_S = 1.0


class UsageCollector:
    """Records the totals of every gateway, and removes the files of gateways that have exited.

    The ledger stores totals and never adds, so recording twice or being killed halfway is safe.
    """

    def __init__(self, ledger: UsageLedger, directory: Path) -> None:
        self._ledger = ledger
        self._directory = directory
        self._recorded: dict[str, list[Usage]] = {}
        self._lock = asyncio.Lock()
        self.gateways: list[dict[str, Any]] = []
        """The running gateways, as `{source, requests}`."""

    async def run(self) -> None:
        """Collects until it is cancelled."""
        while True:
            try:
                await self.collect()
            except MaasError as error:
                log.warning("usage cannot be recorded: %s", error)
            await asyncio.sleep(INTERVAL_S)

    async def collect(self) -> None:
        """Records the present totals of every gateway."""
        async with self._lock:
            self.gateways = await asyncio.to_thread(self._collect)

    def _collect(self) -> list[dict[str, Any]]:
        gateways = []
        for path in sorted(self._directory.glob("*.usage")):
            try:
                source, totals, alive = UsageFile.read(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                # It may be incomplete because a gateway is starting. A damaged file stays.
                log.debug("%s: %s", path.name, error)
                continue
            if self._recorded.get(source) != totals:
                self._ledger.record(source, totals)
                self._recorded[source] = totals
            if alive:
                gateways.append({"source": source, "requests": sum(t.requests for t in totals)})
            else:
                # `read` checks for life before it reads, so these totals are final.
                path.unlink(missing_ok=True)
                self._recorded.pop(source, None)
        return gateways
