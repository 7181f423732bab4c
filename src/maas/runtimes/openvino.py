"""GGUF files and OpenVINO IR through OpenVINO GenAI's continuous batching, on the CPU.

One thread of ours steps the engine: what all sequences wrote comes step by step, and one call of a
sink per sequence and step tells it. What the engine cannot do is refused by `openvino_request`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError, Unavailable
from maas.domain.generation import Ending, Generation, Piece, TokenLogprob
from maas.runtimes.base import LoadRequest, Sink
from maas.runtimes.chat_template import ChatTemplate
from maas.runtimes.gguf import check_gguf
from maas.runtimes.llama_chunks import too_long
from maas.runtimes.openvino_request import Asked, asked, configured
from maas.runtimes.plain_tools import CallReader
from maas.runtimes.text_options import (
    Sizes,
    batch_size,
    check_text_signature,
    checked_options,
    cores,
    fitting,
    most_tokens,
    settled_sizes,
)
from maas.runtimes.vocabulary import Vocabulary, gguf_vocabulary, looks_like_control
from maas.runtimes.written_text import WrittenText

log = logging.getLogger(__name__)

_BLOCK_TOKENS = 32
"""Of the memory of a sequence; the engine hands it out in such blocks."""
_MODEL = "openvino_model.xml"


class OpenVino:
    """One pipeline with one model."""

    def __init__(self) -> None:
        self.context_length = 0
        self.slots = 1
        self.has_chat_template = False
        self._pool = 0
        self._vocabulary = Vocabulary()
        self._known_tokens = 0
        self._template: ChatTemplate | None = None
        self._pipeline: Any = None
        self._tokenizer: Any = None
        self._bytes: dict[int, bytes] = {}
        self._ends: frozenset[int] = frozenset()
        """Tokens at which the model ends its text."""
        self._sequences: dict[int, _Sequence] = {}
        self._ready: list[_Sequence] = []
        """Read by us and not yet by the engine."""
        self._wake = threading.Condition()
        self._is_closed = False
        self._lost: InferenceFailed | None = None
        """Why the engine ended before it was closed."""

    def load(self, request: LoadRequest) -> None:
        """Loads one GGUF file, or the files of an IR; raises InvalidInput if OpenVINO does not."""
        check_text_signature(request.signature)
        options = checked_options(request.options)
        sizes, size = _sizes(request, options)
        self.context_length, self.slots, self._pool = sizes.context, sizes.slots, sizes.pool
        self._memory = self._pool + (self.slots + 1) * _BLOCK_TOKENS
        self._pipeline = _pipeline(request, sizes, options.get("batch", 0), size)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._bytes = {number: token for token, number in self._tokenizer.get_vocab().items()}
        self._known_tokens = max(self._bytes) + 1
        self._vocabulary = _vocabulary(request, self._tokenizer, self._bytes)
        config = self._pipeline.get_config()
        self._ends = frozenset({config.eos_token_id, *config.stop_token_ids})
        source = self._tokenizer.get_original_chat_template()
        self.has_chat_template = bool(source)
        if source:
            tokens = {
                "bos_token": self._tokenizer.get_bos_token(),
                "eos_token": self._tokenizer.get_eos_token(),
            }
            self._template = ChatTemplate(source, tokens)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._engine = threading.Thread(target=self._run, name="engine", daemon=True)
        self._engine.start()

    def has_room(self, generation: Generation) -> bool:
        taken = sum(sequence.reserved for sequence in list(self._sequences.values()))
        return taken + self._most_tokens(generation) <= self._pool

    def _most_tokens(self, generation: Generation) -> int:
        return most_tokens(generation, self.context_length, self._vocabulary.openers)

    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        sequence = _Sequence(number, generation, sink)
        sequence.reserved = self._most_tokens(generation)
        self._sequences[number] = sequence
        self._reader.submit(self._read, sequence)

    def cancel(self, number: int) -> None:
        sequence = self._sequences.get(number)
        if sequence is not None:
            sequence.is_cancelled = True

    def close(self) -> None:
        for sequence in list(self._sequences.values()):
            sequence.is_cancelled = True
        self._reader.shutdown(wait=True)
        with self._wake:
            self._is_closed = True
            self._wake.notify()
        self._engine.join()
        if self._template is not None:
            self._template.close()
        self._pipeline = None

    # -- prompts, in a thread of their own --------------------------------------------------

    def _read(self, sequence: _Sequence) -> None:
        try:
            self._prepare(sequence)
        except MaasError as wrong:
            self._end(sequence, wrong)
            return
        except Exception:
            log.exception("a prompt could not be read")
            self._end(sequence, InferenceFailed("the engine failed on this request"))
            return
        if sequence.generation.max_tokens == 0:
            self._end(sequence, Ending("length", sequence.prompt_tokens, 0))
            return
        with self._wake:
            lost = self._lost
            if lost is None:
                self._ready.append(sequence)
                self._wake.notify()
        if lost is not None:
            self._end(sequence, lost)

    def _prepare(self, sequence: _Sequence) -> None:
        generation = self._vocabulary.checked(sequence.generation, self.context_length)
        wanted = asked(generation, self._ends)
        ids = self._prompt(generation, wanted)
        if len(ids) >= self.context_length:
            raise too_long(len(ids), self.context_length)
        sequence.prompt_tokens = len(ids)
        sequence.prompt = openvino.Tensor(ids[np.newaxis])
        room = self.context_length - len(ids)
        limit = room if generation.max_tokens is None else min(room, generation.max_tokens)
        sequence.reserved = len(ids) + limit
        sequence.config = configured(generation, wanted, max(1, limit))
        sequence.calls = CallReader() if wanted.reads_calls else None
        sequence.text = WrittenText(self._tokenizer.decode, generation.stop, sequence.calls)

    def _prompt(self, generation: Generation, wanted: Asked) -> Any:
        """Token ids, int64."""
        if isinstance(generation.prompt, list):
            unknown = [t for t in generation.prompt if not 0 <= t < self._known_tokens]
            if unknown:
                raise InvalidInput(
                    f"prompt: there is no token {unknown[0]}; the model has {self._known_tokens}",
                    field="prompt",
                )
            ids = np.array(generation.prompt, np.int64)
        else:
            text = generation.prompt
            if text is None:
                if self._template is None:
                    raise InvalidInput("this model has no chat template", field="messages")
                text = self._template.render(wanted.messages)
            is_plain = generation.prompt is not None
            encoded = self._tokenizer.encode(text, add_special_tokens=is_plain)
            ids = np.array(encoded.input_ids.data, np.int64).reshape(-1)
        if not len(ids):
            raise InvalidInput("the prompt is empty", field="prompt")
        return ids

    # -- the engine, in a thread of its own --------------------------------------------------

    def _run(self) -> None:
        running: list[_Sequence] = []
        while self._take_in(running):
            for sequence in running:
                if sequence.is_cancelled:
                    sequence.handle.cancel()
            try:
                self._pipeline.step()
            except Exception as wrong:
                log.exception("the engine failed")
                self._give_up(running, wrong)
                return
            running = [sequence for sequence in running if not self._collect(sequence)]

    def _take_in(self, running: list[_Sequence]) -> bool:
        """Waits until there is work, and gives new sequences to the engine; False: closed."""
        with self._wake:
            while not running and not self._ready and not self._is_closed:
                self._wake.wait()
            new, self._ready = fitting(self._ready, running, self._memory)
        for sequence in new:
            if sequence.is_cancelled:
                self._end(sequence, Ending("cancelled", 0, 0))
                continue
            try:
                sequence.handle = self._pipeline.add_request(
                    sequence.number, sequence.prompt, sequence.config
                )
            except (RuntimeError, ValueError) as wrong:
                self._end(sequence, InvalidInput(f"the engine refuses this request: {wrong}"))
                continue
            running.append(sequence)
        return bool(running or not self._is_closed)

    def _collect(self, sequence: _Sequence) -> bool:
        """Tells what a sequence wrote in this step, an empty piece if nothing; True: it ended."""
        tokens, logprobs, reason = sequence.read()
        status = sequence.handle.get_status()
        if status == openvino_genai.GenerationStatus.IGNORED:
            full = "the engine has no memory left for this sequence"
            self._end(sequence, Unavailable(full, retry_after=1.0))
            return True
        if sequence.is_cancelled and reason is None:
            reason = "cancelled"
        piece = self._piece(sequence, tokens, logprobs, reason)
        stop = sequence.text.stops.found if sequence.text is not None else ""
        if stop and reason in (None, "length"):
            sequence.handle.stop()
            reason = "stop"
        if reason == "stop" and sequence.calls is not None and sequence.calls.is_call:
            reason = "tool_calls"
        sequence.sink(sequence.number, piece)
        if reason is None:
            return False
        # How far it is with a prompt the engine does not tell: it is counted when it was read.
        is_read = sequence.completion_tokens > 0 or reason != "cancelled"
        counts = (sequence.prompt_tokens if is_read else 0, sequence.completion_tokens)
        self._end(sequence, Ending(reason, *counts, stop=stop if reason == "stop" else ""))
        return True

    def _piece(
        self, sequence: _Sequence, tokens: list[int], logprobs: list[float], reason: str | None
    ) -> Piece:
        told = []
        if sequence.generation.logprobs is not None:
            told = [
                self._logprob(token, value) for token, value in zip(tokens, logprobs, strict=False)
            ]
        text = ""
        if sequence.text is not None:
            text = sequence.text.push(tokens)
            if reason is not None:
                text += sequence.text.rest()
            told = sequence.text.stops.logprobs(told, text, reason is not None)
        calls = sequence.text.taken_call() if sequence.text is not None else []
        return Piece(text, len(tokens), told, calls)

    def _logprob(self, token: int, value: float) -> TokenLogprob:
        data = self._bytes.get(token, b"")
        return TokenLogprob(data.decode(errors="replace"), min(0.0, value), list(data))

    def _give_up(self, running: list[_Sequence], wrong: Exception) -> None:
        """An engine that failed once in a step never writes again: whoever waits is told, and the
        replica ends, so that another takes its place."""
        lost = InferenceFailed(f"the engine failed: {str(wrong)[-300:]}")
        with self._wake:
            self._lost = lost  # who is read from here on is told there
            waiting, self._ready = self._ready, []
        for sequence in [*running, *waiting]:
            self._end(sequence, lost)
        os.kill(os.getpid(), signal.SIGTERM)

    def _end(self, sequence: _Sequence, said: Ending | MaasError) -> None:
        del self._sequences[sequence.number]
        sequence.sink(sequence.number, said)


class _Sequence:
    """One that the engine writes, and what it has cost so far."""

    def __init__(self, number: int, generation: Generation, sink: Sink) -> None:
        self.number = number
        self.generation = generation
        self.sink = sink
        self.reserved = 0
        """Tokens of the common memory that are kept for it."""
        self.is_cancelled = False
        self.prompt: Any = None
        self.prompt_tokens = self.completion_tokens = 0
        self.config: Any = None
        self.handle: Any = None
        self.text: WrittenText | None = None
        self.calls: CallReader | None = None

    def read(self) -> tuple[list[int], list[float], str | None]:
        """New tokens with their logarithms of probability, and why it ended, if it did."""
        tokens: list[int] = []
        logprobs: list[float] = []
        reason = None
        while self.handle.can_read():
            for output in self.handle.read().values():
                tokens += output.generated_ids
                logprobs += output.generated_log_probs
                if output.finish_reason == openvino_genai.GenerationFinishReason.STOP:
                    reason = "stop"
                elif output.finish_reason == openvino_genai.GenerationFinishReason.LENGTH:
                    reason = "length"
        self.completion_tokens += len(tokens)
        return tokens, logprobs, reason


# -- loading ---------------------------------------------------------------------------------


def _sizes(request: LoadRequest, options: dict[str, int]) -> tuple[Sizes, int]:
    """What it may hold, and how many bytes its weights have."""
    if len(request.paths) == 1:
        ((name, path),) = request.paths.items()
        summary = check_gguf(path, name)
        return settled_sizes(summary.context_length, options, request.max_batch), summary.size
    if _MODEL not in request.paths:
        raise InvalidInput(
            f"an OpenVINO variant has one GGUF file, or the files of an IR with {_MODEL}; got "
            f"{', '.join(sorted(request.paths)[:5])}"
        )
    size = sum(path.stat().st_size for path in request.paths.values())
    trained = _trained_context(request.paths.get("config.json"))
    return settled_sizes(trained, options, request.max_batch), size


def _vocabulary(request: LoadRequest, tokenizer: Any, tokens: dict[int, bytes]) -> Vocabulary:
    if len(request.paths) == 1:
        ((name, path),) = request.paths.items()
        return gguf_vocabulary(path, check_gguf(path, name))
    return tokenizer_vocabulary(tokenizer, tokens)


def tokenizer_vocabulary(tokenizer: Any, tokens: dict[int, bytes]) -> Vocabulary:
    """As the engine's tokenizer tells it: what it can leave out when it decodes is control."""
    ids = [[number] for number in tokens]
    kept = tokenizer.decode(ids, skip_special_tokens=True)
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    control = [
        tokens[number]
        for (number,), text, full in zip(ids, kept, whole, strict=True)
        if text != full or looks_like_control(tokens[number])
    ]
    return Vocabulary.of(tokens.values(), control)


