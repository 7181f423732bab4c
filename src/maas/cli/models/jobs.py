"""maas jobs: builds, evaluations and optimizations of this machine and of the server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from maas.cli.common import add_commands, client_of, settings_of
from maas.cli.completion import JobArgument
from maas.cli.models.job_progress import metrics_line
from maas.cli.output import Format, OutputOption, emit, emit_json, emit_table, notify, when
from maas.domain.errors import MaasError, NotFound, Unavailable
from maas.domain.jobs import Job
from maas.domain.numbers import format_number

group = typer.Typer(help="List, show or cancel builds, evaluations and optimizations.")


@group.callback(invoke_without_command=True)
def main(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List, show or cancel builds, evaluations and optimizations."""
    if ctx.invoked_subcommand is None:
        _list(ctx, output)


def list_(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """List jobs, newest first."""
    _list(ctx, output)


def show(
    ctx: typer.Context,
    job_id: JobArgument,
    log: Annotated[bool, typer.Option("--log", help="Also print its log.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the progress or the result of a job."""
    from maas.lifecycle.job_folder import JobFolder

    try:
        folder = JobFolder.open(settings_of(ctx).jobs_dir, job_id)
    except NotFound:
        folder = None
    job = folder.job() if folder else client_of(ctx).jobs.get(job_id)
    is_unsent = folder is not None and folder.is_unsent
    if output is Format.JSON:
        emit_json(_job_dict(job, is_unsent))
    else:
        _print(job)
        if is_unsent:
            emit(f"\n{_send_hint(job)}")
    if log and folder and folder.log.is_file():
        emit(folder.log.read_text(errors="replace").rstrip())


def cancel(ctx: typer.Context, job_id: JobArgument) -> None:
    """Cancel a job: it stops at its next step and keeps its checkpoint."""
    from maas.lifecycle.job_folder import JobFolder

    try:
        folder = JobFolder.open(settings_of(ctx).jobs_dir, job_id)
    except NotFound:
        client_of(ctx).jobs.cancel(job_id)
    else:
        job = folder.job()
        if job.state.is_final:
            notify(f"job {job_id} is already over: {job.state}")
            return
        folder.request_cancel()
    notify(f"job {job_id} will stop at its next step")


def _list(ctx: typer.Context, output: Format) -> None:
    from maas.lifecycle.job_folder import JobFolder

    folders = JobFolder.all(settings_of(ctx).jobs_dir)
    jobs = {folder.path.name: folder.job() for folder in folders}
    unsent = {folder.path.name for folder in folders if folder.is_unsent}
    try:
        jobs = {job.id: job for job in client_of(ctx, timeout=5, retries=0).jobs.list()} | jobs
    except Unavailable:
        notify("no server answers; these are the jobs of this machine")
    except MaasError as error:
        notify(f"the jobs of the server are missing here: {error.message}")
    newest_first = sorted(jobs.values(), key=lambda job: job.created_at, reverse=True)
    if output is Format.JSON:
        emit_json([_job_dict(job, job.id in unsent) for job in newest_first])
        return
    emit_table(
        ("job", "kind", "model", "state", "progress", "created", "result"),
        (
            (
                job.id,
                job.kind,
                job.name,
                job.state,
                _progress_text(job),
                when(job.created_at),
                _send_hint(job) if job.id in unsent else _result_text(job),
            )
            for job in newest_first
        ),
    )


def _print(job: Job) -> None:
    emit_table(
        ("job", "kind", "model", "state", "progress", "updated"),
        [(job.id, job.kind, job.name, job.state, _progress_text(job), when(job.updated_at))],
    )
    values = {**job.progress.values, **job.result.get("metrics", {})}
    if values:
        emit("")
        emit_table(("metric", "value"), ((name, _value(value)) for name, value in values.items()))
    if job.error:
        emit(f"\n{job.error}")


def _value(value: Any) -> object:
    return format_number(value) if isinstance(value, float) else value


def _progress_text(job: Job) -> str:
    progress = job.progress
    counts = f"{progress.done}/{progress.total}" if progress.total else ""
    return counts if job.state.is_final else f"{counts} {progress.message}".strip()


def _job_dict(job: Job, is_unsent: bool) -> dict[str, Any]:
    return job.to_dict() | ({"unsent": True} if is_unsent else {})


def _send_hint(job: Job) -> str:
    return f"not sent yet: `maas optimize --resume {job.id}` sends it"


def _result_text(job: Job) -> str:
    """The error, the metrics, or the variant that an optimization chose."""
    if job.error:
        return job.error.split("\n")[0]
    chosen = job.result.get("chosen")
    return f"chosen: {chosen}" if chosen else metrics_line(job, limit=2)


add_commands(group, {"list": list_, "show": show, "cancel": cancel})


def register(app: typer.Typer) -> None:
    app.add_typer(group, name="jobs")
