"""Inputs of `maas predict` and `maas explain`: from the command line, a file or stdin."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from maas.cli.common import UsageError
from maas.domain.errors import InvalidInput
from maas.domain.names import did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maas.client.client import Client
    from maas.domain.signature import Signature

VALUES_HELP = (
    "Inputs: one JSON object such as '{\"x\": [1, 2]}', or NAME=VALUE for each input, such as "
    "x=[1,2]; image=@photo.jpg sends a file."
)
FILE_HELP = (
    "Read the inputs from a .json or .csv file; - reads JSON from stdin. The header of a CSV file "
    "names the inputs, or the features of the only input; if it names none of them, the "
    "columns are used in order."
)


class Inputs(NamedTuple):
    """Values by the name of their input."""

    values: dict[str, Any]
    rows: int | None = None
    """Number of rows, as far as the values tell a batch from one row; None for one row."""


def read_inputs(client: Client, name: str, values: Sequence[str], file: str | None) -> Inputs:
    """The inputs for deployment `name`. Raises UsageError if there are none, InvalidInput for a
    file that cannot be read."""
    if file is not None:
        if values:
            raise UsageError("inputs come from the command line or from --file, not from both")
        if file.lower().endswith(".csv"):
            return inputs_from_csv(Path(file), _signature(client, name))
        text = sys.stdin.read() if file == "-" else _read_text(Path(file))
        return _with_rows(_json_object(text, "stdin" if file == "-" else file))
    if not values:
        raise UsageError(
            f"inputs are missing, for example `maas predict {name} '{{\"x\": [1, 2]}}'`"
        )
    if len(values) == 1 and values[0].lstrip().startswith("{"):
        return _with_rows(_json_object(values[0], "the inputs"))
    return _with_rows(dict(_named_value(text) for text in values))


def _with_rows(values: dict[str, Any]) -> Inputs:
    """Inputs that are lists of one length are a batch if they are nested, or several."""
    lengths = {len(value) if isinstance(value, list) else -1 for value in values.values()}
    if len(lengths) != 1 or lengths & {-1, 0}:
        return Inputs(values)
    is_nested = any(isinstance(value[0], list) for value in values.values())
    return Inputs(values, lengths.pop() if is_nested or len(values) > 1 else None)


def inputs_from_csv(path: Path, signature: Signature) -> Inputs:
    """A batch from a CSV file with a header.

    Columns are matched by name with the inputs, or with the feature labels of the only input. If
    the header has none of these names, the columns are the features in order. Raises InvalidInput
    for a missing or an unknown column.
    """
    header, rows = _csv_rows(path)
    columns = {name: [_number(row[i]) for row in rows] for i, name in enumerate(header)}
    inputs = [spec.name for spec in signature.inputs]
    features = list(signature.inputs[0].labels) if len(inputs) == 1 else []
    for expected in (inputs, features):
        if set(expected) & set(header):
            _check_columns(path, header, expected)
            if expected is inputs:
                return Inputs({name: columns[name] for name in inputs}, len(rows))
            return Inputs({inputs[0]: _transposed(columns, features)}, len(rows))
    if len(inputs) > 1:
        raise InvalidInput(
            f"{path}: the columns must be {', '.join(inputs)}; got {', '.join(header)}",
            field=inputs[0],
        )
    return Inputs({inputs[0]: _transposed(columns, header)}, len(rows))


def _csv_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows; all rows are as long as the header."""
    header, *rows = list(csv.reader(_read_text(path).splitlines())) or [[]]
    if not rows:
        raise InvalidInput(f"{path}: expected a header and at least one row")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InvalidInput(f"{path}: column {twice!r} is there twice", field=twice)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InvalidInput(
                f"{path}, line {number}: expected {len(header)} values as in the header, got "
                f"{len(row)}"
            )
    return header, rows


def _check_columns(path: Path, header: Sequence[str], expected: Sequence[str]) -> None:
    for name in header:
        if name not in expected:
            raise InvalidInput(
                f"{path}: column {name!r} is unknown{did_you_mean(name, expected)}; expected "
                f"{', '.join(expected)}",
                field=name,
            )
    missing = [name for name in expected if name not in header]
    if missing:
        raise InvalidInput(f"{path}: column {missing[0]!r} is missing", field=missing[0])


def _transposed(columns: dict[str, list[Any]], names: Sequence[str]) -> list[list[Any]]:
    """The named columns as rows."""
    return [list(row) for row in zip(*(columns[name] for name in names), strict=True)]


def _named_value(text: str) -> tuple[str, Any]:
    """`x=[1,2]`, `name=ada` or `image=@photo.jpg` as a pair."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"an input must be NAME=VALUE, or a JSON object; got {text!r}")
    if value.startswith("@"):
        return name, _read_bytes(Path(value[1:]))
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        if value.startswith(("[", "{", '"')) or _is_number(value):
            raise InvalidInput(
                f"{name}: not JSON: {error}; got {shown(value)}", field=name
            ) from None
        return name, value  # a string needs no quotes


def _is_number(text: str) -> bool:
    """Whether Python reads `text` as a number, such as NaN or 1e400, which JSON has not."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_object(text: str, source: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{source}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput(
            f"{source}: expected a JSON object with the inputs by name, got {type(value).__name__}"
        )
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path}: expected text in UTF-8") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None


def _signature(client: Client, name: str) -> Signature:
    """The signature of the newest version that the deployment serves."""
    deployment = client.deployments.get(name).deployment
    version = max(target.version for target in deployment.targets)
    return client.models.version(f"{deployment.model}:{version}").version.manifest.signature


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
