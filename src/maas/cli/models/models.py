"""maas models: published models, their versions and their evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import add_commands, client_of
from maas.cli.completion import model_names
from maas.cli.deployments.state import share_text
from maas.cli.models.profiles import emit_profiles
from maas.cli.output import (
    Format,
    OutputOption,
    emit,
    emit_json,
    emit_table,
    notify,
    printable,
    size,
    when,
)
from maas.domain.errors import MaasError, NotFound
from maas.domain.names import ModelRef
from maas.domain.numbers import format_number, format_range

if TYPE_CHECKING:
    from maas.client.answers import VersionDetails
    from maas.client.client import Client
    from maas.domain.models import Evidence
    from maas.domain.signature import TensorSpec

KINDS_SHOWN_ELSEWHERE = ("profile", "comparison", "measurement", "source")
"""Kinds of evidence that `emit_profiles` and the reports show."""
MAX_LABELS = 6

CatalogOption = Annotated[
    bool, typer.Option("--catalog", help="List the models that `maas pull` knows by name.")
]
Serving = dict[tuple[int, str], list[str]]
"""Deployments that serve a version's variant, with their share of the traffic."""

group = typer.Typer(help="List models, or show a version with its evidence.")


@group.callback(invoke_without_command=True)
def main(
    ctx: typer.Context, catalog: CatalogOption = False, output: OutputOption = Format.TABLE
) -> None:
    """List models, or show a version with its evidence."""
    if ctx.invoked_subcommand is None:
        _list(ctx, catalog, output)


def list_(
    ctx: typer.Context, catalog: CatalogOption = False, output: OutputOption = Format.TABLE
) -> None:
    """List published models."""
    _list(ctx, catalog, output)


