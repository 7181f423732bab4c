"""Datasets: rows of float32 numbers with what to predict from them, and their split."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.models import Task
from maas.lifecycle.spec import DataSource, SplitSpec

__all__ = ["DataSource", "Dataset", "Split", "SplitSpec", "load_dataset", "split"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Dataset:
    """Rows in memory. Equal contents have equal digests on every machine."""

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
    """By feature or target name."""
    slices: dict[str, Array] = field(default_factory=dict)
    """By slice name: [n] of str, the group that each row belongs to."""
    name: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and the little-endian bytes of every array."""
        header = {
            "x": list(self.x.shape),
            "task": str(self.task),
            "features": self.feature_names,
            "classes": self.class_names,
            "target": self.target_name,
            "units": self.units,
            "slices": {k: [str(v) for v in values] for k, values in self.slices.items()},
        }
        found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        found.update(np.ascontiguousarray(self.x, dtype="<f4").tobytes())
        kind = "<f4" if self.task is Task.REGRESSION else "<i8"
        found.update(np.ascontiguousarray(self.y, dtype=kind).tobytes())
        return found.hexdigest()

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
    """Reads and checks the rows. Raises InvalidInput that names the column and the row."""
    raise NotImplementedError


def split(dataset: Dataset, spec: SplitSpec) -> Split:
    """Three disjoint parts that depend on nothing but the rows' order and the seed."""
    raise NotImplementedError
