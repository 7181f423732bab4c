"""`maas deploy --objective`: measure the engines, print the figures, choose the best."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from maas.cli.deployments.bench import progress_display
from maas.cli.output import Format, emit_table, notify

if TYPE_CHECKING:
    from types import FrameType

    from maas.client.client import Client
    from maas.client.engine_choice import EngineChoice


class ServingObjective(StrEnum):
    """The names of `maas.lifecycle.load_test.choose.OBJECTIVES`."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


class EngineMeasurement(NamedTuple):
    """The options of `maas deploy` that a measurement needs."""

    name: str
    objective: ServingObjective
    ref: str
    variant: str | None
    threads: int | None
    seconds: float
    again: bool


def best_engine(
    client: Client, measurement: EngineMeasurement, output: Format
) -> tuple[int, str, int, dict[str, Any]]:
    """Version, variant and threads of the best candidate, and all figures for JSON.

    Prints the figures as a table. Raises what `maas.client.engine_choice.choose_engine` raises.
    """
    from maas.client.engine_choice import EngineChoiceOptions, choose_engine
    from maas.lifecycle.load_test.choose import usual_load

    task = client.models.version(measurement.ref).version.manifest.task
    options = EngineChoiceOptions(
        name=measurement.name,
        objective=str(measurement.objective),
        ref=measurement.ref,
        variant=measurement.variant,
        threads=measurement.threads,
        load=usual_load(task, measurement.seconds),
        again=measurement.again,
    )
    with _sigterm_as_interrupt(), progress_display(measurement.name) as display:
        choice = choose_engine(client, options, notify, display.show)
    if output is Format.TABLE:
        print_choice(choice)
    best = choice.best.candidate
    notify(f"best for {choice.objective}: {best.label}")
    return choice.version, best.variant.name, best.threads, {"measured": choice_dict(choice)}


def print_choice(choice: EngineChoice) -> None:
    """Print a row per candidate and load level; the best candidate has an asterisk."""
    from maas.lifecycle.load_test.summary import headings, rows

    head = ["variant", "threads"]
    head += headings([level for trial in choice.trials for level in trial.levels])
    lines: list[list[object]] = []
    for trial in choice.trials:
        name = trial.candidate.variant.name + (" *" if trial is choice.best else "")
        start = [name, trial.candidate.threads]
        if trial.failed:
            lines.append([*start, "does not serve"])
        lines += [[*start, *row] for row in rows(trial.levels)]
    for line in lines:
        line += [""] * (len(head) - len(line))
    emit_table(head, lines)


def choice_dict(choice: EngineChoice) -> dict[str, Any]:
    """The choice as JSON values, for `-o json`."""
    best = choice.best.candidate
    return {
        "objective": choice.objective,
        "kept": {"variant": best.variant.name, "threads": best.threads},
        "candidates": [
            {
                "variant": trial.candidate.variant.name,
                "runtime": trial.candidate.variant.runtime,
                "threads": trial.candidate.threads,
                "library": trial.candidate.library,
                "measured_before": trial.is_known,
                "failed": trial.failed,
                "levels": [level.to_dict() for level in trial.levels],
            }
            for trial in choice.trials
        ],
    }


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, so that the temporary deployment is removed then, too."""

    def interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the removal
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
