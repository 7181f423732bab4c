"""A generating replica's server with an engine of the test's own, over a real unix socket."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from maas.domain.deployments import Scaling
from maas.domain.errors import DeadlineExceeded, InferenceFailed, InvalidInput, Overloaded
from maas.domain.generation import Ending, Piece, TokenLogprob, ToolCallPiece
from maas.runtimes.base import LoadRequest
from maas.runtimes.text.detokenizer import ByteDetokenizer, SequenceText
from maas.runtimes.text.options import Sizes
from maas.runtimes.text.stepped_engine import Sequence, SteppedEngine
from maas.serving.replica.generator import GeneratorServer
from maas.serving.replica.pending_sequences import TextRows
from maas.serving.routing.dispatch import ReplicaLink
from maas.serving.wire.elements import bytes_elements
from maas.serving.wire.generation_frames import unpack_pieces
from maas.serving.wire.messages import FrameKind, Priority, pack_answers, unpack_answers
from maas.serving.wire.tensors import Tensor
from tests.support.fakes.generations import TEXT_TO_TEXT, Scripted, Written, generator_spec, wrote
from tests.support.fakes.replica_peer import until

DONE = Ending("stop", 5, 2)
LEFT = Ending("cancelled", 3, 1)
"""What Scripted says of a sequence that is cancelled."""


class CountingLink(ReplicaLink):
    """Also notes how many steps each frame of pieces had."""

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.PIECES:
            FRAMES.append(len(unpack_pieces(body)))
        super().frame_received(kind, body)


FRAMES: list[int] = []


def run(
    work: Callable[[ReplicaLink, Scripted, GeneratorServer], Awaitable[None]],
    engine: Scripted | None = None,
    scaling: Scaling | None = None,
    stream_ms: int | None = None,
) -> Scripted:
    used = engine or Scripted()
    options = {} if stream_ms is None else {"stream_ms": stream_ms}

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            spec = generator_spec(str(Path(home) / "s"), scaling, options)
            server = GeneratorServer(spec, used)
            await server.listen()
            link = await CountingLink.connect(str(Path(home) / "s"))
            await work(link, used, server)
            link.close()
            await server.drain()

    FRAMES.clear()
    uvloop.run(main())
    return used


async def ask(
    link: ReplicaLink, *texts: str, priority: Priority = Priority.NORMAL, seconds: float = 5
) -> list[str]:
    data = b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts)
    tensor = Tensor("BYTES", (len(texts),), data)
    deadline = time.monotonic() + seconds
    answer = await link.predict(TEXT_TO_TEXT, {"prompt": tensor}, len(texts), deadline, priority)
    return [text.decode() for text in bytes_elements(answer["text"].data)]


def note_computed(link: ReplicaLink) -> list[tuple[int, int, int]]:
    """Microseconds and tokens of each PROGRESS frame that finds its call, from here on."""
    counted: list[tuple[int, int, int]] = []
    received = link._progress_received

    def noted(raw: dict[str, Any]) -> None:
        if int(raw["id"]) in link._in_parts or int(raw["id"]) in link.pending:
            tokens = (raw.get("prompt_tokens", 0), raw.get("completion_tokens", 0))
            counted.append((raw["compute_us"], *tokens))
        received(raw)

    link._progress_received = noted  # type: ignore[method-assign]
    return counted


def test_an_answer_to_predict_has_the_tokens_of_all_its_rows() -> None:
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


def test_text_comes_in_pieces_and_ends_with_the_engines_counts() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = Written("Hi", max_tokens=7, stop=["\n"], logit_bias={5: -1.5}, logprobs=1)
        link.submit(call)
        await until(lambda: engine.started)
        assert engine.generations[1].messages == [{"role": "user", "content": "Hi"}]
        assert engine.generations[1].logit_bias == {5: -1.5}
        likely = [TokenLogprob("He", -0.1, [72, 101], [TokenLogprob("Wo", -2.0)])]
        engine.say(1, Piece("He", 1, likely))
        await until(wrote(call))
        engine.say(1, Piece("llo", 1))
        engine.say(1, DONE)
        await call.over()
        assert call.text == "Hello" and call.ending == call.usage == DONE
        assert call.ending.compute_us > 0
        assert call.pieces[0] == Piece("He", 1, likely)
        assert server.stats()["completion_tokens"] == 2 and server.stats()["prompt_tokens"] == 5

    run(work)


def test_sequences_share_the_time_in_which_they_ran_at_once_and_no_other() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        began = time.monotonic()
        first, second = Written(), Written()
        link.submit(first)
        await until(lambda: len(engine.started) == 1)
        await asyncio.sleep(0.05)  # is its own alone
        link.submit(second)
        await until(lambda: len(engine.started) == 2)
        for key in list(engine.started):
            engine.say(key, DONE)
        await first.over()
        await second.over()
        taken = 1e6 * (time.monotonic() - began)
        assert first.ending.compute_us >= 49_000
        assert first.ending.compute_us + second.ending.compute_us <= taken

    run(work, Scripted(slots=2))


def test_what_all_sequences_wrote_in_a_step_goes_out_in_one_frame() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [Written() for _ in range(3)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 3)

        def step() -> None:
            for key in engine.started:
                engine.say(key, Piece("x", 1))
                time.sleep(0.002)  # as an engine samples one sequence after the other

        for steps in range(1, 4):
            thread = threading.Thread(target=step)
            thread.start()
            await until(lambda n=steps: all(len(c.pieces) == n for c in calls))  # type: ignore[misc]
            thread.join()
        assert FRAMES == [3, 3, 3]

    run(work, Scripted(slots=3))


def test_pieces_of_one_sequence_that_come_together_are_joined() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = Written()
        link.submit(call)
        await until(lambda: engine.started)
        for text in "abc":
            engine.say(1, Piece(text, 1))
        engine.say(1, DONE)
        await call.over()
        assert call.pieces == [Piece("abc", 3)]

    run(work)


def test_after_its_first_words_a_text_is_told_in_bursts() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        first, second = Written(), Written()
        link.submit(first)
        await until(lambda: engine.started)
        engine.say(1, Piece("", 1))  # half a character, say: no words yet
        await until(wrote(first))
        for text in "abc":
            engine.say(1, Piece(text, 1))
            await asyncio.sleep(0.005)
        assert first.text == "a"
        link.submit(second)
        await until(lambda: len(engine.started) == 2)
        engine.say(2, Piece("x", 1))
        await until(wrote(second))
        assert first.text == "a", "the first words of one are no reason to tell of others"
        engine.say(1, Piece("d", 1))
        engine.say(1, DONE)
        await first.over()
        assert first.pieces == [Piece("", 1), Piece("a", 1), Piece("bcd", 3)]
        assert first.ending == DONE
        engine.say(2, Piece("y", 1))
        engine.say(2, InferenceFailed("broke"))
        await second.over()
        assert second.pieces == [Piece("x", 1), Piece("y", 1)]
        assert isinstance(second.error, InferenceFailed)

    run(work, stream_ms=1000)


def test_what_was_kept_is_told_when_it_is_time_also_if_nothing_more_is_said() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = Written()
        link.submit(call)
        await until(lambda: engine.started)
        began = time.monotonic()
        engine.say(1, Piece("a", 1))
        await until(wrote(call))
        for text in "bc":
            engine.say(1, Piece(text, 1))
        await until(lambda: call.text == "abc")
        assert time.monotonic() - began >= 0.3 and call.pieces[1:] == [Piece("bc", 2)]
        engine.say(1, DONE)
        await call.over()

    run(work, stream_ms=300)


def test_every_step_is_told_of_to_who_wants_that() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = Written()
        link.submit(call)
        await until(lambda: engine.started)
        for count in range(1, 6):
            engine.say(1, Piece("a", 1))
            await until(wrote(call, count))
        assert call.pieces == [Piece("a", 1)] * 5
        engine.say(1, DONE)
        await call.over()

    run(work, stream_ms=0)


def test_pieces_of_a_call_that_wait_for_each_other_become_one() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = Written()
        link.submit(call)
        await until(lambda: engine.started)
        engine.say(1, Piece("See:", 1))
        await until(wrote(call))
        for one in (
            ToolCallPiece(0, "c1", "add"),
            ToolCallPiece(0, arguments='{"a"'),
            ToolCallPiece(0, arguments=":1}"),
            ToolCallPiece(1, "c2", "sub", "{}"),
            ToolCallPiece(1, "c3", "mul", "{}"),  # engines that number none of their calls
        ):
            engine.say(1, Piece("", 1, tool_calls=[one]))
        engine.say(1, DONE)
        await call.over()
        (piece,) = call.pieces[1:]
        assert piece.tokens == 5
        assert piece.tool_calls == [
            ToolCallPiece(0, "c1", "add", '{"a":1}'),
            ToolCallPiece(1, "c2", "sub", "{}"),
            ToolCallPiece(1, "c3", "mul", "{}"),
        ]

    run(work, stream_ms=1000)


class Keeping(SteppedEngine):
    """A real engine in a thread of its own that writes an `x` per sequence and step, for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._vocabulary_size = 100
        self._set_sizes(Sizes(10_000, 4, 100_000), 64, 16)
        self._begin()

    def load(self, request: LoadRequest) -> None:
        raise NotImplementedError

    def _encode(self, text: str, *, is_plain: bool) -> list[int]:
        return [1]

    def _prepare(self, sequence: Sequence) -> None:
        self._encode_prompt(sequence, sequence.generation, [])
        sequence.text = SequenceText(ByteDetokenizer({1: b"x"}), sequence.generation.stop)

    def _admit(self, sequence: Sequence) -> None:
        pass

    def _step(self) -> None:
        time.sleep(0.002)
        is_due = self._is_output_due()
        for sequence in list(self._running.values()):
            sequence.completion_tokens += 1
            sequence.add([1], [])
            reason = "cancelled" if sequence.is_cancelled else None
            reason = self._emit(sequence, reason, is_due=is_due)
            if reason is not None:
                self._finish(sequence, sequence.ending(reason))

    def _unload(self) -> None:
        pass


