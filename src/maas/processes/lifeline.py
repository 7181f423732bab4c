"""How our processes learn that they should stop.

The supervisor holds the writing end of a pipe and every process inherits the reading end. When
the supervisor ends, however it ends, the pipe closes, and nobody is left running alone.
"""

from __future__ import annotations

import asyncio
import os
import signal


def stop_event(lifeline: int | None) -> asyncio.Event:
    """Set on SIGTERM or SIGINT, or when the lifeline (a file descriptor) ends."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        os.set_blocking(lifeline, False)

        def readable() -> None:
            if not os.read(lifeline, 1):
                loop.remove_reader(lifeline)
                stop.set()

        loop.add_reader(lifeline, readable)
    return stop
