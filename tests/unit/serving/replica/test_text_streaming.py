"""How generated text is sent: in one frame per step, in intervals, and completely."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from maas.domain.errors import InferenceFailed
from maas.domain.generation import Piece, TokenLogprob, ToolCallPiece
from maas.runtimes.base import LoadRequest
from maas.runtimes.text.detokenizer import ByteDetokenizer, SequenceText
from maas.runtimes.text.options import Sizes
from maas.runtimes.text.sequence import Sequence
from maas.runtimes.text.stepped_engine import SteppedEngine
from maas.serving.replica.generation_server import GeneratorServer
from maas.serving.routing.dispatch import ReplicaLink
from tests.support.fakes.generations import (
    Scripted,
    TextCall,
    generator_spec,
    has_pieces,
)
from tests.support.fakes.replica_peer import until
from tests.support.fakes.text_server import (
    DONE,
    FRAME_SIZES,
    CountingLink,
    run,
)


def test_text_arrives_in_pieces_and_ends_with_the_token_counts() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = TextCall("Hi", max_tokens=7, stop=["\n"], logit_bias={5: -1.5}, logprobs=1)
        link.submit(call)
        await until(lambda: engine.started)
        assert engine.generations[1].messages == [{"role": "user", "content": "Hi"}]
        assert engine.generations[1].logit_bias == {5: -1.5}
        likely = [TokenLogprob("He", -0.1, [72, 101], [TokenLogprob("Wo", -2.0)])]
        engine.emit(1, Piece("He", 1, likely))
        await until(has_pieces(call))
        engine.emit(1, Piece("llo", 1))
        engine.emit(1, DONE)
        await call.over()
        assert call.text == "Hello" and call.ending == call.usage == DONE
        assert call.ending.compute_us > 0
        assert call.pieces[0] == Piece("He", 1, likely)
        assert server.stats()["completion_tokens"] == 2 and server.stats()["prompt_tokens"] == 5

    run(work)


def test_the_output_of_a_step_is_sent_in_one_frame() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        calls = [TextCall() for _ in range(3)]
        for call in calls:
            link.submit(call)
        await until(lambda: len(engine.started) == 3)

        def step() -> None:
            for key in engine.started:
                engine.emit(key, Piece("x", 1))
                time.sleep(0.002)  # engines sample one sequence after another

        for steps in range(1, 4):
            thread = threading.Thread(target=step)
            thread.start()
            await until(lambda n=steps: all(len(c.pieces) == n for c in calls))  # type: ignore[misc]
            thread.join()
        assert FRAME_SIZES == [3, 3, 3]

    run(work, Scripted(slots=3))


def test_pieces_of_one_sequence_in_a_step_are_joined() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = TextCall()
        link.submit(call)
        await until(lambda: engine.started)
        for text in "abc":
            engine.emit(1, Piece(text, 1))
        engine.emit(1, DONE)
        await call.over()
        assert call.pieces == [Piece("abc", 3)]

    run(work)


def test_text_is_sent_in_intervals_after_the_first_output() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        first, second = TextCall(), TextCall()
        link.submit(first)
        await until(lambda: engine.started)
        engine.emit(1, Piece("", 1))  # no text yet, such as half a character
        await until(has_pieces(first))
        for text in "abc":
            engine.emit(1, Piece(text, 1))
            await asyncio.sleep(0.005)
        assert first.text == "a"
        link.submit(second)
        await until(lambda: len(engine.started) == 2)
        engine.emit(2, Piece("x", 1))
        await until(has_pieces(second))
        assert first.text == "a", "the first output of one sequence does not send that of others"
        engine.emit(1, Piece("d", 1))
        engine.emit(1, DONE)
        await first.over()
        assert first.pieces == [Piece("", 1), Piece("a", 1), Piece("bcd", 3)]
        assert first.ending == DONE
        engine.emit(2, Piece("y", 1))
        engine.emit(2, InferenceFailed("broke"))
        await second.over()
        assert second.pieces == [Piece("x", 1), Piece("y", 1)]
        assert isinstance(second.error, InferenceFailed)

    run(work, stream_ms=1000)


def test_unsent_output_is_sent_when_due_without_a_new_event() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = TextCall()
        link.submit(call)
        await until(lambda: engine.started)
        began = time.monotonic()
        engine.emit(1, Piece("a", 1))
        await until(has_pieces(call))
        for text in "bc":
            engine.emit(1, Piece(text, 1))
        await until(lambda: call.text == "abc")
        assert time.monotonic() - began >= 0.3 and call.pieces[1:] == [Piece("bc", 2)]
        engine.emit(1, DONE)
        await call.over()

    run(work, stream_ms=300)


def test_every_step_is_sent_without_an_interval() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = TextCall()
        link.submit(call)
        await until(lambda: engine.started)
        for count in range(1, 6):
            engine.emit(1, Piece("a", 1))
            await until(has_pieces(call, count))
        assert call.pieces == [Piece("a", 1)] * 5
        engine.emit(1, DONE)
        await call.over()

    run(work, stream_ms=0)


def test_unsent_pieces_of_a_tool_call_are_joined() -> None:
    async def work(link: ReplicaLink, engine: Scripted, server: GeneratorServer) -> None:
        call = TextCall()
        link.submit(call)
        await until(lambda: engine.started)
        engine.emit(1, Piece("See:", 1))
        await until(has_pieces(call))
        for one in (
            ToolCallPiece(0, "c1", "add"),
            ToolCallPiece(0, arguments='{"a"'),
            ToolCallPiece(0, arguments=":1}"),
            ToolCallPiece(1, "c2", "sub", "{}"),
            ToolCallPiece(1, "c3", "mul", "{}"),  # from engines that do not number calls
        ):
            engine.emit(1, Piece("", 1, tool_calls=[one]))
        engine.emit(1, DONE)
        await call.over()
        (piece,) = call.pieces[1:]
        assert piece.tokens == 5
        assert piece.tool_calls == [
            ToolCallPiece(0, "c1", "add", '{"a":1}'),
            ToolCallPiece(1, "c2", "sub", "{}"),
            ToolCallPiece(1, "c3", "mul", "{}"),
        ]

    run(work, stream_ms=1000)


class EndlessEngine(SteppedEngine):
    """An engine with its own thread that generates an `x` per sequence and step, without end."""

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


def run_stepped(
    work: Callable[[ReplicaLink, GeneratorServer], Awaitable[None]], stream_ms: int
) -> None:
    """Run `work` with an engine that defers its output itself."""

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="r") as home:
            options = {"stream_ms": stream_ms}
            server = GeneratorServer(
                generator_spec(str(Path(home) / "s"), None, options), EndlessEngine()
            )
            await server.listen()
            link = await CountingLink.connect(str(Path(home) / "s"))
            await work(link, server)
            link.close()
            await server.drain()

    uvloop.run(main())


def test_a_sequence_with_a_stop_text_does_not_delay_others() -> None:
    """The engine checks every token of such a text, and emits it with those of others."""

    async def work(link: ReplicaLink, server: GeneratorServer) -> None:
        plain, stopping = (
            TextCall(prompt="a"),
            TextCall(prompt="a", stop=["never"]),
        )
        for call in (plain, stopping):
            link.submit(call)
        await until(lambda: len(plain.pieces) >= 8 and len(stopping.pieces) >= 8)
        for call in (plain, stopping):
            assert call.pieces[0].tokens == 1, "the first output is sent at once"
            counts = [piece.tokens for piece in call.pieces[2:8]]
            assert min(counts) > 1, "the rest in intervals"
            assert max(counts) < 10 * min(counts), "none of which is much longer than others"
            call.stop()
        for call in (plain, stopping):
            await call.over()
            assert call.completion_tokens == call.ending.completion_tokens, "no token is missing"

    run_stepped(work, stream_ms=40)


def test_a_stop_text_ends_a_sequence_in_the_step_that_completes_it() -> None:
    async def work(link: ReplicaLink, server: GeneratorServer) -> None:
        call = TextCall(prompt="a", stop=["xxxxx"])
        link.submit(call)
        await call.over()
        assert (call.ending.reason, call.ending.completion_tokens, call.text) == ("stop", 5, "")

    run_stepped(work, stream_ms=1000)


def test_draining_sends_all_output() -> None:
    """Also those of who is cut off when its time is up: what pending is what is billed."""

    async def work(link: ReplicaLink, server: GeneratorServer) -> None:
        call = TextCall(prompt="a")
        link.submit(call)
        await until(has_pieces(call))
        written = server._generator._sequences  # type: ignore[attr-defined]
        draining = asyncio.ensure_future(server.drain())
        await until(lambda: len(call.pieces) > 20)
        (sequence,) = written.values()
        assert sequence.completion_tokens - len(call.text) < 10
        call.stop()
        await call.over()
        link.close()
        await draining

    run_stepped(work, stream_ms=1000)
