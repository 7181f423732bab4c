"""From waiting entries to arrays for the runtime, and from its arrays to the entries' answers."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import Arrays, Runtime, numpy_dtype
from maas.serving.replica.queue import RequestGroup
from maas.serving.wire.elements import bytes_elements, pack_elements
from maas.serving.wire.messages import Answers, Buffer, Column


class Batcher:
    """Runs batches of entries through a runtime."""

    def __init__(self, runtime: Runtime, signature: Signature, max_rows: int) -> None:
        self._runtime = runtime
        self._signature = signature
        self.max_rows = min(max_rows, signature.max_rows or max_rows)
        """Most rows that one call of the model gets."""
        self._is_text = not runtime.takes_bytes
        self.silent_seconds = runtime.silent_seconds
        self._dtypes = [numpy_dtype(spec.datatype) for spec in signature.inputs]

    def run(self, parcels: list[RequestGroup]) -> Arrays:
        """Outputs `[rows of all parcels, …]`, in their order. Raises InferenceFailed."""
        rows = sum(parcel.total_rows for parcel in parcels)
        inputs: Arrays = {}
        for number, (spec, dtype) in enumerate(
            zip(self._signature.inputs, self._dtypes, strict=True)
        ):
            parts = [parcel.columns[number] for parcel in parcels]
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            shape = (rows, *parcels[0].shapes[number])
            inputs[spec.name] = from_buffer(data, dtype, shape, self._is_text)
        most = self.max_rows
        if rows <= most:
            return self._checked(self._runtime.predict(inputs), rows)
        return self.joined(
            [
                self._checked(
                    self._runtime.predict({k: v[at : at + most] for k, v in inputs.items()}),
                    min(most, rows - at),
                )
                for at in range(0, rows, most)
            ]
        )

    def joined(self, pieces: list[Arrays]) -> Arrays:
        """The outputs of one request whose rows were computed in `pieces`. Raises
        InferenceFailed."""
        if len(pieces) == 1:
            return pieces[0]
        try:
            return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
        except ValueError:
            raise InferenceFailed(
                f"outputs of different sizes for different rows; at most {self.max_rows} rows "
                "at once can be answered"
            ) from None

    @property
    def last_progress(self) -> float:
        """When the model last showed that it is not stuck, seconds on the monotonic clock."""
        return self._runtime.last_progress

    def close(self) -> None:
        """Closes the runtime; nothing runs after it."""
        self._runtime.close()

    def _checked(self, outputs: Arrays, rows: int) -> Arrays:
        for spec in self._signature.outputs:
            found = outputs[spec.name]
            fits = found.ndim == len(spec.shape) + 1 and all(
                want in (-1, got)
                for want, got in zip((rows, *spec.shape), found.shape, strict=True)
            )
            if not fits:
                raise InferenceFailed(
                    f"output {spec.name!r} has shape {list(found.shape)} for {rows} rows; the "
                    f"signature says {[rows, *spec.shape]}"
                )
        return outputs

    def answers(
        self, parcels: list[RequestGroup], outputs: Arrays, first_row: int, timing: Timing
    ) -> Answers:
        """What goes back over one connection: `parcels` own the rows from `first_row` on."""
        ids, rows, queue_us = array("Q"), array("I"), array("I")
        for parcel in parcels:
            ids += parcel.ids
            rows += parcel.rows
            queue_us += array("I", [timing.queue_us(parcel)]) * len(parcel)
        end = first_row + sum(rows)
        return Answers(
            ids=ids,
            rows=rows,
            queue_us=queue_us,
            compute_us=timing.compute_us,
            batch_rows=timing.rows,
            columns=[
                to_column(spec, outputs[spec.name][first_row:end])
                for spec in self._signature.outputs
            ],
        )


_LONGEST_WAIT_US = 3_600_000_000


class Timing:
    """When a batch started and how long its model ran."""

    __slots__ = ("compute_us", "rows", "started")

    def __init__(self, started: float, finished: float, rows: int) -> None:
        self.started = started
        self.compute_us = int((finished - started) * 1e6)
        self.rows = rows

    def queue_us(self, parcel: RequestGroup) -> int:
        """How long it waited, microseconds; an hour or more is an hour."""
        return min(max(0, int((self.started - parcel.arrived) * 1e6)), _LONGEST_WAIT_US)


def from_buffer(
    data: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], is_text: bool = True
) -> NDArray[Any]:
    """An array over `data`; BYTES (object) elements become `str`, or `bytes` if they are no text.
    Raises InvalidInput."""
    if not dtype.hasobject:
        try:
            return np.frombuffer(data, dtype).reshape(shape)
        except ValueError:
            raise InvalidInput(f"{len(data)} bytes are not a {dtype} tensor {shape}") from None
    elements: list[Any] = bytes_elements(data)
    try:
        if is_text:
            elements = [text.decode() for text in elements]
    except UnicodeDecodeError as wrong:
        raise InvalidInput(f"a BYTES element is not UTF-8: {wrong}") from None
    if len(elements) != math.prod(shape):
        raise InvalidInput(f"{len(elements)} BYTES elements are not a tensor {shape}")
    out = np.empty(len(elements), object)
    out[:] = elements
    return out.reshape(shape)


def to_column(spec: TensorSpec, rows: NDArray[Any]) -> Column:
    """`rows` as the signature says it: its datatype, row-major, little-endian."""
    if spec.datatype == "BYTES":
        texts = [t if isinstance(t, bytes) else str(t).encode() for t in rows.ravel()]
        return Column(tuple(rows.shape[1:]), pack_elements(texts))
    wanted = numpy_dtype(spec.datatype)
    return Column(tuple(rows.shape[1:]), rows.astype(wanted, copy=False).tobytes())
