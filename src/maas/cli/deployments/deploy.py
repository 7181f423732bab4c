"""maas deploy: deploy a model under a name, or change a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import UsageError, client_of
from maas.cli.completion import deployment_names, model_names
from maas.cli.deployments.engine_measurement import (
    EngineMeasurement,
    ServingObjective,
    best_engine,
)
from maas.cli.deployments.state import StateCallback, change_and_show
from maas.cli.output import Format, OutputOption, notify
from maas.domain.deployments import Target
from maas.domain.errors import MaasError, NotFound
from maas.domain.models import AUTO, best_variant

if TYPE_CHECKING:
    from maas.client.answers import DeploymentView
    from maas.client.client import Client


def command(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Name of the deployment, which clients call.",
            autocompletion=deployment_names,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to deploy (default: the current one, or the model of the same name).",
            autocompletion=model_names,
        ),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Version to deploy (default: the newest, or the current one if only other "
            "settings change).",
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Variant to deploy; auto selects the best of the newest optimization (default: "
            "the current one, or the first of the version)."
        ),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Rule that the evidence of every target must satisfy, now and after each later "
            "change; '' removes it.",
        ),
    ] = None,
    weight: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=99,
            help="Percentage of the traffic for --version; the current targets share the rest.",
        ),
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=0, help="Number of replicas.")] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of rows per call of the model.")
    ] = None,
    queue_limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of waiting requests per replica.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per replica.")] = None,
    objective: Annotated[
        ServingObjective | None,
        typer.Option(help="Measure the engines on this server and deploy the best for this."),
    ] = None,
    measure_seconds: Annotated[
        float,
        typer.Option(help="With --objective: seconds per load level.", min=0.1),
    ] = 10.0,
    measure_again: Annotated[
        bool,
        typer.Option(
            "--measure-again",
            help="With --objective: also measure engines that were measured here before.",
        ),
    ] = False,
    default: Annotated[
        bool | None,
        typer.Option("--default", help="Make it serve requests to /predict without a name."),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait until it is ready; 0 does not wait."),
    ] = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Deploy a model under a name, or change a deployment, and wait until it is ready."""
    _check_weight(name, weight, objective, version, variant)
    client = client_of(ctx)
    present = _present(client, name)
    if present is not None:
        model = model or present.deployment.model  # what is not named stays as it is
    extra: dict[str, Any] = {}
    if objective is not None:
        ref = f"{model or name}:{version}" if version else model or name
        measurement = EngineMeasurement(
            name, objective, ref, variant, threads, measure_seconds, measure_again
        )
        version, variant, threads, extra = best_engine(client, measurement, output)
    options = {
        "replicas": replicas,
        "max_batch": max_batch,
        "queue_limit": queue_limit,
        "threads": threads,
    }
    scaling = {key: value for key, value in options.items() if value is not None}
    targets: Sequence[Target] = ()
    if weight is not None:
        targets = _split_targets(client, name, present, (model or name, version, variant), weight)
        version = variant = None

    def change(progress: StateCallback) -> DeploymentView:
        return client.deploy(
            name,
            model=model,
            version=version,
            variant=variant,
            targets=targets,
            default=default,
            gate=gate,
            wait_s=wait,
            progress=progress,
            **scaling,
        )

    view = change_and_show(client, name, change, output, extra)
    other_settings = bool(scaling) or default is not None or gate is not None
    same_targets = version is None and variant is None and not targets
    if present is not None and other_settings and same_targets:
        _notify_of_newer_version(client, view)


def _check_weight(
    name: str,
    weight: int | None,
    objective: ServingObjective | None,
    version: int | None,
    variant: str | None,
) -> None:
    """Raises UsageError if `--weight` lacks an option that it needs."""
    if weight is None:
        return
    if objective is not None:
        raise UsageError("--objective applies to all of the traffic; it cannot have a --weight")
    if version is None and variant is None:
        raise UsageError(
            f"--weight {weight} needs --version (or --variant): the one that gets {weight} % of "
            f"the traffic of {name}"
        )


def _split_targets(
    client: Client,
    name: str,
    present: DeploymentView | None,
    new: tuple[str, int | None, str | None],
    weight: int,
) -> list[Target]:
    """The current targets and the new one (model, version, variant) with `weight` percent."""
    if present is None:
        raise UsageError(
            f"--weight shares the traffic of an existing deployment; there is no deployment "
            f"{name!r}"
        )
    return split(present.deployment.targets, _new_target(client, *new), weight)


def split(present: Sequence[Target], new: Target, percent: int) -> list[Target]:
    """`new` with `percent` of the traffic, the current targets with the rest in proportion.

    Weights are per mille, so that a small share of a small share is not lost.
    """
    others = [t for t in present if (t.version, t.variant) != (new.version, new.variant)]
    total = sum(t.weight for t in others)
    if not total:
        return [Target(new.version, new.variant, 1000)]
    rest = 1000 - percent * 10
    shared = [Target(t.version, t.variant, round(rest * t.weight / total)) for t in others]
    return [*shared, Target(new.version, new.variant, percent * 10)]


def _notify_of_newer_version(client: Client, view: DeploymentView) -> None:
    """Changing other settings keeps the version; a script may have expected the newest."""
    name, targets = view.deployment.name, view.deployment.targets
    with suppress(MaasError):  # the change itself has succeeded
        newest = client.models.version(view.deployment.model).version.number
        if newest > max(target.version for target in targets):
            traffic = ", for all of the traffic" if len(targets) > 1 else ""
            notify(
                f"the newest version is {newest}: `maas deploy {name}` without options deploys "
                f"it{traffic}"
            )


def _present(client: Client, name: str) -> DeploymentView | None:
    try:
        return client.deployments.get(name)
    except NotFound:
        return None


def _new_target(client: Client, model: str, version: int | None, variant: str | None) -> Target:
    details = client.models.version(model if version is None else f"{model}:{version}")
    if variant == AUTO:
        best, _ = best_variant(details.version, details.evidence)
        return Target(details.version.number, best.name)
    return Target(details.version.number, details.version.variant(variant).name)


def register(app: typer.Typer) -> None:
    app.command("deploy")(command)
