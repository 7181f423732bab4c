"""maas run: all steps of a recipe, from data to an explained prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import client_of, settings_of
from maas.cli.deployments.explain import show_explanation, write_picture
from maas.cli.deployments.outputs import emit_outputs
from maas.cli.deployments.state import change_and_wait
from maas.cli.models.build import new_build
from maas.cli.models.job_progress import check_gates, metrics_line, start, wait_for
from maas.cli.models.optimize import chosen_text, new_optimization, send
from maas.cli.models.publish import publish_folder
from maas.cli.output import Format, OutputOption, emit, emit_json, notify

if TYPE_CHECKING:
    from maas.client.answers import DeploymentView, PublishedVersion
    from maas.client.client import Client
    from maas.lifecycle.recipe import DeployStep, ExplainStep, OptimizeStep, Recipe


def command(
    ctx: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a TOML file.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Run a recipe: build, evaluate, publish, optimize, deploy, predict, explain.

    Steps that the recipe does not have are skipped. Nothing is published unless every gate passes.
    """
    from maas.lifecycle.recipe import Recipe

    loaded = Recipe.load(recipe)
    settings = settings_of(ctx)
    client = client_of(ctx)
    client.status()  # an absent server is better noticed before an hour of training

    folder = new_build(settings, loaded)
    notify(f"building and evaluating {loaded.name} (job {folder.path.name})")
    job = wait_for(folder, start(folder, settings))
    notify(f"on held-out rows: {metrics_line(job)}")
    check_gates(job)

    published = publish_folder(ctx, folder.publication)
    notify(f"published {published}{'' if published.created else ' (it already existed)'}")
    results: dict[str, Any] = {"job": job.to_dict(), "published": published.to_dict()}
    if loaded.optimize is not None:
        results["optimization"] = _optimize(ctx, loaded.optimize, published)
    if loaded.deploy is not None:
        results |= _deploy(client, loaded, published, output, folder.path)
    if output is Format.JSON:
        emit_json(results)


def _optimize(
    ctx: typer.Context, step: OptimizeStep, published: PublishedVersion
) -> dict[str, Any]:
    settings = settings_of(ctx)
    client = client_of(ctx, timeout=300)
    folder = new_optimization(client, settings, str(published), step.to_dict())
    notify(f"optimizing {published} (job {folder.path.name})")
    wait_for(folder, start(folder, settings))
    summary = send(client, folder)
    notify(chosen_text(summary))
    return summary


def _deploy(
    client: Client, recipe: Recipe, published: PublishedVersion, output: Format, pictures: Path
) -> dict[str, Any]:
    """The steps [deploy], [call] and [explain], with their results by name."""
    if recipe.deploy is None:
        return {}
    view = deploy_step(client, recipe, recipe.deploy, published)
    notify(f"deployed {published} as {view.name}")
    results: dict[str, Any] = {"deployment": view.to_dict()}
    deployed = _Deployed(client, view.name, output, pictures)
    if recipe.call is not None or recipe.explain is not None:
        results["call"] = _predict(deployed, recipe, published)
    if recipe.explain is not None:
        results["explanation"] = _explain(deployed, recipe.explain, results["call"]["inputs"])
    if output is Format.TABLE:
        url = f"{client.base_url}/predict/{view.name}"
        notify(f"next: POST {url}, or `maas predict {view.name} INPUTS`")
    return results


def deploy_step(
    client: Client, recipe: Recipe, step: DeployStep, published: PublishedVersion
) -> DeploymentView:
    """Deploy a version as the recipe's [deploy] says."""
    name = step.name or recipe.name
    scaling: dict[str, Any] = step.scaling()
    return change_and_wait(
        client,
        name,
        lambda progress: client.deploy(
            name,
            model=recipe.name,
            version=published.number,
            variant=step.variant or None,
            gate=step.gate or None,
            default=step.default or None,
            progress=progress,
            **scaling,
        ),
    )


@dataclass(frozen=True)
class _Deployed:
    """A deployment that the recipe calls, and where the results go."""

    client: Client
    name: str
    output: Format
    pictures: Path
    """Folder for pictures: that of the job, so that a recipe leaves no files beside it."""


def _predict(deployed: _Deployed, recipe: Recipe, published: PublishedVersion) -> dict[str, Any]:
    """The first prediction, of the recipe's inputs or of the model's own example."""
    inputs = recipe.call
    if not inputs:
        version = deployed.client.models.version(str(published)).version
        inputs = version.manifest.signature.example
    outputs = deployed.client.predict(deployed.name, inputs)
    if deployed.output is Format.TABLE:
        emit_outputs(outputs)
    return {"inputs": inputs, "outputs": outputs}


def _explain(deployed: _Deployed, step: ExplainStep, inputs: dict[str, Any]) -> dict[str, Any]:
    options = step.options()
    explanation = deployed.client.explain(deployed.name, inputs, options=options, timeout=300)
    if deployed.output is Format.TABLE:
        emit("")
        show_explanation(explanation)
    if step.picture:
        path = deployed.pictures / step.picture
        write_picture(explanation, inputs, path)
        notify(f"picture: {path}")
    return explanation


def register(app: typer.Typer) -> None:
    app.command("run")(command)
