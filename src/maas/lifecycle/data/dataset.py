"""Datasets: rows of float32 features with a target, and their split."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput
from maas.domain.models import Task
from maas.domain.names import shown
from maas.lifecycle.data.entrypoints import call_entry, load_entry
from maas.lifecycle.data.spec import DataSource, SplitSpec
from maas.lifecycle.data.tables import read_csv, read_npz, read_parquet, read_sklearn
from maas.lifecycle.data.targets import encode_target, finite_floats

__all__ = ["DataSource", "Dataset", "Split", "SplitSpec", "load_dataset", "make_dataset", "split"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Dataset:
    """Rows in memory. Equal contents have the same digest on every machine."""

    x: npt.NDArray[np.float32]
    """[n, features] or [n, channels, height, width]"""
    y: Array
    """[n]; INT64 class index for a classification, FP32 for a regression"""
    task: Task
    feature_names: tuple[str, ...] = ()
    """One per entry of the last dimension of `x`; empty for images."""
    class_names: tuple[str, ...] = ()
    target_name: str = ""
    units: dict[str, str] = field(default_factory=dict)
    """Unit by feature or target name."""
    slices: dict[str, Array] = field(default_factory=dict)
    """Group of each row, [n] of str, by slice name."""
    name: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def digest(self) -> str:
        """SHA-256 of names, shapes and the little-endian bytes of every array."""
        header = {
            "x": list(self.x.shape),
            "task": str(self.task),
            "features": self.feature_names,
            "classes": self.class_names,
            "target": self.target_name,
            "units": self.units,
            "slices": {k: [str(v) for v in values] for k, values in self.slices.items()},
        }
        hasher = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        hasher.update(np.ascontiguousarray(self.x, dtype="<f4").tobytes())
        kind = "<f4" if self.task is Task.REGRESSION else "<i8"
        hasher.update(np.ascontiguousarray(self.y, dtype=kind).tobytes())
        return hasher.hexdigest()

    def take(self, rows: Array) -> Dataset:
        """The rows with these indices, in this order."""
        slices = {name: values[rows] for name, values in self.slices.items()}
        return replace(self, x=self.x[rows], y=self.y[rows], slices=slices)


@dataclass(frozen=True)
class Split:
    """`validation` or `test` has no rows if its fraction is 0."""

    train: Dataset
    validation: Dataset
    test: Dataset


def load_dataset(source: DataSource) -> Dataset:
    """Reads and checks the rows. Raises InvalidInput, which names the column and the row."""
    kind, _, rest = source.source.partition(":")
    if kind == "sklearn":
        return _from_parts(read_sklearn(rest), source)
    path = Path(source.directory, source.source)
    readers = {".csv": read_csv, ".parquet": read_parquet}
    if path.suffix in readers:
        return _from_columns(readers[path.suffix](path), source)
    if path.suffix == ".npz":
        return _from_parts(read_npz(path, source), source)
    if ":" not in source.source:
        raise InvalidInput(
            "data.source must be a .csv, .parquet or .npz file, sklearn:NAME, "
            f"package.module:function or file.py:function; got {shown(source.source)}",
            field="data.source",
        )
    function = load_entry(source.source, source.directory, "data.source")
    parts = call_entry(function, source.arguments, source.source, "data")
    if isinstance(parts, Dataset):
        if len(parts.x) != len(parts.y):
            raise InvalidInput(
                f"{source.source}: x has {len(parts.x)} rows and y has {len(parts.y)}", field="y"
            )
        return replace(parts, x=finite_floats(parts.x, "x"))
    if isinstance(parts, tuple) and len(parts) == 2:
        parts = {"x": parts[0], "y": parts[1]}
    if not isinstance(parts, dict) or not {"x", "y"} <= parts.keys():
        raise InvalidInput(
            f"{source.source} must return (x, y), a dict with x and y, or a Dataset; "
            f"got {type(parts).__name__}",
            field="data.source",
        )
    return _from_parts(parts, source)


def make_dataset(x: Array, y: Array, source: DataSource, **named: Any) -> Dataset:
    """A dataset of checked arrays; `named` has the names and slices of Dataset."""
    x = finite_floats(np.asarray(x), "x")
    y = np.asarray(y)
    if x.ndim not in (2, 4):
        raise InvalidInput(
            "x must be [rows, features] or [rows, channels, height, width]; "
            f"got shape {list(x.shape)}",
            field="x",
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or len(y) != len(x):
        raise InvalidInput(
            f"y must have one value for each of the {len(x)} rows; got shape {list(y.shape)}",
            field="y",
        )
    if len(x) < 2:
        raise InvalidInput(f"at least 2 rows are needed; got {len(x)}", field="data")
    features = tuple(named.get("feature_names", ()))
    if features and len(features) != x.shape[-1]:
        raise InvalidInput(
            f"feature_names must have a name for each of {x.shape[-1]} features; "
            f"got {len(features)}",
            field="feature_names",
        )
    target = named.get("target_name", "")
    encoded, task, classes = encode_target(y, target or "y", source, named.pop("class_names", ()))
    return Dataset(x=x, y=encoded, task=task, class_names=classes, **named)


def split(dataset: Dataset, spec: SplitSpec) -> Split:
    """Three disjoint parts that depend only on the order of the rows and the seed."""
    n = len(dataset)
    random = np.random.default_rng(spec.seed)
    position = random.random(n)
    if spec.stratify and dataset.task is not Task.REGRESSION:
        # Each class is spread evenly over 0..1 in random order, so that every interval has the
        # classes in proportion.
        for index in range(len(dataset.class_names)):
            rows = np.flatnonzero(dataset.y == index)
            shuffled = random.permutation(len(rows))
            position[rows] = (shuffled + random.random()) / max(1, len(rows))
    order = np.argsort(position, kind="stable")
    tests = round(n * spec.test)
    held_out = tests + round(n * spec.validation)
    if held_out >= n:
        raise InvalidInput(f"the split leaves none of {n} rows to train on", field="split")
    parts = Split(
        train=dataset.take(order[held_out:]),
        validation=dataset.take(order[tests:held_out]),
        test=dataset.take(order[:tests]),
    )
    for index, name in enumerate(dataset.class_names):
        if not np.any(parts.train.y == index):
            raise InvalidInput(
                f"the split leaves no row of class {shown(name)} to train on, of "
                f"{int(np.sum(dataset.y == index))} in total",
                field="split",
            )
    return parts


def _from_parts(parts: dict[str, Any], source: DataSource) -> Dataset:
    optional = ("feature_names", "class_names", "target_name", "slices", "units", "name")
    unknown = sorted(parts.keys() - {"x", "y", *optional})
    if unknown:
        raise InvalidInput(
            f"data has unknown parts {', '.join(unknown)}; expected x, y, {', '.join(optional)}",
            field="data",
        )
    named = {key: parts[key] for key in optional if key in parts}
    for key in ("feature_names", "class_names"):
        named[key] = tuple(str(name) for name in named.get(key, ()))
    slices = {str(k): np.asarray(v).astype(str) for k, v in named.get("slices", {}).items()}
    for name, values in slices.items():
        if values.shape != (len(parts["x"]),):
            raise InvalidInput(
                f"slice {name} must have one value for each of the {len(parts['x'])} rows; "
                f"got shape {list(values.shape)}",
                field=name,
            )
    named["slices"] = slices
    named["units"] = {**named.get("units", {}), **source.units}
    named.setdefault("target_name", source.target)
    named.setdefault("name", source.source)
    return make_dataset(parts["x"], parts["y"], source, **named)


def _from_columns(columns: dict[str, Array], source: DataSource) -> Dataset:
    if not source.target:
        raise InvalidInput(
            f"data.target must name one of the columns {', '.join(columns)}", field="data.target"
        )
    for name in (source.target, *source.features, *source.slices):
        if name not in columns:
            raise InvalidInput(
                f"there is no column {shown(name)} in {source.source}; it has {', '.join(columns)}",
                field=name,
            )
    unused = {source.target, *source.slices}
    features = source.features or tuple(name for name in columns if name not in unused)
    if not features:
        raise InvalidInput(f"{source.source} has no column to predict from", field="data.features")
    x = np.stack([finite_floats(columns[name], name) for name in features], axis=1)
    return make_dataset(
        x,
        columns[source.target],
        source,
        feature_names=features,
        target_name=source.target,
        slices={name: columns[name].astype(str) for name in source.slices},
        units=dict(source.units),
        name=source.source,
    )
