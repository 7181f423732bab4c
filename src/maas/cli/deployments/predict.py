"""maas predict: call a deployment from the command line."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from maas.cli.common import Format, OutputOption, client_of, emit_json, emit_table
from maas.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maas.client.client import Client
    from maas.domain.signature import Signature

VALUES_HELP = "Inputs: '{\"x\": [1, 2]}', or x=[1,2] for each; image=@photo.jpg is a file."
FILE_HELP = "Inputs in a .json or .csv file (a header row names the columns); - is JSON on stdin."


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Deployment.")],
    values: Annotated[list[str] | None, typer.Argument(help=VALUES_HELP)] = None,
    file: Annotated[str | None, typer.Option("--file", "-f", help=FILE_HELP)] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for the answer.")] = 30.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Call a deployment with one row or a batch of rows."""
    client = client_of(ctx, timeout=timeout)
    print_outputs(client.predict(name, read_inputs(client, name, values or [], file)), output)


def print_outputs(outputs: dict[str, Any], output: Format) -> None:
    """As JSON, or a line per row of a batch and a column per output."""
    if output is Format.JSON:
        emit_json(outputs)
        return
    columns = list(outputs.values())
    lengths = {len(c) if isinstance(c, list) else -1 for c in columns}
    shapes = {isinstance(c, list) and bool(c) and isinstance(c[0], list) for c in columns}
    if len(columns) > 1 and len(lengths) > 1 and -1 not in lengths:
        shapes = {True}
    batch = len(lengths) == 1 and -1 not in lengths and (True in shapes or len(columns) > 1)
    rows = list(zip(*columns, strict=True)) if batch else [tuple(columns)]
    emit_table(list(outputs), ([_shown(v) for v in row] for row in rows))


def read_inputs(
    client: Client, name: str, values: Sequence[str], file: str | None
) -> dict[str, Any]:
    """The named inputs from the command line, a file or stdin."""
    if file is not None:
        if values:
            raise InvalidInput("give inputs or --file, not both")
        if file.lower().endswith(".csv"):
            return _from_csv(Path(file), _signature(client, name))
        return _object(sys.stdin.read() if file == "-" else _read(Path(file)), file)
    if len(values) == 1 and values[0].lstrip().startswith("{"):
        return _object(values[0], "the inputs")
    if not values:
        raise InvalidInput(f"give inputs, for example `maas predict {name} '{{\"x\": [1, 2]}}'`")
    inputs: dict[str, Any] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidInput(f"an input is NAME=VALUE or one JSON object; got {text!r}")
        if value.startswith("@"):
            inputs[key] = _bytes(Path(value[1:]))
            continue
        try:
            inputs[key] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            inputs[key] = value  # a text needs no quotes
    return inputs


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as wrong:
        raise InvalidInput(f"{where}: not JSON: {wrong}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: a JSON object of named inputs is needed")
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise InvalidInput(f"{path}: {wrong}") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as wrong:
        raise InvalidInput(f"{path}: {wrong.strerror or wrong}") from None


def _signature(client: Client, name: str) -> Signature:
    deployment = client.deployments.get(name).deployment
    version = max(t.version for t in deployment.targets)
    return client.models.version(f"{deployment.model}:{version}").version.manifest.signature


def _from_csv(path: Path, signature: Signature) -> dict[str, Any]:
    """Columns that are named like the inputs, or like the features of the only input, or in its
    order."""
    header, *rows = list(csv.reader(_read(path).splitlines())) or [[]]
    if not rows:
        raise InvalidInput(f"{path}: a header row and at least one more are needed")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InvalidInput(
                f"{path}, line {number}: {len(row)} values; the header has {len(header)}"
            )
    by_name = {column: [_number(row[i]) for row in rows] for i, column in enumerate(header)}
    names = [spec.name for spec in signature.inputs]
    if set(names) <= set(header):
        return {n: by_name[n] for n in names}
    if len(names) > 1:
        raise InvalidInput(f"{path}: columns {', '.join(names)} are needed")
    labels = signature.inputs[0].labels
    order = labels if labels and set(labels) <= set(header) else header
    return {names[0]: [list(row) for row in zip(*(by_name[c] for c in order), strict=True)]}


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return "[" + ", ".join(str(_shown(v)) for v in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else value


def register(app: typer.Typer) -> None:
    app.command("predict")(command)
