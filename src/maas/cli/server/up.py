"""maas up: start the server of this home."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.background import start_in_background
from maas.cli.commands import CONFIGURATION
from maas.cli.common import settings_of
from maas.cli.output import emit, notify
from maas.cli.server.server_home import probe, running_pid
from maas.domain.errors import Conflict, DeadlineExceeded, MaasError
from maas.settings import ConfigurationError
from maas.storage.files import make_own_dir

if TYPE_CHECKING:
    from maas.settings import Settings

POLL_S = 0.02
UP = "up"
"""The log of the supervisor that runs in the background."""


def command(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of gateway processes.")] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Accept remote connections without TLS."),
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Directory that contains all state.")] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", "-d", help="Run in the background; return when the server is ready."
        ),
    ] = False,
    wait: Annotated[
        float, typer.Option(help="Seconds that --detach waits until it is ready.")
    ] = 30.0,
) -> None:
    """Start the server. It runs until Ctrl-C or `maas down`.

    The first start writes an admin key to HOME/admin.key; commands on this machine use it.
    """
    settings = settings_of(
        ctx,
        home=str(home) if home else None,
        server__host=host,
        server__port=port,
        server__workers=workers,
        server__insecure=insecure,
    )
    if not detach:
        from maas.processes.supervisor import run

        raise typer.Exit(run(settings, notify))
    start_detached(settings, wait)
    emit(settings.base_url)


def start_detached(settings: Settings, wait_s: float) -> None:
    """Start the server in the background and wait until it is ready.

    Raises Conflict if one runs for this home, ConfigurationError, DeadlineExceeded if it is not
    ready after `wait_s` seconds, MaasError with the log if it exits.
    """
    pid = running_pid(settings)
    if pid is not None:
        raise Conflict(f"{settings.home} is already served by process {pid}; see `maas status`")
    try:
        make_own_dir(settings.log_dir)
    except OSError as error:
        raise ConfigurationError(f"cannot use {settings.log_dir}: {error.strerror}") from None
    log = settings.log_dir / f"{UP}.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        process = start_in_background(["maas.cli.server.up"], settings, output)
    deadline = time.monotonic() + wait_s
    # Another server may answer at the address; ours is the one that holds the lock of this home.
    while running_pid(settings) != process.pid or probe(settings.base_url) != 200:
        if process.poll() is not None:
            output_text = log.read_text().rstrip().removeprefix("error: ")
            if process.returncode == CONFIGURATION:
                raise ConfigurationError(output_text)
            raise MaasError(f"the server exited at once:\n{output_text}")
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"the server (process {process.pid}) is not ready after {wait_s:g} s; "
                f"see {settings.log_dir}"
            )
        time.sleep(POLL_S)
    notify(f"OpenMaaS is running (process {process.pid}); admin key: {settings.admin_key_file}")


def register(app: typer.Typer) -> None:
    app.command("up")(command)


def _detached() -> int:
    """Run the supervisor in the background process that `start_detached` starts."""
    from maas.processes.output import log_folder
    from maas.processes.supervisor import run
    from maas.settings import Settings
    from maas.storage.log_files import OutputToLogFile

    settings = Settings.from_json(sys.stdin.read())
    output = OutputToLogFile(log_folder(settings).file(UP))

    def log_line(text: str) -> None:
        output.rotate_if_full()
        notify(text)

    try:
        return run(settings, log_line)
    except ConfigurationError as error:
        notify(f"error: {error}")
        return CONFIGURATION


if __name__ == "__main__":
    sys.exit(_detached())
