"""maas down: the server of this home ends, and answers first what it accepted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from maas.cli.common import say, settings_of
from maas.cli.server.server_home import running_pid
from maas.domain.errors import DeadlineExceeded

POLL_S = 0.05


def command(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Directory of all state.")] = None,
    wait: Annotated[
        float | None, typer.Option(help="Seconds to wait; default: as long as it may drain.")
    ] = None,
) -> None:
    """Stop the server after it has answered what it accepted."""
    settings = settings_of(ctx, home=str(home) if home else None)
    pid = running_pid(settings)
    if pid is None:
        say(f"no server runs for {settings.home}")
        return
    wait_s = settings.server.drain_s + 20 if wait is None else wait
    give_up = time.monotonic() + wait_s
    asked = False
    while (now := running_pid(settings)) is not None:
        if now and not asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(now, signal.SIGTERM)
            asked = True
        if time.monotonic() > give_up:
            raise DeadlineExceeded(f"process {now} still runs after {wait_s:g} s")
        time.sleep(POLL_S)
    say(f"stopped (process {pid})")


def register(app: typer.Typer) -> None:
    app.command("down")(command)
