"""The stop event of a process: signals and the lifeline.

The lifeline is a pipe. The supervisor holds its writing end, and every process inherits the reading
end. When the supervisor exits for any reason, the pipe closes and all processes stop.
"""

from __future__ import annotations

import asyncio
import os
import signal


def stop_event(lifeline: int | None) -> asyncio.Event:
    """An event that is set on SIGTERM, on SIGINT, or when the lifeline (a file descriptor)
    closes."""
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
