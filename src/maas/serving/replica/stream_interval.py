"""Limits how often generated text is sent."""

from __future__ import annotations

import time

STREAM_MS = 40
"""Default interval between two frames of generated text, in milliseconds, about that of a film's
pictures. A frame costs the replica, the gateway and the client as much with one token as with ten.
The variant's option `stream_ms` overrides it; 0 sends every step at once."""


class StreamInterval:
    """The interval between two frames of generated text."""

    def __init__(self, interval_ms: int) -> None:
        self._interval_s = interval_ms / 1000
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether to send now. If True, the caller must send, because the next interval begins."""
        # Not the event loop's clock, which stands still during an engine step in the loop.
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._interval_s
        return True

    def seconds_left(self) -> float:
        """Seconds until `is_due` returns True."""
        return max(0.0, self._next - time.monotonic())

    def disable(self) -> None:
        """Make `is_due` return True from now on."""
        self._interval_s = self._next = 0.0
