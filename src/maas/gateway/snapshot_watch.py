"""Reads the routing snapshot whenever control has written a new one."""

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
    """Calls `apply` with every new snapshot.

    If the file cannot be read, the gateway keeps its last snapshot, however long control and the
    database are down.
    """

    def __init__(self, path: Path, apply: Callable[[Snapshot], None]) -> None:
        self._path = path
        self._apply = apply
        self._applied: tuple[int, int] | None = None
        """Modification time and inode of the last applied file."""
        self._failed: tuple[int, int] | None = None
        """The same of a file that failed since the last timed poll; polls for unknown keys do not
        read it again."""
        self._logged_error = ""
        self.generation = 0
        self._poll_again()

    @property
    def has_snapshot(self) -> bool:
        return self.generation > 0

    def _poll_again(self) -> None:
        self._failed = None
        self.poll()
        self._timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._poll_again)

    def poll(self) -> None:
        """Apply the snapshot if there is a new one; otherwise this costs one `stat`."""
        try:
            self._apply_if_new()
            self._logged_error = ""
        except Exception as error:
            # The next snapshot may be good. Each error is logged once, not at every poll.
            message = f"{type(error).__name__}: {error}"
            if message != self._logged_error:
                self._logged_error = message
                log.exception("cannot follow the routing snapshot")

    def _apply_if_new(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return
        latest = (status.st_mtime_ns, status.st_ino)
        if latest not in (self._applied, self._failed):
            self._failed = latest
            snapshot = msgspec.json.decode(self._path.read_bytes(), type=Snapshot)
            self._apply(snapshot)
            self.generation = max(1, snapshot.generation)
            self._applied = latest

    def close(self) -> None:
        self._timer.cancel()
