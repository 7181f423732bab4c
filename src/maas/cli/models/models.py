"""maas models: what is published, and what is known about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maas.cli.common import (
    Format,
    OutputOption,
    client_of,
    emit,
    emit_json,
    emit_table,
    printable,
    say,
    size,
    when,
)
from maas.cli.models.profiles import emit_profiles
from maas.domain.errors import NotFound

if TYPE_CHECKING:
    from maas.client.answers import VersionDetails
    from maas.domain.signature import TensorSpec

OWN_TABLE = ("profile", "comparison", "measurement", "source")
"""Evidence that `emit_profiles` and the reports show."""

group = typer.Typer(help="List models, or show a version with its evidence.")


@group.callback(invoke_without_command=True)
def list_(
    ctx: typer.Context,
    catalog: Annotated[
        bool, typer.Option("--catalog", help="Models that `maas pull` knows by name.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List models, or show a version with its evidence."""
    if ctx.invoked_subcommand is not None:
        return
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


@group.command()
def show(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="MODEL[:VERSION]", help="Default: the newest.")],
    report: Annotated[Path | None, typer.Option(help="Write its HTML report to this file.")] = None,
    core_hour: Annotated[
        float | None,
        typer.Option(metavar="PRICE", min=0.0, help="Of one core, for the cost of 1,000 answers."),
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show a version: signature, variants, files, profiles and what was measured."""
    client = client_of(ctx)
    details = client.models.version(ref)
    if report is not None:
        pages = [e.file for e in details.evidence if e.kind == "report" and e.file]
        if not pages:
            raise NotFound(f"{ref} has no report")
        report.write_bytes(client.files.download(pages[-1].sha256))
        say(f"report: {report}")
    if output is Format.JSON:
        emit_json(details.to_dict())
        return
    _print(details, core_hour)


def _catalog(output: Format) -> None:
    """Needs no server."""
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
    say("next: `maas pull NAME`; memory is about what one replica takes at rest")


def _source(source: str, file: str | None) -> str:
    return f"{source} {file}" if file else source


def _print(details: VersionDetails, core_hour: float | None) -> None:
    version, manifest = details.version, details.version.manifest
    emit(f"{version.model}:{version.number}  {manifest.task}  {details.digest[:12]}")
    if manifest.description:
        emit(printable(manifest.description))
    emit(f"published {when(version.created_at)} by {version.created_by or '-'}")
    source = manifest.metadata.get("source")
    if isinstance(source, dict) and "uri" in source:
        told = f"from {source['uri']}, license {manifest.metadata.get('license', 'unknown')}"
        emit(printable(told))
    emit("")
    tensors = [("input", s) for s in manifest.signature.inputs]
    tensors += [("output", s) for s in manifest.signature.outputs]
    emit_table(
        ("tensor", "name", "datatype", "shape", "units", "labels"),
        ((side, s.name, s.datatype, list(s.shape), s.units, _labels(s)) for side, s in tensors),
    )
    emit("")
    emit_table(
        ("variant", "runtime", "file", "size", "sha256"),
        (
            (v.name, v.runtime, f.name, size(f.size), f.sha256[:12])
            for v in manifest.variants
            for f in v.files
        ),
    )
    emit_profiles(details, core_hour)
    for item in details.evidence:
        if item.kind in OWN_TABLE:
            continue
        metrics = item.values.get("metrics") if item.kind == "metrics" else item.values
        found = metrics.items() if isinstance(metrics, dict) else ()
        numbers = {k: v for k, v in found if isinstance(v, int | float) and not isinstance(v, bool)}
        if numbers:
            emit("")
            intervals = item.values.get("intervals")
            emit_table(
                (item.kind, "value", "95 % interval"),
                ((k, v, _interval(intervals, k)) for k, v in numbers.items()),
            )


def _interval(intervals: object, name: str) -> str | None:
    """Evidence is whatever its publisher sent; what is no interval is not shown as one."""
    match intervals.get(name) if isinstance(intervals, dict) else None:
        case [int() | float() as low, int() | float() as high]:
            return f"{low:.4g} to {high:.4g}"
    return None


def _labels(spec: TensorSpec) -> str:
    shown = ", ".join(spec.labels[:6])
    return shown + (f", … ({len(spec.labels)})" if len(spec.labels) > 6 else "")


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="models")