def keep(work: Callable[[ReplicaLink, GeneratorServer], Awaitable[None]], stream_ms: int) -> None:
    """`work` with an engine that keeps the pace itself."""

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            options = {"stream_ms": stream_ms}
            server = GeneratorServer(
                generator_spec(str(Path(home) / "s"), None, options), Keeping()
            )
            await server.listen()
            link = await CountingLink.connect(str(Path(home) / "s"))
            await work(link, server)
            link.close()
            await server.drain()

    uvloop.run(main())


def test_who_waits_for_a_stop_text_holds_up_nobody_elses_words() -> None:
    """An engine looks at every token of such a text, and tells it with those of others."""

    async def work(link: ReplicaLink, server: GeneratorServer) -> None:
        plain, watched = Written(prompt="a"), Written(prompt="a", stop=["never"])
        for call in (plain, watched):
            link.submit(call)
        await until(lambda: len(plain.pieces) >= 8 and len(watched.pieces) >= 8)
        for call in (plain, watched):
            assert call.pieces[0].tokens == 1, "the first words come at once"
            counts = [piece.tokens for piece in call.pieces[2:8]]
            assert min(counts) > 1, "the others in bursts"
            assert max(counts) < 10 * min(counts), "none of which waits for many others"
            call.stop()
        for call in (plain, watched):
            await call.over()
            assert call.completion_tokens == call.ending.completion_tokens, "nothing was left out"

    keep(work, stream_ms=40)


