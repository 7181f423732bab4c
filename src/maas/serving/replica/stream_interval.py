"""How often texts are told while they are written."""

from __future__ import annotations

import time

STREAM_MS = 40
"""At most so often: as a film shows pictures. Each telling costs replica, gateway and caller as
much with one token as with ten. The variant's option `stream_ms` may say otherwise; 0: always."""


class StreamInterval:
    """Whether it is time to tell again. Who gets a yes tells, for that begins the next pause."""

    def __init__(self, milliseconds: int) -> None:
        self._pause = milliseconds / 1000
        self._next = 0.0

    def is_time(self) -> bool:
        # Not by an event loop's own time, which stands still during a step that it computes.
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._pause
        return True

    def seconds_left(self) -> float:
        return max(0.0, self._next - time.monotonic())

    def end(self) -> None:
        """From now on it is always time."""
        self._pause = self._next = 0.0
