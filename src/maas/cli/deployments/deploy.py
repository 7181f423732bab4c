"""maas deploy: a model answers under a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import Format, OutputOption, client_of, emit_json, emit_table, say
from maas.cli.deployments.objective import ObjectiveOptions, measured
from maas.domain.deployments import Target
from maas.domain.errors import DeadlineExceeded, InvalidInput, MaasError, NotFound
from maas.domain.models import AUTO, best_variant

if TYPE_CHECKING:
    from maas.client.answers import DeploymentView
    from maas.client.client import Client

Watch = Callable[["DeploymentView"], None]


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Deployment: the name that callers use.")],
    model: Annotated[str | None, typer.Option(help="Model; default: of the same name.")] = None,
    version: Annotated[
        int | None,
        typer.Option(help="Default: the newest; the present, if only other settings change."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="auto: the best that was found; default: the present, else the first."),
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="What a variant's evidence must show; '': nothing."),
    ] = None,
    weight: Annotated[
        int | None,
        typer.Option(
            min=1, max=99, help="Percent of the traffic; the present targets share the rest."
        ),
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=0, help="Processes that answer.")] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Most rows per model call.")] = None,
    queue_limit: Annotated[
        int | None, typer.Option(min=1, help="Most requests waiting in a replica.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per replica.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="latency or throughput: measure the engines here, keep the best."),
    ] = None,
    measure_seconds: Annotated[
        float, typer.Option(help="With --objective: of each level of the load.")
    ] = 10.0,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="Also what was measured here before.")
    ] = False,
    default: Annotated[
        bool | None, typer.Option("--default", help="Make it answer /predict without a name.")
    ] = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait until it is ready; 0: do not wait.")
    ] = 300.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Make a model answer under a name, and wait until it does."""
    client = client_of(ctx)
    present = _present(client, name)
    if present is not None:
        # Only what was asked for changes; the rest stays as it is.
        model = model or present.deployment.model
    found: dict[str, Any] = {}
    if objective is not None:
        if weight is not None:
            raise InvalidInput("--objective chooses for all of the traffic; --weight shares it")
        ref = f"{model or name}:{version}" if version else model or name
        again = measure_again
        wish = ObjectiveOptions(name, objective, ref, variant, threads, measure_seconds, again)
        version, variant, threads, found = measured(client, wish, output)
    given = {
        "replicas": replicas,
        "max_batch": max_batch,
        "queue_limit": queue_limit,
        "threads": threads,
    }
    scaling = {k: v for k, v in given.items() if v is not None}
    targets: Sequence[Target] = ()
    if weight is not None:
        if present is None:
            raise InvalidInput(f"--weight needs a deployment to share with; there is no {name}")
        targets = split(
            present.deployment.targets, _new_target(client, model or name, version, variant), weight
        )
        version = variant = None

    def start(watch: Watch) -> DeploymentView:
        return client.deploy(
            name,
            model=model,
            version=version,
            variant=variant,
            targets=targets,
            default=default,
            gate=gate,
            wait_s=wait,
            watch=watch,
            **scaling,
        )

    view = deployed(client, name, start, output, found)
    others = bool(scaling) or default is not None or gate is not None
    if present is not None and others and version is None and variant is None and not targets:
        _tell_of_newer(client, view)


def _tell_of_newer(client: Client, view: DeploymentView) -> None:
    """Other settings leave the version as it is; a script may have meant the newest."""
    name, targets = view.deployment.name, view.deployment.targets
    with suppress(MaasError):  # it is deployed, whether or not there is more to say
        newest = client.models.version(view.deployment.model).version.number
        if newest > max(target.version for target in targets):
            all_of_it = ", with all of the traffic" if len(targets) > 1 else ""
            say(
                f"the newest version is {newest}: `maas deploy {name}` alone moves to it{all_of_it}"
            )


def split(present: Sequence[Target], new: Target, percent: int) -> list[Target]:
    """`new` with `percent` of the traffic, the present targets with the rest in proportion.

    Weights are per mille, so that a small share of a small share is not lost.
    """
    others = [t for t in present if (t.version, t.variant) != (new.version, new.variant)]
    total = sum(t.weight for t in others)
    if not total:
        return [Target(new.version, new.variant, 1000)]
    rest = 1000 - percent * 10
    shared = [Target(t.version, t.variant, round(rest * t.weight / total)) for t in others]
    return [*shared, Target(new.version, new.variant, percent * 10)]


def deployed(
    client: Client,
    name: str,
    start: Callable[[Watch], DeploymentView],
    output: Format,
    more: Mapping[str, Any] | None = None,
) -> DeploymentView:
    """Runs `start` and shows what became of it; `more` is said in JSON only."""
    view = deployed_view(client, name, start)
    if output is Format.JSON:
        emit_json(view.to_dict() | dict(more or {}))
        return view
    emit_table(
        ("deployment", "model", "targets", "replicas", "state", "address"),
        [
            (
                name,
                view.deployment.model,
                targets_text(view.deployment.targets),
                f"{view.ready}/{view.desired}",
                view.state,
                f"{client.base_url}/predict/{name}",
            )
        ],
    )
    return view


def deployed_view(
    client: Client, name: str, start: Callable[[Watch], DeploymentView]
) -> DeploymentView:
    """Runs `start` while it tells the phases; on failure says why and what to do next."""
    from maas.client.deployments import DeploymentFailed

    last = ""

    def watch(view: DeploymentView) -> None:
        nonlocal last
        line = f"{name}: {view.state}, {view.ready} of {view.desired} replicas ready"
        line += f" ({view.reason})" if view.reason else ""
        if line != last:
            say(line)
            last = line

    try:
        return start(watch)
    except (DeploymentFailed, DeadlineExceeded):
        _show_log(client, name)
        say(f"next: `maas logs {name}` for all of it, `maas status`, or `maas rollback {name}`")
        raise


def targets_text(targets: Sequence[Target]) -> str:
    """`2/onnx`, or with shares `1/onnx 90%, 2/onnx 10%`."""
    total = sum(t.weight for t in targets)
    if len(targets) == 1:
        return f"{targets[0].version}/{targets[0].variant}"
    return ", ".join(f"{t.version}/{t.variant} {100 * t.weight / total:g}%" for t in targets)


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


def _show_log(client: Client, name: str) -> None:
    try:
        text = client.logs(name, lines=20)
    except MaasError as error:
        say(f"its log cannot be shown: {error.message}")
        return
    if text.strip():
        say(f"last lines of its log:\n{text.rstrip()}")


def register(app: typer.Typer) -> None:
    app.command("deploy")(command)