def test_a_stop_text_ends_a_text_in_the_step_that_completes_it() -> None:
    async def work(link: ReplicaLink, server: GeneratorServer) -> None:
        call = Written(prompt="a", stop=["xxxxx"])
        link.submit(call)
        await call.over()
        assert (call.ending.reason, call.ending.completion_tokens, call.text) == ("stop", 5, "")

    keep(work, stream_ms=1000)


def test_a_drain_leaves_no_words_behind() -> None:
    """Also those of who is cut off when its time is up: what left is what is billed."""

    async def work(link: ReplicaLink, server: GeneratorServer) -> None:
        call = Written(prompt="a")
        link.submit(call)
        await until(wrote(call))
        written = server._generator._sequences  # type: ignore[attr-defined]
        draining = asyncio.ensure_future(server.drain())
        await until(lambda: len(call.pieces) > 20)
        (sequence,) = written.values()
        assert sequence.completion_tokens - len(call.text) < 10
        call.stop()
        await call.over()
        link.close()
        await draining

    keep(work, stream_ms=1000)


def test_no_more_are_started_than_the_engine_has_slots() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [Written() for _ in range(5)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 2)
        assert server.stats()["running"] == 2 and server.stats()["queued"] == 3
        for key in (1, 2, 3, 4, 5):
            await until(lambda k=key: k in engine.sinks)  # type: ignore[misc]
            assert len(engine.sinks) <= 2
            engine.say(key, DONE)
        for call in calls:
            assert (await call.over()).ending == DONE

    run(work)


