"""Time and quantity: how long a connection may take for what, and when it is not read from."""

from __future__ import annotations

import asyncio
import time
from enum import Enum

HEAD_SECONDS = 10.0
IDLE_SECONDS = 75.0
BODY_GRACE_SECONDS = 10.0
BODY_BYTES_PER_SECOND = 1024
STALLED_WRITE_SECONDS = 30.0
"""How long a client may take nothing of what it is sent."""
LINGER_SECONDS = 10.0
LINGER_SILENCE_SECONDS = 2.0
LINGER_BYTES = 256 << 20


class PauseReason(Enum):
    """A reason not to read from a connection."""

    PIPELINE = "enough requests wait for their answers"
    BODY = "whoever takes the body has not taken its last piece"
    WRITE = "the client does not take its answers"


class ReadTimeouts:
    """What one connection has done since when; all times in seconds on the monotonic clock."""

    __slots__ = ("_linger_since", "_lingered_bytes", "_taken", "_unsent", "answered", "body_bytes",
                 "last_read", "since")  # fmt: skip

    def __init__(self) -> None:
        self.since = self.answered = self.last_read = time.monotonic()
        """`since`: the present head, body or idle time began."""
        self.body_bytes = 0
        self._unsent = 0
        self._taken = 0.0
        self._linger_since = 0.0
        self._lingered_bytes = 0

    def is_stalled(self, now: float, unsent: int) -> bool:
        """To be asked about once a second: has the client taken nothing for too long?"""
        if unsent == 0 or self._unsent == 0 or unsent < self._unsent:
            self._taken = now
        self._unsent = unsent
        return now - self._taken > STALLED_WRITE_SECONDS

    def head_is_late(self, now: float) -> bool:
        return now - self.since > HEAD_SECONDS

    def body_is_late(self, now: float) -> bool:
        enough = (now - self.since - BODY_GRACE_SECONDS) * BODY_BYTES_PER_SECOND
        return self.body_bytes < enough

    @property
    def idle_since(self) -> float:
        return max(self.since, self.answered)

    def is_idle_too_long(self, now: float) -> bool:
        return now - self.idle_since > IDLE_SECONDS

    # -- after the last answer --------------------------------------------------------------

    @property
    def is_lingering(self) -> bool:
        return self._linger_since > 0

    def linger(self) -> None:
        """From now on what comes is only read so that the client gets to read its answer."""
        self._linger_since = self.last_read = time.monotonic()

    def linger_over(self, size: int) -> bool:
        """`size` more bytes came; True if that was enough."""
        self.last_read = time.monotonic()
        self._lingered_bytes += size
        return self._lingered_bytes > LINGER_BYTES

    def has_lingered(self, now: float) -> bool:
        silent = now - self.last_read > LINGER_SILENCE_SECONDS
        return silent or now - self._linger_since > LINGER_SECONDS


class ReadControl:
    """Reads on only while nobody has a reason against it; time paused is not the client's."""

    __slots__ = ("_pace", "_reasons", "_since", "_transport")

    def __init__(self, transport: asyncio.Transport, pace: ReadTimeouts) -> None:
        self._transport = transport
        self._pace = pace
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
            self._pace.since += now - max(self._since, self._pace.since)
            self._transport.resume_reading()
