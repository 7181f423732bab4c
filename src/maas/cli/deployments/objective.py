"""What `maas deploy --objective` does before it deploys: measure, show, choose."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from maas.cli.common import Format, emit_table, say
from maas.cli.deployments.bench import display

if TYPE_CHECKING:
    from types import FrameType

    from maas.client.client import Client
    from maas.client.engine_choice import EngineChoice


class ObjectiveOptions(NamedTuple):
    """What the command line says about it."""

    name: str
    objective: str
    ref: str
    variant: str | None
    threads: int | None
    seconds: float
    again: bool


def measured(
    client: Client, wish: ObjectiveOptions, output: Format
) -> tuple[int, str, int, dict[str, Any]]:
    """Version, variant and threads of what was found best, and all that was found, for JSON.

    Measures what is to be measured, and shows the table. Raises as
    `maas.client.engine_choice.choose`.
    """
    from maas.client.engine_choice import EngineChoiceOptions, choose
    from maas.lifecycle.load.choose import check_objective, usual_load

    check_objective(wish.objective)
    task = client.models.version(wish.ref).version.manifest.task
    told = EngineChoiceOptions(
        name=wish.name,
        objective=wish.objective,
        ref=wish.ref,
        variant=wish.variant,
        threads=wish.threads,
        load=usual_load(task, wish.seconds),
        again=wish.again,
    )
    with _told_to_end(), display(wish.name) as shown:
        choice = choose(client, told, say, shown.show)
    if output is Format.TABLE:
        print_choice(choice)
    kept = choice.kept.candidate
    say(f"kept for {choice.objective}: {kept.label}")
    return choice.version, kept.variant.name, kept.threads, {"measured": choice_dict(choice)}


def print_choice(choice: EngineChoice) -> None:
    """A row per candidate and level."""
    from maas.lifecycle.load.summary import headings, rows

    levels = [level for trial in choice.trials for level in trial.levels]
    lines: list[tuple[object, ...]] = []
    for trial in choice.trials:
        name = trial.candidate.variant.name + (" *" if trial is choice.kept else "")
        place = (name, trial.candidate.threads)
        if trial.failed:
            lines.append((*place, "does not serve"))
        lines += [(*place, *row) for row in rows(trial.levels)]
    head = ("variant", "threads", *headings(levels))
    emit_table(head, [(*line, *[""] * (len(head) - len(line))) for line in lines])


def choice_dict(choice: EngineChoice) -> dict[str, Any]:
    """For `-o json`."""
    return {
        "objective": choice.objective,
        "kept": {
            "variant": choice.kept.candidate.variant.name,
            "threads": choice.kept.candidate.threads,
        },
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
def _told_to_end() -> Iterator[None]:
    """SIGTERM as Ctrl-C, so that what was made for measuring is removed then, too."""

    def interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break off the removal
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
