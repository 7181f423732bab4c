"""The file with the routing snapshot, and the file with the active revisions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import msgspec

from maas.control.private_files import write_private
from maas.domain.deployments import Deployment
from maas.domain.errors import MaasError
from maas.domain.snapshot import Snapshot

log = logging.getLogger(__name__)


class SnapshotFile:
    """Writes a snapshot when its content changes, each with a higher generation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._active_path = path.with_name("active.json")
        self._last = Snapshot(self._previous_generation())
        self._last_active = b""

    def write(self, content: Snapshot) -> bool:
        """Writes `content` with the next generation and the present time; False if unchanged."""
        last = self._last
        if (
            last.written_at
            and replace(content, generation=last.generation, written_at=last.written_at) == last
        ):
            return False
        snapshot = replace(content, generation=last.generation + 1, written_at=time.time())
        write_private(self._path, msgspec.json.encode(snapshot))
        self._last = snapshot
        return True

    def write_active(self, deployments: Iterable[Deployment]) -> None:
        """Stores the revisions that have the traffic.

        The next control process must route to them until newer ones are ready, and the database
        does not have them.
        """
        content = json.dumps({d.name: d.to_dict() for d in deployments}).encode()
        if content != self._last_active:
            write_private(self._active_path, content)
            self._last_active = content

    def read_active(self) -> dict[str, Deployment]:
        """The revisions that had the traffic, by name; {} if they cannot be read."""
        try:
            raw = json.loads(self._active_path.read_bytes())
            return {str(name): Deployment.from_dict(d) for name, d in raw.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, MaasError) as error:
            log.warning("%s cannot be read: %s", self._active_path, error)
            return {}

    def _previous_generation(self) -> int:
        try:
            return int(json.loads(self._path.read_bytes())["generation"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0
