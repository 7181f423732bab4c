"""maas down: stop the server of this home."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from maas.cli.common import settings_of
from maas.cli.output import notify
from maas.cli.server.server_home import running_pid
from maas.domain.errors import DeadlineExceeded

POLL_S = 0.05


def command(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Directory that contains all state.")] = None,
    wait: Annotated[
        float | None, typer.Option(help="Seconds to wait (default: server.drain_s plus 20).")
    ] = None,
) -> None:
    """Stop the server after it has answered the requests in flight."""
    settings = settings_of(ctx, home=str(home) if home else None)
    pid = running_pid(settings)
    if pid is None:
        notify(f"no server runs for {settings.home}")
        return
    wait_s = settings.server.drain_s + 20 if wait is None else wait
    deadline = time.monotonic() + wait_s
    signaled = False
    while (current := running_pid(settings)) is not None:
        if current and not signaled:
            with contextlib.suppress(ProcessLookupError):
                os.kill(current, signal.SIGTERM)
            signaled = True
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"process {current} is still running after {wait_s:g} s")
        time.sleep(POLL_S)
    notify(f"stopped (process {pid})")


def register(app: typer.Typer) -> None:
    app.command("down")(command)
