"""Frames between a gateway (or control) and a replica, over a unix socket.

A frame is `u32 length | u8 kind | body`, little-endian. Requests are sent in columns: an `Infer`
frame carries all requests of one tick of the gateway's event loop, and an `Answers` frame all
requests of one batch, so that they share the cost of a frame. Tensors are sent as shape and bytes;
datatypes and order are those of the signature, which both ends have. No frame can name code.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from maas.domain.errors import ERRORS_BY_CODE, MaasError

MAX_FRAME_BYTES = 1 << 30

Buffer = bytes | bytearray | memoryview


class FrameKind(IntEnum):
    """The kind of a frame, its fifth byte."""

    INFER = 1
    ANSWERS = 2
    FAILURE = 3
    CANCEL = 4
    PING = 5
    PONG = 6
    GOAWAY = 7
    GENERATE = 8
    PIECES = 9
    PROGRESS = 10
    """The work done so far for a request that is computed in parts."""


class Priority(IntEnum):
    """The order in which waiting requests are served."""

    NORMAL = 0
    LOW = 1
    """Explanations, which wait for requests of clients."""
    PROOF = 2
    """Control's check that a replica answers: queued as NORMAL, answered with as little work as
    possible."""


class ProtocolViolation(Exception):
    """The peer sent bytes that are not a frame; the connection is closed."""


@dataclass(slots=True)
class Column:
    """One tensor of all requests of a frame: rows of equal shape, one after another."""

    shape: tuple[int, ...]
    """The shape of one row, without the batch dimension."""
    data: Buffer


@dataclass(slots=True)
class Infer:
    """The contents of an INFER frame. Entry i of each array belongs to request i."""

    ids: array[int]
    """u64, unique on the connection."""
    rows: array[int]
    """u32, number of rows."""
    deadlines: array[float]
    """f64, seconds on CLOCK_MONOTONIC, which all processes of a machine share."""
    tenants: array[int]
    """u32; requests with different numbers share the replica fairly."""
    priorities: bytes
    """One `Priority` per request."""
    columns: list[Column]
    """The inputs, in the order of the signature."""


def rows_of(column: Column, first: int, count: int, total: int) -> Buffer:
    """The bytes of `count` rows from row `first` of a column that holds `total` rows."""
    if count == total:
        return column.data
    size = len(column.data) // total
    return column.data[first * size : (first + count) * size]


@dataclass(slots=True)
class Answers:
    """The contents of an ANSWERS frame: the answers of one batch to the requests of one connection.

    Entry i of each array belongs to request i.
    """

    ids: array[int]
    """u64, as in the INFER frame."""
    rows: array[int]
    """u32, number of rows."""
    queue_us: array[int]
    """u32, queueing time in the replica in microseconds."""
    compute_us: int
    """Run time of the model for the whole batch, in microseconds."""
    batch_rows: int
    """Rows of the whole batch, including requests of other connections."""
    columns: list[Column]
    """The outputs, in the order of the signature."""
    total_rows: int = 0
    """Rows of these columns; set by the receiver."""
    size: int = 0
    """Bytes of these columns; set by the receiver."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Token counts of a model that generates text, whose answers are sent one per frame."""
    tally: tuple[Any, ...] | None = None
    """The counters of the latest answer, which the meter of the receiver stores here: it counts a
    batch once and reuses them for the next answer."""


@dataclass(slots=True)
class Failure:
    """The contents of a FAILURE frame: a request without an answer, and the error."""

    id: int
    error: MaasError


_HEAD = struct.Struct("<IB")
_U32 = struct.Struct("<I")
_ANSWERS = struct.Struct("<III")
_TOKENS = struct.Struct("<II")
_COLUMN = struct.Struct("<BQ")


def frame(kind: FrameKind, parts: list[Buffer]) -> list[Buffer]:
    """A frame whose body is `parts`, in parts to be written in order."""
    parts.insert(0, _HEAD.pack(1 + sum(map(len, parts)), kind))
    return parts


def _pack_columns(columns: Sequence[Column], parts: list[Buffer]) -> None:
    parts.append(bytes((len(columns),)))
    for column in columns:
        rank = len(column.shape)
        parts.append(_COLUMN.pack(rank, len(column.data)))
        if rank:
            parts.append(struct.pack(f"<{rank}I", *column.shape))
        parts.append(column.data)


def pack_infer(message: Infer) -> list[Buffer]:
    """The frame in parts to be written in order. Tensors are not copied."""
    parts: list[Buffer] = [
        _U32.pack(len(message.ids)),
        message.ids.tobytes(),
        message.rows.tobytes(),
        message.deadlines.tobytes(),
        message.tenants.tobytes(),
        message.priorities,
    ]
    _pack_columns(message.columns, parts)
    return frame(FrameKind.INFER, parts)


