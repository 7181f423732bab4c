"""External engines with OpenAI's API: at a URL, or as a process in an environment of its own.

So engines whose libraries conflict with those of OpenMaaS, or with each other's, stay out of its
environment. An event loop in one thread has a connection per sequence; closing the connection
cancels the sequence.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import msgspec

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError, Unavailable
from maas.domain.generation import Ending, Generation
from maas.runtimes.base import Generator, LoadRequest, Sink
from maas.runtimes.text.options import (
    DEFAULT_CONTEXT,
    DEFAULT_SLOTS,
    check_text_signature,
    checked_options,
)
from maas.runtimes.text.stream_chunks import decode_chunk
from maas.runtimes.upstream.config import Engine, read_engine, read_key
from maas.runtimes.upstream.process import EngineProcess, checked_program
from maas.runtimes.upstream.request import domain_error, openai_body

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 4 << 20
MAX_ERROR_BYTES = 64 << 10
SILENCE_SECONDS = 120.0
"""Timeout between two chunks, and before the first, in which the prompt is processed."""


class Upstream(Generator):
    """A model of an external engine."""

    def __init__(self) -> None:
        self.context_length = DEFAULT_CONTEXT
        self.slots = 1
        self.has_chat_template = True
        self._engine = Engine()
        self._process: EngineProcess | None = None
        self._model = ""
        self._sequences: dict[int, _Sequence] = {}
        self._is_closing = False

    def load(self, request: LoadRequest) -> None:
        """Starts the engine if it is a command, and waits until it answers. Raises InvalidInput if
        its configuration is invalid, or it does not answer in time."""
        check_text_signature(request.signature)
        options = request.options
        self._engine = read_engine(request.engines_file, options.get("engine"))
        model = options.get("model", self._engine.model)
        sizes = checked_options("upstream", options)
        self.slots = sizes.get("slots", min(request.max_batch, DEFAULT_SLOTS))
        url, key = self._engine.url, read_key(self._engine)
        if self._engine.command:
            checked_program(self._engine)
            self._process = EngineProcess(self._engine, request.paths)
            url, key = self._process.url, self._process.key
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)
        self._thread.start()
        self._client = httpx2.AsyncClient(
            base_url=url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(10.0, read=SILENCE_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=self.slots + 2),
            # Proxies in the environment are not for engines.
            trust_env=False,
        )
        try:
            models = self._wait_ready()
        except MaasError:
            self.close()
            raise
        self._choose_model(models, model, sizes)
        if self._process is not None:
            threading.Thread(target=self._exit_with_engine, name="exit", daemon=True).start()

    def has_room(self, generation: Generation) -> bool:
        """Always: the engine queues sequences itself."""
        return True

    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        sequence = _Sequence(number, generation, sink)
        self._sequences[number] = sequence
        self._loop.call_soon_threadsafe(self._begin, sequence)

    def cancel(self, number: int) -> None:
        sequence = self._sequences.get(number)
        if sequence is not None:
            sequence.is_cancelled = True
            self._loop.call_soon_threadsafe(sequence.disconnect)

    def close(self) -> None:
        self._is_closing = True
        for number in list(self._sequences):
            self.cancel(number)
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(10)
        while self._sequences:
            time.sleep(0.01)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._process is not None:
            self._process.close()

    # -- loading ----------------------------------------------------------------------------

    def _wait_ready(self) -> list[dict[str, Any]]:
        """The engine's models, once it answers."""
        until = time.monotonic() + self._engine.ready_s
        reason = "no answer"
        while time.monotonic() < until:
            if self._process is not None and not self._process.is_running:
                raise InvalidInput(
                    "the engine exited before it answered; see the log of the replica"
                )
            try:
                future = asyncio.run_coroutine_threadsafe(self._client.get("models"), self._loop)
                answer = future.result()
                if answer.status_code == 200:
                    listed = answer.json().get("data", [])
                    return [entry for entry in listed if isinstance(entry, dict)]
                reason = f"status {answer.status_code}"
            except (httpx2.HTTPError, ValueError, AttributeError) as wrong:
                reason = str(wrong) or type(wrong).__name__
            if self._process is None:
                break
            time.sleep(0.25)
        raise InvalidInput(f"the engine does not answer: {reason}")

    def _choose_model(
        self, models: list[dict[str, Any]], model: object, sizes: dict[str, int]
    ) -> None:
        """Sets the model's name and context length from the engine's list."""
        entry = next((e for e in models if not model or e.get("id") == model), None)
        if entry is None:
            ids = ", ".join(str(e.get("id")) for e in models[:10])
            raise InvalidInput(f"the engine has no model {model!r}; it has {ids}", field="model")
        self._model = str(entry.get("id", ""))
        meta = entry.get("meta")
        trained = meta.get("n_ctx_train") if isinstance(meta, dict) else None
        reported = entry.get("max_model_len") or trained or DEFAULT_CONTEXT
        context = sizes.get("context_length") or self._engine.context_length or reported
        self.context_length = context if isinstance(context, int) else DEFAULT_CONTEXT

    def _exit_with_engine(self) -> None:
        """Terminates the replica when the engine exits, so that another replaces it."""
        if self._process is not None:
            self._process.wait()
        if not self._is_closing:
            log.error("the engine's process has exited")
            os.kill(os.getpid(), signal.SIGTERM)

    # -- sequences, in the loop's thread -----------------------------------------------------

    def _begin(self, sequence: _Sequence) -> None:
        sequence.task = self._loop.create_task(self._generate(sequence))
        if sequence.is_cancelled:
            sequence.disconnect()

    async def _generate(self, sequence: _Sequence) -> None:
        end: Ending | MaasError
        try:
            end = await self._stream(sequence)
        except asyncio.CancelledError:
            end = sequence.ending("cancelled")
        except MaasError as error:
            end = error
        except httpx2.HTTPError as wrong:
            reason = str(wrong) or type(wrong).__name__
            end = Unavailable(f"the engine cannot be reached: {reason}", retry_after=1.0)
        except Exception:
            log.exception("the generation of a sequence failed")
            end = InferenceFailed("the engine failed on this request")
        del self._sequences[sequence.number]
        sequence.sink(sequence.number, end)

    async def _stream(self, sequence: _Sequence) -> Ending:
        generation = sequence.generation
        body = openai_body(generation, self._engine, self._model)
        path = "completions" if generation.messages is None else "chat/completions"
        async with self._client.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                raise domain_error(answer.status_code, await _error_of(answer), self.context_length)
            async for data in _events(answer):
                sequence.handle(data, self.context_length)
        if sequence.reason is None:
            raise Unavailable("the engine broke off its answer", retry_after=1.0)
        return sequence.ending(sequence.reason)


