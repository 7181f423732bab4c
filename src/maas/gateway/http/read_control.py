"""Pauses and resumes the reading of a connection."""

from __future__ import annotations

import asyncio
import time
from enum import Enum

from maas.gateway.http.read_timeouts import ConnectionActivity


class PauseReason(Enum):
    """A reason not to read from a connection."""

    PIPELINE = "enough requests wait for their answers"
    BODY = "the last piece of a streamed body is not consumed"
    WRITE = "the client does not read its answers"


class ReadControl:
    """Pauses reading while there is a reason to. Paused time does not count against the client."""

    __slots__ = ("_activity", "_reasons", "_since", "_transport")

    def __init__(self, transport: asyncio.Transport, activity: ConnectionActivity) -> None:
        self._transport = transport
        self._activity = activity
        self._reasons: set[PauseReason] = set()
        self._since = 0.0

    @property
    def is_paused(self) -> bool:
        return bool(self._reasons)

    def pause(self, reason: PauseReason) -> None:
        if not self._reasons and not self._transport.is_closing():
            self._since = time.monotonic()
            self._transport.pause_reading()
        self._reasons.add(reason)

    def resume(self, *reasons: PauseReason) -> None:
        if not self._reasons:
            return
        self._reasons.difference_update(reasons)
        if not self._reasons and not self._transport.is_closing():
            now = time.monotonic()
            activity = self._activity
            activity.since += now - max(self._since, activity.since)
            self._transport.resume_reading()
