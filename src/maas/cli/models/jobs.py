"""maas jobs: builds, evaluations and optimizations of this machine, and those the server knows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from maas.cli.common import (
    Format,
    OutputOption,
    client_of,
    emit,
    emit_json,
    emit_table,
    say,
    settings_of,
    when,
)
from maas.cli.models.watching import metrics_line
from maas.domain.errors import MaasError, NotFound, Unavailable
from maas.domain.jobs import Job

group = typer.Typer(help="List, show or cancel builds, evaluations and optimizations.")


@group.callback(invoke_without_command=True)
def main(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List, show or cancel builds, evaluations and optimizations."""
    if ctx.invoked_subcommand is None:
        _list(ctx, output)


@group.command("list")
def list_(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List jobs, newest first."""
    _list(ctx, output)


@group.command()
def show(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(metavar="JOB")],
    log: Annotated[bool, typer.Option("--log", help="Print its log, too.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show a job: how far it is, or what came of it."""
    from maas.lifecycle.job_folder import JobFolder

    try:
        folder = JobFolder.open(settings_of(ctx).jobs_dir, job_id)
    except NotFound:
        folder = None
    job = folder.job() if folder else client_of(ctx).jobs.get(job_id)
    is_unsent = folder is not None and folder.is_unsent
    if output is Format.JSON:
        emit_json(_told(job, is_unsent))
    else:
        _print(job)
        if is_unsent:
            emit(f"\n{_unsent(job)}")
    if log and folder and folder.log.is_file():
        emit(folder.log.read_text(errors="replace").rstrip())


@group.command()
def cancel(ctx: typer.Context, job_id: Annotated[str, typer.Argument(metavar="JOB")]) -> None:
    """Ask a job to stop at its next epoch; it keeps its checkpoint."""
    from maas.lifecycle.job_folder import JobFolder

    try:
        folder = JobFolder.open(settings_of(ctx).jobs_dir, job_id)
    except NotFound:
        client_of(ctx).jobs.cancel(job_id)
    else:
        job = folder.job()
        if job.state.is_final:
            say(f"job {job_id} has ended already: {job.state}")
            return
        folder.request_cancel()
    say(f"job {job_id} is asked to stop")


def _list(ctx: typer.Context, output: Format) -> None:
    from maas.lifecycle.job_folder import JobFolder

    folders = JobFolder.all(settings_of(ctx).jobs_dir)
    jobs = {f.path.name: f.job() for f in folders}
    unsent = {f.path.name for f in folders if f.is_unsent}
    try:
        jobs = {j.id: j for j in client_of(ctx, timeout=5, retries=0).jobs.list()} | jobs
    except Unavailable:
        say("no server answers; these are the jobs of this machine")
    except MaasError as error:
        say(f"the server's jobs are not shown: {error.message}")
    newest_first = sorted(jobs.values(), key=lambda j: j.created_at, reverse=True)
    if output is Format.JSON:
        emit_json([_told(j, j.id in unsent) for j in newest_first])
        return
    emit_table(
        ("job", "kind", "model", "state", "progress", "created", "what came of it"),
        (
            (
                j.id,
                j.kind,
                j.name,
                j.state,
                _progress(j),
                when(j.created_at),
                _unsent(j) if j.id in unsent else _outcome(j),
            )
            for j in newest_first
        ),
    )


def _print(job: Job) -> None:
    emit_table(
        ("job", "kind", "model", "state", "progress", "updated"),
        [(job.id, job.kind, job.name, job.state, _progress(job), when(job.updated_at))],
    )
    values = {**job.progress.values, **job.result.get("metrics", {})}
    if values:
        emit("")
        emit_table(("value", "is"), values.items())
    if job.error:
        emit(f"\n{job.error}")


def _progress(job: Job) -> str:
    progress = job.progress
    counts = f"{progress.done}/{progress.total}" if progress.total else ""
    return counts if job.state.is_final else f"{counts} {progress.message}".strip()


def _told(job: Job, is_unsent: bool) -> dict[str, Any]:
    return job.to_dict() | ({"unsent": True} if is_unsent else {})


def _unsent(job: Job) -> str:
    return f"not sent yet: `maas optimize --resume {job.id}` does"


def _outcome(job: Job) -> str:
    return job.error.split("\n")[0] if job.error else metrics_line(job, most=2)


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="jobs")
