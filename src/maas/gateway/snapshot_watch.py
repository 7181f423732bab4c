"""Follows the routing snapshot that control writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from maas.domain.snapshot import Snapshot

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05


class SnapshotWatch:
    """Calls `apply` with every new snapshot. A file that cannot be read changes nothing: the
    gateway goes on with what it knows, with control and database away for as long as it takes."""

    def __init__(self, path: Path, apply: Callable[[Snapshot], None]) -> None:
        self._path = path
        self._apply = apply
        self._seen: tuple[int, int] | None = None
        self._failed: tuple[int, int] | None = None
        """Read in vain since the last poll: unknown keys do not have it read again."""
        self._complaint = ""
        self.generation = 0
        self._poll()

    @property
    def has_snapshot(self) -> bool:
        return self.generation > 0

    def _poll(self) -> None:
        self._failed = None
        self.look()
        self._timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll)

    def look(self) -> None:
        """Apply the snapshot if there is a new one. Cheap if there is none: one stat."""
        try:
            self._look()
            self._complaint = ""
        except Exception as wrong:
            # Whatever is wrong with this snapshot, the next one may be good. Said once: this
            # comes round twenty times a second.
            complaint = f"{type(wrong).__name__}: {wrong}"
            if complaint != self._complaint:
                self._complaint = complaint
                log.exception("cannot follow the routing snapshot")

    def _look(self) -> None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return
        latest = (found.st_mtime_ns, found.st_ino)
        if latest not in (self._seen, self._failed):
            self._failed = latest
            snapshot = msgspec.json.decode(self._path.read_bytes(), type=Snapshot)
            self._apply(snapshot)
            self.generation = max(1, snapshot.generation)
            self._seen = latest

    def close(self) -> None:
        self._timer.cancel()
