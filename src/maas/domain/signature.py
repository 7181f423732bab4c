"""Signatures: a model's named inputs and outputs with datatype, shape, units and an example.

A signature leaves out the leading batch dimension: an input of shape `(10,)` is a vector of length
10 per row and is sent as `[n, 10]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import TENSOR_NAME, shown

MAX_RANK = 8
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True)
class DataType:
    """One datatype of the Open Inference Protocol v2."""

    name: str
    size: int
    """Bytes per element; 0 for BYTES, whose elements are length-prefixed."""
    typecode: str
    """Type code in the standard library's `array` and `struct`; '' if there is none."""
    numpy: str
    """Name of the NumPy dtype."""


DATATYPES: dict[str, DataType] = {
    d.name: d
    for d in (
        DataType("BOOL", 1, "?", "bool"),
        DataType("UINT8", 1, "B", "uint8"),
        DataType("UINT16", 2, "H", "uint16"),
        DataType("UINT32", 4, "I", "uint32"),
        DataType("UINT64", 8, "Q", "uint64"),
        DataType("INT8", 1, "b", "int8"),
        DataType("INT16", 2, "h", "int16"),
        DataType("INT32", 4, "i", "int32"),
        DataType("INT64", 8, "q", "int64"),
        DataType("FP16", 2, "e", "float16"),
        DataType("FP32", 4, "f", "float32"),
        DataType("FP64", 8, "d", "float64"),
        DataType("BYTES", 0, "", "object"),
    )
}


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output; `shape` is per row, with -1 for a size that may vary."""

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    units: str | None = None
    description: str | None = None
    labels: tuple[str, ...] = ()
    """Names of the last dimension's entries (features or classes), if they have any."""
    default: str | float | bool | None = None
    """Value of a scalar input that a request leaves out; None: the input is required."""
    nested: bool = False
    """True for a Matryoshka embedding: a prefix of it, scaled to length 1, is an embedding, too."""

    def __post_init__(self) -> None:
        if not TENSOR_NAME.fullmatch(self.name):
            raise InvalidInput(
                "a tensor name must be 1 to 128 letters, digits, spaces or any of _.:/-, starting "
                f"with a letter or '_'; got {shown(self.name)}",
                field="name",
            )
        if self.datatype not in DATATYPES:
            raise InvalidInput(
                f"{self.name}: datatype must be one of {', '.join(DATATYPES)}; "
                f"got {shown(self.datatype)}",
                field="datatype",
            )
        if len(self.shape) > MAX_RANK or any(d < -1 or d == 0 for d in self.shape):
            raise InvalidInput(
                f"{self.name}: shape must have at most {MAX_RANK} dimensions, each -1 or ≥ 1; "
                f"got {list(self.shape)}",
                field="shape",
            )
        if math.prod(abs(d) for d in self.shape) > MAX_ELEMENTS:
            raise InvalidInput(
                f"{self.name}: shape must have at most {MAX_ELEMENTS} elements per row; "
                f"got {list(self.shape)}",
                field="shape",
            )
        if self.default is not None and self.shape:
            raise InvalidInput(
                f"{self.name}: only a scalar input may have a default; its shape is "
                f"{list(self.shape)}",
                field="default",
            )

    @property
    def dtype(self) -> DataType:
        return DATATYPES[self.datatype]

    @property
    def is_fixed(self) -> bool:
        """Whether every row has the same number of bytes."""
        return self.dtype.size > 0 and -1 not in self.shape

    @property
    def row_bytes(self) -> int:
        """Bytes per row of a fixed tensor."""
        return self.dtype.size * math.prod(self.shape)

    def expected_shape(self) -> str:
        """The shapes that a request may have, for an error message."""
        sizes = ", ".join("?" if size == -1 else str(size) for size in self.shape)
        return f"[{sizes}] or [n, {sizes}]" if sizes else "[] or [n]"

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "name": self.name,
            "datatype": self.datatype,
            "shape": list(self.shape),
        }
        if self.units:
            out["units"] = self.units
        if self.description:
            out["description"] = self.description
        if self.labels:
            out["labels"] = list(self.labels)
        if self.default is not None:
            out["default"] = self.default
        if self.nested:
            out["nested"] = True
        return out

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> TensorSpec:
        return cls(
            name=str(raw["name"]),
            datatype=str(raw["datatype"]),
            shape=tuple(int(d) for d in raw.get("shape", ())),
            units=raw.get("units"),
            description=raw.get("description"),
            labels=tuple(str(x) for x in raw.get("labels", ())),
            default=raw.get("default"),
            nested=bool(raw.get("nested", False)),
        )


@dataclass(frozen=True)
class Signature:
    """Named inputs and outputs, with one example row that the model can process."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: dict[str, Any] = field(default_factory=dict)
    """One row per input as JSON values, for example `{"x": [1, 2, 3]}`."""
    max_rows: int | None = None
    """Most rows in one batch; None: no limit."""

    def __post_init__(self) -> None:
        if not self.inputs or not self.outputs:
            raise InvalidInput("a signature needs at least one input and one output")
        if len(self.inputs) > 256 or len(self.outputs) > 256:
            raise InvalidInput("a signature has at most 256 inputs and 256 outputs")
        for side, specs in (("input", self.inputs), ("output", self.outputs)):
            names = [s.name for s in specs]
            if len(set(names)) != len(names):
                raise InvalidInput(f"two {side}s have the same name: {', '.join(names)}")
        unknown = set(self.example) - {s.name for s in self.inputs}
        if unknown:
            raise InvalidInput(
                f"the example has values for unknown inputs: {', '.join(sorted(unknown))}",
                field="example",
            )

    def input(self, name: str) -> TensorSpec | None:
        return next((s for s in self.inputs if s.name == name), None)

    @property
    def has_bytes(self) -> bool:
        """Whether some input is BYTES, whose rows differ in size."""
        return any(s.datatype == "BYTES" for s in self.inputs)

    def to_dict(self) -> dict[str, Any]:
        return {
            "inputs": [s.to_dict() for s in self.inputs],
            "outputs": [s.to_dict() for s in self.outputs],
            "example": self.example,
            "max_rows": self.max_rows,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Signature:
        return cls(
            inputs=tuple(TensorSpec.from_dict(s) for s in raw["inputs"]),
            outputs=tuple(TensorSpec.from_dict(s) for s in raw["outputs"]),
            example=dict(raw.get("example") or {}),
            max_rows=raw.get("max_rows"),
        )
