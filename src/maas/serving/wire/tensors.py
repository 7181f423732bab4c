"""Named tensors as datatype, shape and little-endian bytes, without an array library."""

from __future__ import annotations

from dataclasses import dataclass

from maas.serving.wire.messages import Buffer


@dataclass(slots=True)
class Tensor:
    datatype: str
    """An Open Inference Protocol name, e.g. `FP32`."""
    shape: tuple[int, ...]
    """The shape, batch dimension first."""
    data: Buffer
    """Row-major, little-endian; BYTES elements are each prefixed by a u32 length."""


Tensors = dict[str, Tensor]
