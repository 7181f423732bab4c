"""What the figures of a kind of model are called where people read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from maas.domain.models import Task


@dataclass(frozen=True)
class FigureNames:
    rate: str
    call: str
    """What a batch size says, with {} for it."""
    costs: Mapping[str, str]
    """By objective, for an axis."""
    columns: str
    judged: str
    compared: str
    """What there are so many of that are compared on."""


_BYTES = {"size": "bytes of the files, original = 1", "memory": "resident memory, original = 1"}
_ROWS = FigureNames(
    rate="rows/s",
    call="batch {}",
    costs={
        "latency": "p50 of one row, original = 1",
        "throughput": "time per row in the largest batch, original = 1",
        **_BYTES,
    },
    columns="Columns name the rows of a call; p50 and p99 are in ms.",
    judged="on rows that no candidate was made with. No class and no slice may have lost "
    "significantly more than the gate allows.",
    compared="rows",
)
_TOKENS = FigureNames(
    rate="tokens/s",
    call="{} at once",
    costs={
        "latency": "p50 of one answer, one at a time, original = 1",
        "throughput": "time per token with 16 answers at once, original = 1",
        **_BYTES,
    },
    columns="Columns name how many answers are written at once; p50 is the time of whole "
    "answers (p99 is told where a run had 100) and first is that to their first token, in ms.",
    judged="over chunks of the text, and over prompts for the agreement of greedy answers.",
    compared="chunks of text",
)


def labels_of(task: Task) -> FigureNames:
    return _TOKENS if task is Task.TEXT_GENERATION else _ROWS
