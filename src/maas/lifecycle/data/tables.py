"""Readers of tables: CSV, Parquet, NPZ, and the data sets of scikit-learn."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.lifecycle.data.spec import DataSource

Array = npt.NDArray[Any]

SKLEARN_SETS = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def read_csv(path: Path) -> dict[str, Array]:
    """Columns of text by the names in the first line; UTF-8, comma-separated (RFC 4180)."""
    _must_exist(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [row for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path.name} is not CSV in UTF-8: {error}", field="data") from None
    if not header:
        raise InvalidInput(f"{path.name} is empty; expected a line of column names", field="data")
    twice = sorted({name for name in header if header.count(name) > 1 or not name})
    if twice:
        raise InvalidInput(
            f"{path.name}: column names must be unique and not empty; found {shown(twice[0])} "
            f"{header.count(twice[0])} times",
            field="data",
        )
    if not rows:
        raise InvalidInput(f"{path.name} has column names and no rows", field="data")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InvalidInput(
                f"{path.name}, row {number}: expected {len(header)} cells, found {len(row)}",
                field="data",
                row=number,
            )
    cells = [[cell.strip() for cell in column] for column in zip(*rows, strict=True)]
    return {name: np.array(column) for name, column in zip(header, cells, strict=True)}


def read_parquet(path: Path) -> dict[str, Array]:
    """Columns by name; numbers stay numbers, everything else becomes text."""
    with _requires("openmaas[parquet]"):
        import pyarrow  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    _must_exist(path)
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise InvalidInput(f"{path.name} is not a Parquet file: {error}", field="data") from None
    if not table.num_rows:
        raise InvalidInput(f"{path.name} has no rows", field="data")
    columns: dict[str, Array] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            row = column.is_null().to_numpy().argmax() + 1
            raise InvalidInput(
                f"column {shown(name)}, row {row}: expected a value, found none",
                field=name,
                row=int(row),
            )
        values = column.to_numpy()
        columns[name] = values if values.dtype.kind in "fiub" else values.astype(str)
    return columns


def read_npz(path: Path, source: DataSource) -> dict[str, Any]:
    """Arrays `x` and `y` (or the target's name) and those of the slices; no pickled objects."""
    _must_exist(path)
    target = source.target or "y"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise InvalidInput(f"{path.name} is not a plain NPZ file: {error}", field="data") from None
    if "x" not in arrays and "X" in arrays:
        arrays["x"] = arrays.pop("X")
    for name in ("x", target, *source.slices):
        if name not in arrays:
            raise InvalidInput(
                f"there is no array {shown(name)} in {path.name}; it has {', '.join(arrays)}",
                field=name,
            )
    return {
        "x": arrays["x"],
        "y": arrays[target],
        "slices": {name: arrays[name] for name in source.slices},
        **{key: arrays[key] for key in ("feature_names", "class_names") if key in arrays},
    }


def read_sklearn(name: str) -> dict[str, Any]:
    """A data set of scikit-learn; `digits` as images [n, 1, 8, 8] with values from 0 to 16."""
    if name not in SKLEARN_SETS:
        raise InvalidInput(
            f"data.source: sklearn has {', '.join(SKLEARN_SETS)}; got {shown(name)}",
            field="data.source",
        )
    with _requires("openmaas[sklearn]"):
        from sklearn import datasets  # noqa: PLC0415 - an extra
    bunch = getattr(datasets, f"load_{name}")()
    if name == "digits":
        names = [str(v) for v in bunch.target_names]
        return {"x": bunch.images[:, None], "y": bunch.target, "class_names": names}
    parts = {"x": bunch.data, "y": bunch.target, "feature_names": bunch.feature_names}
    if name != "diabetes":
        parts["class_names"] = bunch.target_names
    return parts


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}", field="data.source")


@contextmanager
def _requires(extra: str) -> Iterator[None]:
    """Turns a failed import within the block into InvalidInput that names the extra."""
    try:
        yield
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        raise InvalidInput(
            f"this needs {package}: pip install '{extra}'", field="data.source"
        ) from None
