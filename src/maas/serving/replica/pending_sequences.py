"""What a generating replica owes to whom: one job per sequence, and its answer in the making."""

from __future__ import annotations

import struct
import time
from array import array
from dataclasses import dataclass, field

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.generation import Generation, Piece, joined_calls
from maas.serving.wire.channel import Channel
from maas.serving.wire.elements import bytes_elements
from maas.serving.wire.messages import Answers, Buffer, Column, Infer, Priority, ProtocolViolation

_NOTHING = Piece()


@dataclass(slots=True, eq=False)
class PendingSequence:
    """One sequence that somebody asked for."""

    owner: Channel
    number: int
    """Of the request on its connection."""
    generation: Generation
    deadline: float
    tenant: int
    priority: Priority
    rows: TextRows | None = None
    """The request of several rows that it is a part of; None: its text goes out in pieces."""
    row: int = 0
    key: int = 0
    """By which the server and its generator know it."""
    started: float = 0.0
    share_before: float = 0.0
    """The server's clock of shares when it began."""
    unsent: Piece = _NOTHING
    is_told: bool = False
    """Whether any of its words has left."""

    def wrote(self, piece: Piece) -> None:
        if self.rows is not None:
            self.rows.texts[self.row] += piece.text
        else:
            self.unsent = piece if self.unsent is _NOTHING else _joined(self.unsent, piece)

    def take_unsent(self) -> Piece:
        piece, self.unsent = self.unsent, _NOTHING
        self.is_told = self.is_told or bool(piece.text or piece.tool_calls)
        return piece


@dataclass(slots=True, eq=False)
class TextRows:
    """A request of one text per row, answered when all are written."""

    count: int
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    """When its first row came into the engine."""
    unfinished: int = 0
    seconds: float = 0.0
    """Of the engine, its rows' shares of it."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_cancelled: bool = False
    """By its caller, or because another row failed."""
    error: MaasError | None = None
    """Of the first row that failed."""
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unfinished = self.count
        self.texts = [""] * self.count

    @property
    def compute_us(self) -> int:
        return _microseconds(self.seconds)

    def answers(self, number: int) -> Answers:
        data = b"".join(
            struct.pack("<I", len(text)) + text for text in (t.encode() for t in self.texts)
        )
        return Answers(
            ids=array("Q", [number]),
            rows=array("I", [self.count]),
            queue_us=array("I", [_microseconds(self.started - self.arrived)]),
            compute_us=self.compute_us,
            batch_rows=self.count,
            columns=[Column((), data)],
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )


def _microseconds(seconds: float) -> int:
    return min(max(0, int(seconds * 1e6)), 3_600_000_000)


def says_something(piece: Piece) -> bool:
    return bool(piece.text or piece.tokens or piece.logprobs or piece.tool_calls)


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece(
        first.text + second.text,
        first.tokens + second.tokens,
        first.logprobs + second.logprobs,
        joined_calls([*first.tool_calls, *second.tool_calls]),
    )


@dataclass(frozen=True)
class PlainPrompts:
    """How a text without more, as /predict takes it, is made a generation: with temperature 0, so
    that the same question has the same answer, as with other models."""

    has_chat_template: bool
    max_tokens: int

    def jobs(self, owner: Channel, message: Infer) -> list[PendingSequence]:
        """A job per row of an INFER frame. Raises InvalidInput if a row is not UTF-8."""
        known = max(message.priorities, default=len(Priority)) < len(Priority)
        if len(message.columns) != 1 or 0 in message.rows or not known:
            raise ProtocolViolation("not a request of one text per row")
        texts = _texts(message.columns[0].data)
        if len(texts) != sum(message.rows):
            raise ProtocolViolation(f"{len(texts)} texts for {sum(message.rows)} rows")
        jobs, first = [], 0
        for at, (number, count) in enumerate(zip(message.ids, message.rows, strict=True)):
            priority = Priority(message.priorities[at])
            rows = TextRows(count)
            jobs += [
                PendingSequence(
                    owner, number, self.generation(text, priority), message.deadlines[at],
                    message.tenants[at], priority, rows, row,
                )
                for row, text in enumerate(texts[first : first + count])
            ]  # fmt: skip
            first += count
        return jobs

    def generation(self, text: str, priority: Priority = Priority.NORMAL) -> Generation:
        max_tokens = 1 if priority is Priority.PROOF else self.max_tokens
        if self.has_chat_template:
            messages = [{"role": "user", "content": text}]
            return Generation(messages, max_tokens=max_tokens, temperature=0.0)
        return Generation(prompt=text, max_tokens=max_tokens, temperature=0.0)


def _texts(data: Buffer) -> list[str]:
    try:
        return [element.decode() for element in bytes_elements(data)]
    except UnicodeDecodeError as wrong:
        raise InvalidInput(f"a text is not UTF-8: {wrong}") from None
