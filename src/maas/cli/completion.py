"""Shell completion of names: of deployments, models, keys and jobs.

The names come from the server. Without one, or with a key that may not list them, there is no
suggestion and no message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import Flags, client_of, settings_of
from maas.domain.errors import MaasError
from maas.domain.keys import Scope
from maas.settings import ConfigurationError

if TYPE_CHECKING:
    from maas.client.client import Client

TIMEOUT_S = 1.0


def deployment_names(ctx: typer.Context, incomplete: str) -> list[str]:
    return _from_server(
        ctx, incomplete, lambda client: (view.name for view in client.deployments.list())
    )


def model_names(ctx: typer.Context, incomplete: str) -> list[str]:
    return _from_server(
        ctx, incomplete, lambda client: (str(model["name"]) for model in client.models.list())
    )


def key_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    return _from_server(
        ctx,
        incomplete,
        lambda client: (key.id for key in client.keys.list() if key.revoked_at is None),
    )


def job_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Jobs of this machine and of the server, newest first."""
    from maas.lifecycle.job_folder import JobFolder

    _use_flags(ctx)
    try:
        local = [folder.path.name for folder in JobFolder.all(settings_of(ctx).jobs_dir)]
    except (ConfigurationError, MaasError, OSError):
        local = []
    remote = _from_server(ctx, incomplete, lambda client: (job.id for job in client.jobs.list()))
    return list(dict.fromkeys([*(i for i in local if i.startswith(incomplete)), *remote]))


def scope_lists(incomplete: str) -> list[str]:
    """Scopes, of which several may be joined with commas."""
    first, comma, last = incomplete.rpartition(",")
    return [f"{first}{comma}{scope}" for scope in Scope if scope.startswith(last)]


def _from_server(
    ctx: typer.Context, incomplete: str, list_names: Callable[[Client], Iterable[str]]
) -> list[str]:
    _use_flags(ctx)
    try:
        with client_of(ctx, timeout=TIMEOUT_S, retries=0) as client:
            return [name for name in list_names(client) if name.startswith(incomplete)]
    except (ConfigurationError, MaasError, OSError):
        return []


def _use_flags(ctx: typer.Context) -> None:
    """Give the context the flags before the command; while completing, no callback does."""
    flags = ctx.find_root().params
    home = flags.get("home")
    ctx.obj = Flags(str(home) if home else None, flags.get("base_url"))


DeploymentArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name of the deployment.", autocompletion=deployment_names),
]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Id of the job.", autocompletion=job_ids)
]
