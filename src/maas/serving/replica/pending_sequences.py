"""The sequences that a replica generates or has queued, and their unfinished answers."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass, field

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.generation import Generation, Piece, joined_calls
from maas.serving.wire.channel import Channel
from maas.serving.wire.elements import bytes_elements, pack_elements
from maas.serving.wire.messages import Answers, Buffer, Column, Infer, Priority, ProtocolViolation

_NOTHING = Piece()


@dataclass(slots=True, eq=False)
class PendingSequence:
    """A requested sequence, until it has ended."""

    owner: Channel
    """The connection of the request."""
    number: int
    """The request's id on its connection."""
    generation: Generation
    deadline: float
    """In seconds on the monotonic clock."""
    tenant: int
    priority: Priority
    rows: TextRows | None = None
    """The request of which this sequence is one row; None if its text is sent in pieces."""
    row: int = 0
    """Index of that row."""
    key: int = 0
    """The sequence's id in the server and the engine."""
    started: float = 0.0
    share_before: float = 0.0
    """The server's `_share` when the sequence started."""
    unsent: Piece = _NOTHING
    has_sent_text: bool = False
    """Whether any text or tool call was sent."""

    def add(self, piece: Piece) -> None:
        """Add new output."""
        if self.rows is not None:
            self.rows.texts[self.row] += piece.text
        else:
            self.unsent = piece if self.unsent is _NOTHING else _joined(self.unsent, piece)

    def take_unsent(self) -> Piece:
        """Remove and return the output that is to be sent."""
        piece, self.unsent = self.unsent, _NOTHING
        self.has_sent_text = self.has_sent_text or bool(piece.text or piece.tool_calls)
        return piece


@dataclass(slots=True, eq=False)
class TextRows:
    """A request with one prompt per row, answered when all rows are generated."""

    count: int
    """Number of rows."""
    arrived: float = field(default_factory=time.monotonic)
    started: float = 0.0
    """Start of the first row in the engine, in seconds on the monotonic clock."""
    unfinished: int = 0
    """Number of rows without an ending."""
    seconds: float = 0.0
    """The rows' shares of the engine's time."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_canceled: bool = False
    """Whether the client canceled the request or a row failed."""
    error: MaasError | None = None
    """The error of the first row that failed."""
    texts: list[str] = field(default_factory=list)
    """The generated text of each row."""

    def __post_init__(self) -> None:
        self.unfinished = self.count
        self.texts = [""] * self.count

    @property
    def compute_us(self) -> int:
        return _microseconds(self.seconds)

    def answers(self, number: int) -> Answers:
        """The answer to request `number`."""
        data = pack_elements([text.encode() for text in self.texts])
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


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece(
        first.text + second.text,
        first.tokens + second.tokens,
        first.logprobs + second.logprobs,
        joined_calls([*first.tool_calls, *second.tool_calls]),
    )


@dataclass(frozen=True)
class PlainPrompts:
    """Makes generations of prompts that come to `/predict` as plain text.

    The temperature is 0, so that equal inputs have equal answers, as with other models.
    """

    has_chat_template: bool
    max_tokens: int

    def sequences(self, owner: Channel, message: Infer) -> list[PendingSequence]:
        """One sequence per row of an INFER frame. Raises InvalidInput if a row is not UTF-8."""
        has_priorities = max(message.priorities, default=len(Priority)) < len(Priority)
        if len(message.columns) != 1 or 0 in message.rows or not has_priorities:
            raise ProtocolViolation("not a request of one text per row")
        texts = _texts(message.columns[0].data)
        if len(texts) != sum(message.rows):
            raise ProtocolViolation(f"{len(texts)} texts for {sum(message.rows)} rows")
        sequences, first = [], 0
        for at, (number, count) in enumerate(zip(message.ids, message.rows, strict=True)):
            priority = Priority(message.priorities[at])
            deadline, tenant = message.deadlines[at], message.tenants[at]
            rows = TextRows(count)
            for row, text in enumerate(texts[first : first + count]):
                generation = self.generation(text, priority)
                sequence = PendingSequence(owner, number, generation, deadline, tenant, priority)
                sequence.rows, sequence.row = rows, row
                sequences.append(sequence)
            first += count
        return sequences

    def generation(self, text: str, priority: Priority = Priority.NORMAL) -> Generation:
        """The generation for one prompt; a single token for a proof."""
        max_tokens = 1 if priority is Priority.PROOF else self.max_tokens
        if self.has_chat_template:
            messages = [{"role": "user", "content": text}]
            return Generation(messages, max_tokens=max_tokens, temperature=0.0)
        return Generation(prompt=text, max_tokens=max_tokens, temperature=0.0)


def _texts(data: Buffer) -> list[str]:
    try:
        return [element.decode() for element in bytes_elements(data)]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"a text is not UTF-8: {error}") from None
