"""maas run: a recipe from data to an explained answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import Format, OutputOption, client_of, emit, emit_json, say, settings_of
from maas.cli.deployments.deploy import deployed_view
from maas.cli.deployments.explain import show_explanation, write_picture
from maas.cli.deployments.predict import print_outputs
from maas.cli.models.build import new_build
from maas.cli.models.optimize import new_optimization, send
from maas.cli.models.publish import publish_folder
from maas.cli.models.watching import check_gates, metrics_line, start, watch

if TYPE_CHECKING:
    from maas.client.answers import DeploymentView, PublishedVersion
    from maas.client.client import Client
    from maas.lifecycle.recipe import DeployStep, ExplainStep, OptimizeStep, Recipe


def command(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="TOML file.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Run a recipe: build, evaluate, publish, optimize, deploy, call, explain.

    A step that the recipe does not have is left out. Nothing is published unless every gate holds.
    """
    from maas.lifecycle.recipe import Recipe

    wanted = Recipe.load(recipe)
    settings = settings_of(ctx)
    client = client_of(ctx)
    client.status()  # so that a training of an hour does not end at a server that is not there

    folder = new_build(settings, wanted)
    say(f"build and evaluate {wanted.name} (job {folder.path.name})")
    job = watch(folder, start(folder, settings))
    say(f"measured on rows held back: {metrics_line(job)}")
    check_gates(job)

    published = publish_folder(ctx, folder.publication)
    say(f"published {published}{'' if published.created else ' (it was there already)'}")
    done: dict[str, Any] = {"job": job.to_dict(), "published": published.to_dict()}
    if wanted.optimize is not None:
        done["optimization"] = _optimize(ctx, wanted.optimize, published)
    if wanted.deploy is not None:
        view = deploy_step(client, wanted, wanted.deploy, published)
        say(f"deployed {published} as {view.name}")
        done["deployment"] = view.to_dict()
        at = _Answering(client, view.name, output, folder.path)
        if wanted.call is not None or wanted.explain is not None:
            done["call"] = _call(at, wanted, published)
        if wanted.explain is not None:
            done["explanation"] = _explain(at, wanted.explain, done["call"]["inputs"])
    if output is Format.JSON:
        emit_json(done)
    elif wanted.deploy is not None:
        say(f"call it: POST {client.base_url}/predict/{view.name}, or `maas predict {view.name} …`")


def _optimize(
    ctx: typer.Context, step: OptimizeStep, published: PublishedVersion
) -> dict[str, Any]:
    settings = settings_of(ctx)
    client = client_of(ctx, timeout=300)
    folder = new_optimization(client, settings, str(published), step.to_dict())
    say(f"optimize {published} (job {folder.path.name})")
    watch(folder, start(folder, settings))
    found = send(client, folder)
    say(f"chosen for {found['objective']}: {found['chosen']}: {found['chosen_reason']}")
    return found


def deploy_step(
    client: Client, recipe: Recipe, step: DeployStep, published: PublishedVersion
) -> DeploymentView:
    name = step.name or recipe.name
    scaling: dict[str, Any] = step.scaling()
    return deployed_view(
        client,
        name,
        lambda watch: client.deploy(
            name,
            model=recipe.name,
            version=published.number,
            variant=step.variant or None,
            gate=step.gate or None,
            default=step.default or None,
            watch=watch,
            **scaling,
        ),
    )


@dataclass(frozen=True)
class _Answering:
    """A deployment that answers, and how to show what it says."""

    client: Client
    name: str
    output: Format
    pictures: Path
    """Where a picture goes: the job's folder, so that a recipe leaves nothing beside itself."""


def _call(at: _Answering, recipe: Recipe, published: PublishedVersion) -> dict[str, Any]:
    """The first call, with the recipe's inputs or the model's own example."""
    inputs = recipe.call
    if not inputs:
        version = at.client.models.version(str(published)).version
        inputs = version.manifest.signature.example
    outputs = at.client.predict(at.name, inputs)
    if at.output is Format.TABLE:
        print_outputs(outputs, Format.TABLE)
    return {"inputs": inputs, "outputs": outputs}


def _explain(at: _Answering, step: ExplainStep, inputs: dict[str, Any]) -> dict[str, Any]:
    options = step.options()
    explanation = at.client.explain(at.name, inputs, options=options, timeout=300)
    if at.output is Format.TABLE:
        emit("")
        show_explanation(explanation)
    if step.picture:
        path = at.pictures / step.picture
        write_picture(explanation, inputs, path)
        say(f"picture: {path}")
    return explanation


def register(app: typer.Typer) -> None:
    app.command("run")(command)