def _trained_context(config: Path | None) -> int | None:
    if config is None or config.stat().st_size > 1 << 20:
        return None
    try:
        found = json.loads(config.read_bytes()).get("max_position_embeddings")
    except (ValueError, AttributeError):
        raise InvalidInput("config.json is not a JSON object") from None
    return found if isinstance(found, int) and found > 0 else None


def _pipeline(request: LoadRequest, sizes: Sizes, batch: int, size: int) -> Any:
    threads = min(request.threads, cores())
    scheduler = openvino_genai.SchedulerConfig()
    # Each sequence wastes at most a part of a block; one more than callers get is for control.
    scheduler.num_kv_blocks = -(-sizes.pool // _BLOCK_TOKENS) + 2 * (sizes.slots + 1)
    scheduler.max_num_seqs = sizes.slots + 1
    scheduler.max_num_batched_tokens = batch or batch_size(threads, size)
    scheduler.dynamic_split_fuse = True
    # Work that an earlier prompt left would make seeded answers differ.
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": threads, "sampler_num_threads": 1}
    # The library goes by the names of files, and theirs in the cache are digests.
    with tempfile.TemporaryDirectory(prefix="maas-openvino-") as directory:
        for name, path in request.paths.items():
            (Path(directory) / name).symlink_to(path.resolve())
        where = Path(directory)
        if len(request.paths) == 1:
            where = where / (next(iter(request.paths)))
        try:
            return openvino_genai.ContinuousBatchingPipeline(
                str(where), scheduler, "CPU", properties
            )
        except (RuntimeError, ValueError, MemoryError) as wrong:
            raise InvalidInput(
                f"OpenVINO does not load {', '.join(request.paths)}: {str(wrong)[-300:]}"
            ) from None