def pack_answers(message: Answers) -> list[Buffer]:
    parts: list[Buffer] = [
        _ANSWERS.pack(len(message.ids), message.compute_us, message.batch_rows),
        message.ids.tobytes(),
        message.rows.tobytes(),
        message.queue_us.tobytes(),
    ]
    _pack_columns(message.columns, parts)
    if message.prompt_tokens or message.completion_tokens:
        parts.append(_TOKENS.pack(message.prompt_tokens, message.completion_tokens))
    return frame(FrameKind.ANSWERS, parts)


def pack_failure(message: Failure) -> list[Buffer]:
    error = message.error
    body = {
        "id": message.id,
        "code": error.code,
        "message": error.message,
        "retry_after": error.retry_after,
        "details": error.details,
    }
    return frame(FrameKind.FAILURE, [json.dumps(body).encode()])


def pack_cancel(ids: Sequence[int]) -> list[Buffer]:
    return frame(FrameKind.CANCEL, [array("Q", ids).tobytes()])


def pack_progress(
    number: int,
    compute_us: int,
    is_last: bool,
    prompt_tokens: int = 0,
    completion_tokens: int = 0,
) -> list[Buffer]:
    """A PROGRESS frame: more work was done for request `number`.

    `is_last` means that the request was canceled and that no other frame follows for it.
    """
    body: dict[str, Any] = {"id": number, "compute_us": compute_us, "is_last": is_last}
    if prompt_tokens:
        body |= {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return pack_json(FrameKind.PROGRESS, body)


def pack_json(kind: FrameKind, body: dict[str, Any]) -> list[Buffer]:
    """A PING, PONG, GOAWAY or PROGRESS frame, whose body is a JSON object."""
    return frame(kind, [json.dumps(body).encode()])


class _Reader:
    """Reads the body of a frame. Raises ProtocolViolation if a length exceeds the remaining bytes.

    Columns are views of the body, not copies.
    """

    __slots__ = ("at", "body")

    def __init__(self, body: memoryview) -> None:
        self.body = body
        self.at = 0

    def take(self, size: int) -> memoryview:
        end = self.at + size
        if end > len(self.body):
            raise ProtocolViolation(f"the frame ends {end - len(self.body)} bytes early")
        part = self.body[self.at : end]
        self.at = end
        return part

    def columns(self) -> list[Column]:
        columns = []
        for _ in range(self.take(1)[0]):
            rank, size = _COLUMN.unpack(self.take(_COLUMN.size))
            shape = struct.unpack(f"<{rank}I", self.take(4 * rank))
            columns.append(Column(shape, self.take(size)))
        return columns


def unpack_infer(body: memoryview) -> Infer:
    reader = _Reader(body)
    (count,) = _U32.unpack(reader.take(4))
    arrays = reader.take(25 * count)
    return Infer(
        ids=array("Q", bytes(arrays[: 8 * count])),
        rows=array("I", bytes(arrays[8 * count : 12 * count])),
        deadlines=array("d", bytes(arrays[12 * count : 20 * count])),
        tenants=array("I", bytes(arrays[20 * count : 24 * count])),
        priorities=bytes(arrays[24 * count :]),
        columns=reader.columns(),
    )


def unpack_answers(body: memoryview) -> Answers:
    reader = _Reader(body)
    count, compute_us, batch_rows = _ANSWERS.unpack(reader.take(_ANSWERS.size))
    arrays = reader.take(16 * count)
    rows = array("I", bytes(arrays[8 * count : 12 * count]))
    answers = Answers(
        ids=array("Q", bytes(arrays[: 8 * count])),
        rows=rows,
        queue_us=array("I", bytes(arrays[12 * count :])),
        compute_us=compute_us,
        batch_rows=batch_rows,
        columns=reader.columns(),
        total_rows=sum(rows),
    )
    answers.size = sum([len(column.data) for column in answers.columns])
    if reader.at < len(body):
        tokens = _TOKENS.unpack(reader.take(_TOKENS.size))
        answers.prompt_tokens, answers.completion_tokens = tokens
    return answers


def unpack_failure(body: memoryview) -> Failure:
    raw = unpack_json(body)
    kind = ERRORS_BY_CODE.get(raw["code"], MaasError)
    return Failure(
        raw["id"], kind(raw["message"], retry_after=raw["retry_after"], **raw["details"])
    )


def unpack_cancel(body: memoryview) -> array[int]:
    if len(body) % 8:
        raise ProtocolViolation(f"a CANCEL frame holds 8 bytes per id, not {len(body)} in all")
    ids = array("Q")
    ids.frombytes(body)
    return ids


def unpack_json(body: memoryview) -> dict[str, Any]:
    try:
        raw = json.loads(bytes(body))
    except ValueError as error:
        raise ProtocolViolation(str(error)) from None
    if not isinstance(raw, dict):
        raise ProtocolViolation(f"expected a JSON object, got {type(raw).__name__}")
    return raw