def test_a_sequence_waits_until_the_engines_memory_has_room_for_it() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        first, second, third = Written(max_tokens=60), Written(max_tokens=50), Written(max_tokens=1)
        for call in (first, second, third):
            link.submit(call)
        await until(lambda: engine.started)
        await asyncio.sleep(0.03)
        assert engine.started == [1]  # the third does not overtake the second
        engine.say(1, DONE)
        await until(lambda: engine.started == [1, 2, 3])
        engine.say(2, DONE)
        engine.say(3, DONE)
        await third.over()

    run(work, Scripted(slots=8, room=100))


def test_tenants_take_turns() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [Written(str(n), tenant=1) for n in range(6)] + [Written("other", tenant=2)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 1)
        for _ in range(7):
            (key,) = engine.sinks
            engine.say(key, DONE)
            await until(lambda k=key: not engine.sinks or k not in engine.sinks)  # type: ignore[misc]
            await asyncio.sleep(0.005)
        order = [
            str((engine.generations[k].messages or [{}])[0]["content"]) for k in engine.started
        ]
        assert order.index("other") <= 2

    run(work, Scripted(slots=1))


def test_a_cancelled_sequence_frees_its_slot_and_tells_what_it_took() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call, waiting = Written(), Written("next")
        link.submit(call)
        link.submit(waiting)
        await until(lambda: engine.started == [1])
        engine.say(1, Piece("a", 1))
        await until(wrote(call))
        assert call.stop()
        await call.over()
        assert call.ending == Ending("cancelled", 3, 1)
        await until(lambda: engine.started == [1, 2])
        assert waiting.stop()
        assert (await waiting.over()).ending.reason == "cancelled"

    engine = run(work, Scripted(slots=1))
    assert engine.cancelled == [1, 2]


def test_a_cancelled_sequence_that_waits_never_starts() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        first, second, third = Written(max_tokens=90), Written(max_tokens=90), Written()
        for call in (first, second, third):
            link.submit(call)
        await until(lambda: engine.started == [1])
        assert second.stop() and third.stop()
        assert (await second.over()).ending == Ending("cancelled", 0, 0)
        assert (await third.over()).ending == Ending("cancelled", 0, 0)
        assert server._queue.waiting == 0
        engine.say(1, DONE)
        await first.over()
        assert engine.started == [1] and not server.is_busy

    run(work, Scripted(slots=8, room=100))


def test_a_caller_whose_connection_breaks_is_not_written_for() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        for _ in range(3):
            link.submit(Written())
        await until(lambda: len(engine.started) == 2)
        link.abort()
        await until(lambda: engine.cancelled == [1, 2])
        await until(lambda: not server.is_busy)
        assert engine.started == [1, 2]

    run(work)


def test_more_than_may_wait_are_refused_with_a_time() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [Written() for _ in range(6)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 2)
        await until(lambda: sum(bool(c.ends) for c in calls) == 3)
        error = calls[-1].error
        assert isinstance(error, Overloaded) and (error.retry_after or 0) >= 1

    run(work, scaling=Scaling(queue_limit=3))


def test_who_is_past_its_deadline_in_the_queue_is_told_so() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        first, late = Written(), Written(seconds=0.05)
        link.submit(first)
        link.submit(late)
        await until(lambda: engine.started == [1])
        await asyncio.sleep(0.06)
        engine.say(1, DONE)
        assert isinstance((await late.over()).error, DeadlineExceeded)
        assert engine.started == [1]

    run(work, Scripted(slots=1))


def test_busy_seconds_grow_while_the_engine_is_silent_and_not_while_it_writes() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        assert server.stats()["busy_s"] == 0
        call = Written()
        link.submit(call)
        await until(lambda: engine.started)
        await asyncio.sleep(0.1)
        assert (await link.ping(1.0))["busy_s"] >= 0.1
        engine.say(1, Piece())  # a long prompt gets on
        await until(lambda: server.stats()["busy_s"] < 0.05)
        engine.say(1, DONE)
        await call.over()
        assert not call.pieces and (await link.ping(1.0))["busy_s"] == 0

    run(work)


def test_an_engine_that_gets_no_processor_is_not_taken_for_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = Written()
        link.submit(call)
        await until(lambda: engine.started)
        server._last_step -= 20.0
        started = time.process_time()
        monkeypatch.setattr(time, "process_time", lambda: started + 4.0)
        assert server.stats()["busy_s"] == pytest.approx(4.0, abs=0.5)
        monkeypatch.setattr(time, "process_time", lambda: started + 0.1)
        assert server.stats()["busy_s"] >= 20.0  # that little is no computing
        engine.say(1, DONE)
        await call.over()

    run(work)