class _Sequence:
    """A sequence that the engine generates, and its usage so far."""

    def __init__(self, number: int, generation: Generation, sink: Sink) -> None:
        self.number = number
        self.generation = generation
        self.sink = sink
        self.is_cancelled = False
        self.task: asyncio.Task[None] | None = None
        self.reason: str | None = None
        self.stop = ""
        self._prompt_tokens = self._completion_tokens = self._cached_tokens = 0
        self._sent_tokens = 0
        self._has_counts = False
        """Whether the engine reports token counts."""

    def disconnect(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def handle(self, data: bytes, context_length: int) -> None:
        """Handles an event of the stream. Raises the error that it reports."""
        try:
            chunk = decode_chunk(data)
        except msgspec.MsgspecError:
            raise Unavailable("the engine's answer cannot be read", retry_after=5.0) from None
        if chunk.error is not None:
            raise chunk.error.to_domain(context_length)
        piece = chunk.piece(0, self.generation.logprobs or 0)
        self._count(chunk, is_text=piece is not None)
        tokens = self._completion_tokens - self._sent_tokens
        if self.generation.max_tokens == 0:
            piece = None
        elif piece is not None or tokens > 0:
            self._sent_tokens = self._completion_tokens
            piece = chunk.piece(tokens, self.generation.logprobs or 0)
        if piece is not None:
            self.sink(self.number, replace(piece, tokens=max(0, tokens)))
        self.reason = chunk.finish_reason or self.reason
        self.stop = chunk.stop or self.stop

    def _count(self, chunk: Any, is_text: bool) -> None:
        if chunk.usage is not None:
            self._has_counts = True
            self._prompt_tokens = chunk.usage.prompt_tokens
            self._completion_tokens = max(self._sent_tokens, chunk.usage.completion_tokens)
            details = chunk.usage.prompt_tokens_details
            self._cached_tokens = details.cached_tokens if details is not None else 0
        elif chunk.timings is not None:
            self._has_counts = True
            self._prompt_tokens = chunk.timings.cache_n + chunk.timings.prompt_n
            self._completion_tokens = max(self._sent_tokens, chunk.timings.predicted_n)
        elif is_text and not self._has_counts:
            # Until the engine reports counts: most send one token per chunk.
            self._completion_tokens += 1

    def ending(self, reason: str) -> Ending:
        if self.generation.max_tokens == 0:
            return Ending("length", self._prompt_tokens, 0, self._cached_tokens)
        counts = (self._prompt_tokens, self._completion_tokens, self._cached_tokens)
        return Ending(reason, *counts, stop=self.stop if self.stop in self.generation.stop else "")


async def _events(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """The data of server-sent events, until `[DONE]`.
    https://html.spec.whatwg.org/multipage/server-sent-events.html"""
    rest = b""
    async for piece in answer.aiter_bytes():
        rest += piece
        *lines, rest = rest.split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise Unavailable("the engine sent a line that is too long", retry_after=5.0)
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield data


async def _error_of(answer: httpx2.Response) -> Any:
    body = b""
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > MAX_ERROR_BYTES:
            break
    with contextlib.suppress(ValueError):
        answer = json.loads(body)
        return answer.get("error", answer) if isinstance(answer, dict) else answer
    return body.decode(errors="replace")[:300]