def show(
    ctx: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[:VERSION]",
            help="Model, to list its versions and show the newest; or one version.",
            autocompletion=model_names,
        ),
    ],
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write its HTML report to this file.")
    ] = None,
    core_hour: Annotated[
        float | None,
        typer.Option(
            metavar="PRICE",
            min=0.0,
            help="Price of a core for one hour, for the cost of 1,000 rows.",
        ),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the versions of a model, and one version with its evidence.

    For a version: signature, variants (including those that `maas optimize` added), which
    deployments serve them, files, profiles and metrics.
    """
    client = client_of(ctx)
    details = client.models.version(ref)
    if report is not None:
        pages = [e.file for e in details.evidence if e.kind == "report" and e.file]
        if not pages:
            raise NotFound(f"{ref} has no report")
        report.write_bytes(client.files.download(pages[-1].sha256))
        notify(f"report: {report}")
    if output is Format.JSON:
        emit_json(details.to_dict())
        return
    serving = _serving(client, details.version.model)
    _print_header(details)
    if ModelRef.parse(ref).version is None:
        emit("")
        _print_versions(client.models.get(details.version.model)["versions"], serving)
    _print(details, serving, core_hour)


def _list(ctx: typer.Context, catalog: bool, output: Format) -> None:
    if catalog:
        _catalog(output)
        return
    models = client_of(ctx).models.list()
    if output is Format.JSON:
        emit_json(models)
        return
    emit_table(
        ("model", "task", "versions", "newest", "updated"),
        ((m["name"], m["task"], m["versions"], m["latest"], when(m["updated_at"])) for m in models),
    )


def _serving(client: Client, model: str) -> Serving:
    """Who serves the variants of a model; empty if the key may not list deployments."""
    serving: Serving = {}
    try:
        views = client.deployments.list()
    except MaasError:
        return serving
    for view in views:
        if view.deployment.model != model:
            continue
        targets = view.deployment.targets
        total = sum(target.weight for target in targets)
        for target in targets:
            share = f" {share_text(target.weight, total)}" if len(targets) > 1 else ""
            names = serving.setdefault((target.version, target.variant), [])
            names.append(f"{view.name}{share}")
    return serving


def _print_versions(versions: list[dict[str, Any]], serving: Serving) -> None:
    """A row per version, newest first."""
    lines = []
    for version in reversed(versions):
        names = [
            name
            for (number, _), deployments in serving.items()
            if number == version["number"]
            for name in deployments
        ]
        lines.append(
            (
                version["number"],
                when(version["created_at"]),
                version["created_by"],
                ", ".join(version["variants"]),
                ", ".join(names),
            )
        )
    emit_table(("version", "published", "by", "variants", "served by"), lines)


def _catalog(output: Format) -> None:
    """Print the catalog; it needs no server."""
    from maas.lifecycle.sources.catalog import CATALOG

    if output is Format.JSON:
        emit_json([entry.to_dict() for entry in CATALOG])
        return
    emit_table(
        ("name", "task", "size", "memory", "license", "source"),
        (
            (e.name, e.task, size(e.size), size(e.memory), e.license, _source(e.source, e.file))
            for e in CATALOG
        ),
    )
    notify("next: `maas pull NAME`; MEMORY is the approximate use of one idle replica")


def _source(source: str, file: str | None) -> str:
    return f"{source} {file}" if file else source


def _print_header(details: VersionDetails) -> None:
    """Name, task, digest, description and origin of a version."""
    version, manifest = details.version, details.version.manifest
    emit(f"{version.model}:{version.number}  {manifest.task}  {details.digest[:12]}")
    if manifest.description:
        emit(printable(manifest.description))
    emit(f"published {when(version.created_at)} by {version.created_by or '-'}")
    source = manifest.metadata.get("source")
    if isinstance(source, dict) and "uri" in source:
        license_name = manifest.metadata.get("license", "unknown")
        emit(printable(f"pulled from {source['uri']}, license {license_name}"))


def _print(details: VersionDetails, serving: Serving, core_hour: float | None) -> None:
    """Signature, variants, profiles and evidence of a version."""
    version, manifest = details.version, details.version.manifest
    emit("")
    tensors = [("input", s) for s in manifest.signature.inputs]
    tensors += [("output", s) for s in manifest.signature.outputs]
    emit_table(
        ("tensor", "name", "datatype", "shape", "units", "labels"),
        ((side, s.name, s.datatype, list(s.shape), s.units, _labels(s)) for side, s in tensors),
    )
    emit("")
    emit_table(
        ("variant", "runtime", "served by", "file", "size", "sha256"),
        (
            (
                variant.name,
                variant.runtime,
                ", ".join(serving.get((version.number, variant.name), [])),
                file.name,
                size(file.size),
                file.sha256[:12],
            )
            for variant in version.variants
            for file in variant.files
        ),
    )
    emit_profiles(details, core_hour)
    for item in details.evidence:
        if item.kind not in KINDS_SHOWN_ELSEWHERE:
            _print_evidence(item)


def _print_evidence(item: Evidence) -> None:
    """The numbers of one piece of evidence, as its publisher sent them."""
    values = item.values.get("metrics") if item.kind == "metrics" else item.values
    if not isinstance(values, dict):
        return
    numbers = {name: value for name, value in values.items() if _is_number(value)}
    if not numbers:
        return
    intervals = item.values.get("intervals")
    emit("")
    emit_table(
        (item.kind, "value", "95 % interval"),
        (
            (name, format_number(value), _interval(intervals, name))
            for name, value in numbers.items()
        ),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _interval(intervals: object, name: str) -> str | None:
    """The interval of a metric; None for anything else, because publishers send any JSON."""
    match intervals.get(name) if isinstance(intervals, dict) else None:
        case [int() | float() as low, int() | float() as high]:
            return format_range(low, high)
    return None


def _labels(spec: TensorSpec) -> str:
    labels = ", ".join(spec.labels[:MAX_LABELS])
    return labels + (f", … ({len(spec.labels)})" if len(spec.labels) > MAX_LABELS else "")


add_commands(group, {"list": list_, "show": show})


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="models")
