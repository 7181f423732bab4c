"""Timeouts of a connection, and the activity that they are compared with."""

from __future__ import annotations

import time
from dataclasses import dataclass

BODY_BYTES_PER_SECOND = 1024
"""Slowest accepted rate of a request's body."""
LINGER_BYTES = 256 << 20
"""Bytes that are read and dropped after the last response at most."""


@dataclass(frozen=True)
class ReadTimeouts:
    """Limits on how long a client may take, in seconds."""

    head_s: float = 10.0
    """From the first to the last byte of a request's head."""
    idle_s: float = 75.0
    """Between two requests of a connection."""
    body_grace_s: float = 10.0
    """From the start of a body until its rate is checked."""
    stalled_write_s: float = 30.0
    """Without reading a byte of its answers."""
    linger_s: float = 10.0
    """From the last answer until the connection is closed, if the client still sends."""
    linger_silence_s: float = 2.0
    """As `linger_s`, since the client last sent anything."""


class ConnectionActivity:
    """When a connection last made progress, and whether that exceeds a timeout.

    All times are in seconds on the monotonic clock.
    """

    __slots__ = ("_linger_since", "_lingered_bytes", "_progress_at", "_timeouts", "_unsent",
                 "answered", "body_bytes", "last_read", "since")  # fmt: skip

    def __init__(self, timeouts: ReadTimeouts) -> None:
        self._timeouts = timeouts
        self.since = self.answered = self.last_read = time.monotonic()
        """`since`: start of the current head, body or idle time."""
        self.body_bytes = 0
        """Bytes of the current body so far."""
        self._unsent = 0
        self._progress_at = 0.0
        self._linger_since = 0.0
        self._lingered_bytes = 0

    def is_stalled(self, now: float, unsent: int) -> bool:
        """Whether the client has read no answer for too long; called about once a second.

        `unsent` is the number of bytes in the write buffer.
        """
        if unsent == 0 or self._unsent == 0 or unsent < self._unsent:
            self._progress_at = now
        self._unsent = unsent
        return now - self._progress_at > self._timeouts.stalled_write_s

    def head_is_late(self, now: float) -> bool:
        return now - self.since > self._timeouts.head_s

    def body_is_late(self, now: float) -> bool:
        elapsed = now - self.since - self._timeouts.body_grace_s
        return self.body_bytes < elapsed * BODY_BYTES_PER_SECOND

    @property
    def idle_since(self) -> float:
        return max(self.since, self.answered)

    def is_idle_too_long(self, now: float) -> bool:
        return now - self.idle_since > self._timeouts.idle_s

    # -- after the last answer --------------------------------------------------------------

    @property
    def is_lingering(self) -> bool:
        return self._linger_since > 0

    def linger(self) -> None:
        """Begin to drop what the client sends, which it may finish before it reads its answer."""
        self._linger_since = self.last_read = time.monotonic()

    def linger_over(self, size: int) -> bool:
        """Count `size` more dropped bytes; True if they exceed the limit."""
        self.last_read = time.monotonic()
        self._lingered_bytes += size
        return self._lingered_bytes > LINGER_BYTES

    def has_lingered(self, now: float) -> bool:
        """Whether it is time to close the connection."""
        silent = now - self.last_read > self._timeouts.linger_silence_s
        return silent or now - self._linger_since > self._timeouts.linger_s
