"""Names of figures in reports and tables, for each kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from maas.domain.models import Task


@dataclass(frozen=True)
class FigureNames:
    """Names of figures for one kind of model."""

    rate: str
    load: str
    """Description of a load, with {} for its size."""
    costs: Mapping[str, str]
    """Axis label for each objective."""
    columns: str
    """Explanation of the columns of the cost table."""
    judged: str
    """Second half of a sentence that explains when a rule passes."""
    compared: str
    """Unit of the number of rows that candidates are compared on."""


_BYTES = {"size": "bytes of the files, original = 1", "memory": "resident memory, original = 1"}
_ROWS = FigureNames(
    rate="rows/s",
    load="batch {}",
    costs={
        "latency": "p50 of one row, original = 1",
        "throughput": "time per row in the largest batch, original = 1",
        **_BYTES,
    },
    columns="Numbers in column heads are rows per request; p50 and p99 are in ms.",
    judged="on rows that no candidate was made with. No class and no slice may have lost "
    "significantly more than the gate allows.",
    compared="rows",
)
_TOKENS = FigureNames(
    rate="tokens/s",
    load="{} concurrent",
    costs={
        "latency": "p50 of one answer at a time, original = 1",
        "throughput": "time per token with 16 concurrent answers, original = 1",
        **_BYTES,
    },
    columns="Numbers in column heads are concurrent answers; p50 and p99 are durations of complete "
    "answers, and first is the time to the first token, in ms. p99 is reported only for runs with "
    "at least 100 requests.",
    judged="over chunks of the text, and over prompts for the agreement of greedy answers.",
    compared="chunks of text",
)


def figure_names(task: Task) -> FigureNames:
    return _TOKENS if task is Task.TEXT_GENERATION else _ROWS
