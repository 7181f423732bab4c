"""Outputs of a prediction as a table or as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import Any

from maas.cli.output import cell_text, emit_table
from maas.domain.numbers import format_number

LONGEST_CELL = 8
"""Elements of a list that a cell of a table shows."""
LONGEST_ROW = 8
"""Elements of a lone list that are printed in one row; more are printed one per row."""


def emit_outputs(outputs: dict[str, Any], rows: int | None = None) -> None:
    """Print a row per row of the batch and a column per output.

    `rows` is the number of rows sent; None infers whether lists are batches. A long list is
    printed one element per row.
    """
    columns = list(outputs.values())
    if is_batch(columns, rows):
        lines = list(zip(*columns, strict=True))
    elif len(columns) == 1 and _is_long_list(columns[0]):
        lines = [(value,) for value in columns[0]]
    else:
        lines = [tuple(columns)]
    emit_table(list(outputs), ([_cell(value) for value in line] for line in lines))


def emit_csv(outputs: dict[str, Any], rows: int | None = None) -> None:
    """Print CSV with a header and a row per row of the batch.

    An output with more than one element has a column per element: `scores_0`, `scores_1`, ….
    """
    columns = list(outputs.values())
    lines = list(zip(*columns, strict=True)) if is_batch(columns, rows) else [tuple(columns)]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    header = [name for name, _ in _elements(outputs, lines[0])] if lines else list(outputs)
    writer.writerow(header)
    for line in lines:
        writer.writerow([value for _, value in _elements(outputs, line)])


def is_batch(columns: list[Any], rows: int | None = None) -> bool:
    """Whether every output is a list with an entry per row."""
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(lengths) != 1 or -1 in lengths:
        return False
    if lengths == {rows}:
        return True
    return len(columns) > 1 or any(column and isinstance(column[0], list) for column in columns)


def _is_long_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > LONGEST_ROW


def _elements(outputs: dict[str, Any], line: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Column names and values of one row."""
    for name, value in zip(outputs, line, strict=True):
        yield from _flattened(name, value)


def _flattened(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, list):
        yield name, value
        return
    for i, element in enumerate(value):
        yield from _flattened(f"{name}_{i}", element)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        shown = [_cell(element) for element in value[:LONGEST_CELL]]
        if len(value) > LONGEST_CELL:
            shown.append(f"… ({format_number(len(value))} in all)")
        return f"[{', '.join(shown)}]"
    return cell_text(value)
