"""Requests to `/predict` of a text replica: one sequence per row."""

from __future__ import annotations

import asyncio

import pytest

from maas.domain.deployments import Scaling
from maas.domain.errors import DeadlineExceeded, InferenceFailed, InvalidInput
from maas.domain.generation import Piece
from maas.serving.replica.generation_server import GeneratorServer
from maas.serving.replica.pending_sequences import TextRows
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.messages import Priority, pack_answers, unpack_answers
from tests.support.fakes.generations import (
    Scripted,
    TextCall,
)
from tests.support.fakes.replica_peer import until
from tests.support.fakes.text_server import (
    CANCELLED,
    DONE,
    predict_texts,
    record_progress,
    run,
)


def test_the_answer_to_predict_has_the_tokens_of_all_rows() -> None:
    rows = TextRows(2)
    rows.prompt_tokens, rows.completion_tokens = 10, 4
    frame = b"".join(map(bytes, pack_answers(rows.answers(7))))
    answers = unpack_answers(memoryview(frame)[5:])
    assert (answers.prompt_tokens, answers.completion_tokens) == (10, 4)
    rows.prompt_tokens = rows.completion_tokens = 0
    shorter = b"".join(map(bytes, pack_answers(rows.answers(7))))
    assert (
        len(shorter) == len(frame) - 8 and not unpack_answers(memoryview(shorter)[5:]).prompt_tokens
    )


def test_predict_generates_one_sequence_per_row() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        answer = asyncio.ensure_future(predict_texts(link, "eins", "zwei"))
        await until(lambda: len(engine.started) == 2)
        assert engine.generations[2].messages == [{"role": "user", "content": "zwei"}]
        assert engine.generations[2].max_tokens == 256
        engine.emit(2, Piece("two", 1))
        engine.emit(1, Piece("o", 1))
        engine.emit(2, DONE)
        engine.emit(1, Piece("ne", 1))
        engine.emit(1, DONE)
        assert await answer == ["one", "two"]
        assert not server.is_busy

    run(work)


def test_a_canceled_predict_is_forgotten_by_its_link() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        pending = asyncio.ensure_future(predict_texts(link, "a", "b"))
        await until(lambda: len(engine.started) == 1)  # the other row waits
        pending.cancel()
        await until(lambda: engine.cancelled == [1])
        await until(lambda: not link._in_parts)

    run(work, Scripted(slots=1))


def test_a_canceled_predict_counts_the_usage_of_its_rows() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        progress = record_progress(link)
        pending = asyncio.ensure_future(predict_texts(link, "a", "b", "c"))
        await until(lambda: len(engine.started) == 2)  # the third row waits
        await asyncio.sleep(0.02)
        engine.emit(1, DONE)
        await until(lambda: len(engine.started) == 3)
        pending.cancel()
        await until(lambda: progress)
        assert len(progress) == 1 and progress[0][0] >= 19_000 and not link._in_parts
        # One row had ended; the other two report their prompt tokens when they end.
        prompt_tokens = DONE.prompt_tokens + 2 * CANCELLED.prompt_tokens
        completion_tokens = DONE.completion_tokens + 2 * CANCELLED.completion_tokens
        assert progress[0][1:] == (prompt_tokens, completion_tokens)
        assert not server.is_busy

    run(work)


def test_a_predict_past_its_deadline_in_the_queue_counts_the_usage_of_its_rows() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        progress = record_progress(link)
        late = asyncio.ensure_future(predict_texts(link, "a", "b", seconds=0.05))
        await until(lambda: engine.started == [1])
        await asyncio.sleep(0.06)
        engine.emit(1, DONE)  # the other row is late
        with pytest.raises(DeadlineExceeded):
            await late
        assert len(progress) == 1 and progress[0][0] >= 49_000
        assert progress[0][1:] == (DONE.prompt_tokens, DONE.completion_tokens)
        assert engine.started == [1] and not server.is_busy and not link._in_parts

    run(work, Scripted(slots=1))


def test_more_rows_than_the_queue_limit_are_invalid_input() -> None:
    """With status 503, the client would retry in vain."""

    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        with pytest.raises(InvalidInput, match="at most 3 texts at a time; got 4"):
            await predict_texts(link, "a", "b", "c", "d")
        assert not engine.started and not server.is_busy

    run(work, scaling=Scaling(queue_limit=3))


def test_a_row_that_fails_fails_its_request_and_cancels_the_other_rows() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        answer = asyncio.ensure_future(predict_texts(link, "a", "b", "c"))
        await until(lambda: len(engine.started) == 2)
        engine.emit(1, InferenceFailed("no"))
        with pytest.raises(InferenceFailed, match="no"):
            await answer
        await until(lambda: not server.is_busy)
        assert engine.started == [1, 2] and engine.cancelled == [2]

    run(work)


def test_a_proof_is_one_token_and_needs_no_free_slot() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [TextCall() for _ in range(5)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 2)
        proof = asyncio.ensure_future(predict_texts(link, "Hello", priority=Priority.PROOF))
        await until(lambda: len(engine.started) == 3)
        key = engine.started[-1]
        assert engine.generations[key].max_tokens == 1
        engine.emit(key, Piece("Hi", 1))
        engine.emit(key, DONE)
        assert await proof == ["Hi"]

    run(work)
