"""Converts waiting requests to arrays for the runtime, and its outputs to their answers."""

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
    """Runs batches of requests through a runtime."""

    def __init__(self, runtime: Runtime, signature: Signature, max_rows: int) -> None:
        self._runtime = runtime
        self._signature = signature
        self.max_rows = min(max_rows, signature.max_rows or max_rows)
        """Largest number of rows in one call of the model."""
        self._is_text = not runtime.takes_bytes
        self.silent_seconds = runtime.silent_seconds
        self._dtypes = [numpy_dtype(spec.datatype) for spec in signature.inputs]

    def run(self, groups: list[RequestGroup]) -> Arrays:
        """The outputs of all groups, in order: arrays `[rows, …]`. Raises InferenceFailed."""
        rows = sum(group.total_rows for group in groups)
        inputs: Arrays = {}
        for number, (spec, dtype) in enumerate(
            zip(self._signature.inputs, self._dtypes, strict=True)
        ):
            parts = [group.columns[number] for group in groups]
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            shape = (rows, *groups[0].shapes[number])
            inputs[spec.name] = from_buffer(data, dtype, shape, self._is_text)
        if rows <= self.max_rows:
            return self._checked(self._runtime.predict(inputs), rows)
        pieces = []
        for at in range(0, rows, self.max_rows):
            end = min(at + self.max_rows, rows)
            piece = {name: values[at:end] for name, values in inputs.items()}
            pieces.append(self._checked(self._runtime.predict(piece), end - at))
        return self.joined(pieces)

    def joined(self, pieces: list[Arrays]) -> Arrays:
        """The outputs of a request whose rows were computed in `pieces`.

        Raises InferenceFailed if the shapes of their outputs differ.
        """
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
        """When the model last made progress, in seconds on the monotonic clock."""
        return self._runtime.last_progress

    def close(self) -> None:
        """Closes the runtime; nothing runs after it."""
        self._runtime.close()

    def _checked(self, outputs: Arrays, rows: int) -> Arrays:
        """`outputs`. Raises InferenceFailed if a shape differs from the signature."""
        for spec in self._signature.outputs:
            shape = outputs[spec.name].shape
            fits = len(shape) == len(spec.shape) + 1 and all(
                expected in (-1, size)
                for expected, size in zip((rows, *spec.shape), shape, strict=True)
            )
            if not fits:
                raise InferenceFailed(
                    f"output {spec.name!r} has shape {list(shape)} for {rows} rows; the "
                    f"signature says {[rows, *spec.shape]}"
                )
        return outputs

    def answers(
        self, groups: list[RequestGroup], outputs: Arrays, first_row: int, timing: Timing
    ) -> Answers:
        """The answers for one connection, whose `groups` have the rows from `first_row`."""
        ids, rows, queue_us = array("Q"), array("I"), array("I")
        for group in groups:
            ids += group.ids
            rows += group.rows
            queue_us += array("I", [timing.queue_us(group)]) * len(group)
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
    """The start of a batch and the run time of the model."""

    __slots__ = ("compute_us", "rows", "started")

    def __init__(self, started: float, finished: float, rows: int) -> None:
        self.started = started
        self.compute_us = int((finished - started) * 1e6)
        self.rows = rows

    def queue_us(self, group: RequestGroup) -> int:
        """The queueing time of `group` in microseconds, at most one hour."""
        return min(max(0, int((self.started - group.arrived) * 1e6)), _LONGEST_WAIT_US)


def from_buffer(
    data: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], is_text: bool = True
) -> NDArray[Any]:
    """An array over `data`, which is not copied unless it is BYTES.

    BYTES elements become `str` objects, or `bytes` without `is_text`. Raises InvalidInput if the
    data does not fit the shape or is not UTF-8.
    """
    if not dtype.hasobject:
        try:
            return np.frombuffer(data, dtype).reshape(shape)
        except ValueError:
            raise InvalidInput(f"{len(data)} bytes are not a {dtype} tensor {shape}") from None
    elements: list[Any] = bytes_elements(data)
    try:
        if is_text:
            elements = [text.decode() for text in elements]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"a BYTES element is not UTF-8: {error}") from None
    if len(elements) != math.prod(shape):
        raise InvalidInput(f"{len(elements)} BYTES elements are not a tensor {shape}")
    out = np.empty(len(elements), object)
    out[:] = elements
    return out.reshape(shape)


def to_column(spec: TensorSpec, rows: NDArray[Any]) -> Column:
    """`rows` in the datatype of the signature, row-major and little-endian."""
    if spec.datatype == "BYTES":
        texts = [t if isinstance(t, bytes) else str(t).encode() for t in rows.ravel()]
        return Column(tuple(rows.shape[1:]), pack_elements(texts))
    dtype = numpy_dtype(spec.datatype)
    return Column(tuple(rows.shape[1:]), rows.astype(dtype, copy=False).tobytes())