def test_a_text_of_predict_is_answered_by_one_generation_per_row() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        asked = asyncio.ensure_future(ask(link, "eins", "zwei"))
        await until(lambda: len(engine.started) == 2)
        assert engine.generations[2].messages == [{"role": "user", "content": "zwei"}]
        assert engine.generations[2].max_tokens == 256
        engine.say(2, Piece("two", 1))
        engine.say(1, Piece("o", 1))
        engine.say(2, DONE)
        engine.say(1, Piece("ne", 1))
        engine.say(1, DONE)
        assert await asked == ["one", "two"]
        assert not server.is_busy

    run(work)


def test_a_predict_whose_caller_left_is_forgotten_by_its_link() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        left = asyncio.ensure_future(ask(link, "a", "b"))
        await until(lambda: len(engine.started) == 1)  # the other row waits
        left.cancel()
        await until(lambda: engine.cancelled == [1])
        await until(lambda: not link._in_parts)

    run(work, Scripted(slots=1))


def test_a_predict_whose_caller_left_counts_what_its_rows_took() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        counted = note_computed(link)
        left = asyncio.ensure_future(ask(link, "a", "b", "c"))
        await until(lambda: len(engine.started) == 2)  # the third row waits
        await asyncio.sleep(0.02)
        engine.say(1, DONE)
        await until(lambda: len(engine.started) == 3)
        left.cancel()
        await until(lambda: counted)
        assert len(counted) == 1 and counted[0][0] >= 19_000 and not link._in_parts
        # One row had ended, and the two others say when they end what they have read.
        assert counted[0][1:] == (DONE.prompt_tokens + 2 * LEFT.prompt_tokens,
                                  DONE.completion_tokens + 2 * LEFT.completion_tokens)  # fmt: skip
        assert not server.is_busy

    run(work)


def test_a_predict_past_its_deadline_in_the_queue_counts_what_its_rows_took() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        counted = note_computed(link)
        late = asyncio.ensure_future(ask(link, "a", "b", seconds=0.05))
        await until(lambda: engine.started == [1])
        await asyncio.sleep(0.06)
        engine.say(1, DONE)  # the turn of the other row comes too late
        with pytest.raises(DeadlineExceeded):
            await late
        assert len(counted) == 1 and counted[0][0] >= 49_000
        assert counted[0][1:] == (DONE.prompt_tokens, DONE.completion_tokens)
        assert engine.started == [1] and not server.is_busy and not link._in_parts

    run(work, Scripted(slots=1))


def test_more_rows_than_can_ever_wait_are_refused_for_good() -> None:
    """503 would have the caller come again, and again."""

    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        with pytest.raises(InvalidInput, match="at most 3 texts at a time; got 4"):
            await ask(link, "a", "b", "c", "d")
        assert not engine.started and not server.is_busy

    run(work, scaling=Scaling(queue_limit=3))


def test_a_row_that_fails_fails_its_request_and_ends_the_other_rows() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        asked = asyncio.ensure_future(ask(link, "a", "b", "c"))
        await until(lambda: len(engine.started) == 2)
        engine.say(1, InferenceFailed("no"))
        with pytest.raises(InferenceFailed, match="no"):
            await asked
        await until(lambda: not server.is_busy)
        assert engine.started == [1, 2] and engine.cancelled == [2]

    run(work)


def test_controls_proof_is_one_token_and_needs_no_free_slot() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [Written() for _ in range(5)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 2)
        proof = asyncio.ensure_future(ask(link, "Hello", priority=Priority.PROOF))
        await until(lambda: len(engine.started) == 3)
        key = engine.started[-1]
        assert engine.generations[key].max_tokens == 1
        engine.say(key, Piece("Hi", 1))
        engine.say(key, DONE)
        assert await proof == ["Hi"]

    run(work)


def test_draining_lets_what_was_accepted_end() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = Written()
        link.submit(call)
        await until(lambda: engine.started)
        draining = asyncio.ensure_future(server.drain())
        await asyncio.sleep(0.02)
        assert not draining.done()
        engine.say(1, DONE)
        await asyncio.wait_for(draining, 1)
        assert call.ending == DONE and engine.is_closed

    run(work)
