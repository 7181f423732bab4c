"""maas up: the server of this home."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.background import start_in_background
from maas.cli.commands import CONFIGURATION
from maas.cli.common import emit, say, settings_of
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
    workers: Annotated[int | None, typer.Option(min=1, help="Gateway processes.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Permit other machines without TLS.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Directory of all state.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="In the background; returns when it is ready.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds that --detach waits.")] = 30.0,
) -> None:
    """Start the server, and run until Ctrl-C or `maas down`.

    The first start writes an admin key to HOME/admin.key, which commands on this machine use.
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

        raise typer.Exit(run(settings, say))
    start_detached(settings, wait)
    emit(settings.base_url)


def start_detached(settings: Settings, wait_s: float) -> None:
    """Raises Conflict if one runs, ConfigurationError, DeadlineExceeded, or MaasError with the
    log's end."""
    pid = running_pid(settings)
    if pid is not None:
        raise Conflict(f"{settings.home} is already served by process {pid}; see `maas status`")
    try:
        make_own_dir(settings.log_dir)
    except OSError as wrong:
        raise ConfigurationError(f"cannot use {settings.log_dir}: {wrong.strerror}") from None
    log = settings.log_dir / f"{UP}.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        process = start_in_background(["maas.cli.server.up"], settings, output)
    give_up = time.monotonic() + wait_s
    # Whoever answers at the address may be another server: ours is the one that has this home.
    while running_pid(settings) != process.pid or probe(settings.base_url) != 200:
        if process.poll() is not None:
            said = log.read_text().rstrip().removeprefix("error: ")
            if process.returncode == CONFIGURATION:
                raise ConfigurationError(said)
            raise MaasError(f"the server ended at once:\n{said}")
        if time.monotonic() > give_up:
            raise DeadlineExceeded(
                f"the server (process {process.pid}) is not ready after {wait_s:g} s; "
                f"see {settings.log_dir}"
            )
        time.sleep(POLL_S)
    say(f"OpenMaaS runs (process {process.pid}); its admin key is in {settings.admin_key_file}")


def register(app: typer.Typer) -> None:
    app.command("up")(command)


def _detached() -> int:
    """The background half."""
    from maas.processes.output import log_folder
    from maas.processes.supervisor import run
    from maas.settings import Settings
    from maas.storage.log_files import OutputToLogFile

    settings = Settings.from_json(sys.stdin.read())
    output = OutputToLogFile(log_folder(settings).file(UP))

    def tell(text: str) -> None:
        output.rotate_if_full()
        say(text)

    try:
        return run(settings, tell)
    except ConfigurationError as wrong:
        say(f"error: {wrong}")
        return CONFIGURATION


if __name__ == "__main__":
    sys.exit(_detached())
