"""GGUF files and OpenVINO IR through OpenVINO GenAI's continuous batching, on the CPU.

`text/stepped_engine.py` runs the sequences; `request.py` refuses what the engine cannot do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openvino_genai import GenerationFinishReason, GenerationStatus

from maas.domain.errors import InvalidInput, Unavailable
from maas.domain.generation import TokenLogprob
from maas.domain.machine import usable_cores
from maas.runtimes.base import LoadRequest, StepFunction
from maas.runtimes.formats.gguf import check_gguf
from maas.runtimes.openvino.request import checked_request, generation_config
from maas.runtimes.text.detokenizer import SequenceText, bytes_of_tokens, new_detokenizer
from maas.runtimes.text.options import (
    Sizes,
    batch_size,
    check_text_signature,
    checked_options,
    settled_sizes,
)
from maas.runtimes.text.prompted_tools import CallReader
from maas.runtimes.text.sequence import Sequence
from maas.runtimes.text.stepped_engine import SteppedEngine
from maas.runtimes.text.vocabulary import Vocabulary, gguf_vocabulary, looks_like_control

_BLOCK_TOKENS = 32
"""Tokens per block of the KV cache."""
_PROBE_TOKENS = 512
"""Least tokens for control's probe: a chat template may add hundreds of tokens to its text."""
_MODEL = "openvino_model.xml"
_REASONS = {GenerationFinishReason.STOP: "stop", GenerationFinishReason.LENGTH: "length"}


class OpenVino(SteppedEngine):
    """One pipeline with one model."""

    def __init__(self) -> None:
        super().__init__()
        self._pipeline: Any = None
        self._tokenizer: Any = None
        self._tokens: dict[int, bytes] = {}
        self._token_bytes: Mapping[int, bytes] | None = None
        """The result of `bytes_of_tokens`."""
        self._ends: frozenset[int] = frozenset()
        """End-of-text tokens."""

    def load(self, request: LoadRequest) -> None:
        """Loads one GGUF file, or the files of an IR. Raises InvalidInput if OpenVINO cannot."""
        check_text_signature(request.signature)
        options = checked_options("openvino", request.options)
        sizes, size = _sizes(request, options)
        batch = options.get("batch") or batch_size(min(request.threads, usable_cores()), size)
        self._set_sizes(sizes, batch, _probe_tokens(sizes))
        self._pipeline = _pipeline(request, sizes, batch)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._tokens = {number: token for token, number in self._tokenizer.get_vocab().items()}
        self._token_bytes = bytes_of_tokens(self._tokens, self._tokenizer.decode)
        self._vocabulary_size = max(self._tokens) + 1
        self._vocabulary = _vocabulary(request, self._tokenizer, self._tokens)
        config = self._pipeline.get_config()
        self._ends = frozenset({config.eos_token_id, *config.stop_token_ids})
        special = {
            "bos_token": self._tokenizer.get_bos_token(),
            "eos_token": self._tokenizer.get_eos_token(),
        }
        self._set_template(self._tokenizer.get_original_chat_template(), special)
        self._begin()

    def _unload(self) -> None:
        self._pipeline = None

    # -- prompts ------------------------------------------------------------------------------

    def _prepare(self, sequence: Sequence) -> None:
        generation = self._checked(sequence)
        request = checked_request(generation, self._ends)
        ids = self._encode_prompt(sequence, generation, request.messages)
        config = generation_config(generation, request, max(1, sequence.limit))
        sequence.work = _Work(openvino.Tensor(np.array([ids], np.int64)), config)
        detokenizer = new_detokenizer(self._token_bytes, self._tokenizer.decode)
        calls = CallReader() if request.may_call else None
        sequence.text = SequenceText(detokenizer, generation.stop, calls)

    def _encode(self, text: str, *, is_plain: bool) -> list[int]:
        encoded = self._tokenizer.encode(text, add_special_tokens=is_plain)
        ids: list[int] = np.array(encoded.input_ids.data).reshape(-1).tolist()
        return ids

    # -- the engine ---------------------------------------------------------------------------

    def step_in_caller(self, has_work: Callable[[], None]) -> StepFunction:
        """The library holds the GIL while it steps, so that a thread of its own would only add two
        hand-overs to each step."""
        self._hand_over_steps(has_work)
        return self.run_step

    def _admit(self, sequence: Sequence) -> None:
        work = sequence.work
        try:
            work.handle = self._pipeline.add_request(sequence.number, work.prompt, work.config)
        except (RuntimeError, ValueError) as wrong:
            raise InvalidInput(f"the engine refuses this request: {wrong}") from None

    def _step(self) -> None:
        for sequence in self._running.values():
            if sequence.is_cancelled:
                sequence.work.handle.cancel()
        self._pipeline.step()
        is_due = self._is_output_due()
        for sequence in list(self._running.values()):
            self._collect(sequence, is_due)

    def _collect(self, sequence: Sequence, is_due: bool) -> None:
        """Collects and emits what this step generated for a sequence, and its end."""
        work = sequence.work
        tokens, logprobs, reason = work.read(sequence.generation.logprobs is not None)
        sequence.completion_tokens += len(tokens)
        # A cancelled sequence has the same status as one that found no memory.
        is_ignored = not tokens and work.handle.get_status() == GenerationStatus.IGNORED
        if is_ignored and not sequence.is_cancelled:
            full = "the engine has no memory left for this sequence"
            self._finish(sequence, Unavailable(full, retry_after=1.0))
            return
        if sequence.is_cancelled and reason is None:
            reason = "cancelled"
        sequence.add(tokens, [self._logprob(token, value) for token, value in logprobs])
        engine_reason, reason = reason, self._emit(sequence, reason, is_due=is_due)
        if reason is None:
            return
        if reason == "stop" and engine_reason in (None, "length"):
            work.handle.stop()
        # The engine does not report the progress of a prompt: it counts in full or not at all.
        is_processed = sequence.completion_tokens > 0 or reason != "cancelled"
        self._finish(sequence, sequence.ending(reason, None if is_processed else 0))

    def _logprob(self, token: int, value: float) -> TokenLogprob:
        data = self._tokens.get(token, b"")
        return TokenLogprob(data.decode(errors="replace"), min(0.0, value), list(data))


@dataclass
class _Work:
    """The library's objects for a sequence."""

    prompt: Any
    config: Any
    handle: Any = None

    def read(self, with_logprobs: bool) -> tuple[list[int], list[tuple[int, float]], str | None]:
        """New tokens, the same with their logprobs if requested, and the reason if it ended. Every
        read from the library is a copy."""
        tokens: list[int] = []
        logprobs: list[tuple[int, float]] = []
        reason = None
        while self.handle.can_read():
            for output in self.handle.read().values():
                new = output.generated_ids
                tokens += new
                if with_logprobs:
                    logprobs += zip(new, output.generated_log_probs, strict=False)
                finish = output.finish_reason
                if finish != GenerationFinishReason.NONE:
                    reason = _REASONS.get(finish, reason)
        return tokens, logprobs, reason


# -- loading ---------------------------------------------------------------------------------


def _sizes(request: LoadRequest, options: dict[str, int]) -> tuple[Sizes, int]:
    """Sizes of the KV cache, and bytes of the weights."""
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
    """The vocabulary according to the engine's tokenizer: tokens that it can skip in decoding are
    control tokens."""
    ids = [[number] for number in tokens]
    plain_texts = tokenizer.decode(ids, skip_special_tokens=True)
    full_texts = tokenizer.decode(ids, skip_special_tokens=False)
    control = []
    for token, plain, full in zip(tokens.values(), plain_texts, full_texts, strict=True):
        if plain != full or looks_like_control(token):
            control.append(token)
    return Vocabulary.of(tokens.values(), control)


def _trained_context(config: Path | None) -> int | None:
    if config is None or config.stat().st_size > 1 << 20:
        return None
    try:
        length = json.loads(config.read_bytes()).get("max_position_embeddings")
    except (ValueError, AttributeError):
        raise InvalidInput("config.json is not a JSON object") from None
    return length if isinstance(length, int) and length > 0 else None


def _probe_tokens(sizes: Sizes) -> int:
    """Tokens of the KV cache for control's probe, in addition to those for clients."""
    return max((sizes.slots + 1) * _BLOCK_TOKENS, min(sizes.context, _PROBE_TOKENS))


def _pipeline(request: LoadRequest, sizes: Sizes, batch: int) -> Any:
    threads = min(request.threads, usable_cores())
    scheduler = openvino_genai.SchedulerConfig()
    # Each sequence wastes at most a part of a block; there is one more than clients get.
    wasted = sizes.slots + 1
    scheduler.num_kv_blocks = -(-(sizes.pool + _probe_tokens(sizes)) // _BLOCK_TOKENS) + wasted
    scheduler.max_num_seqs = sizes.slots + 1
    scheduler.max_num_batched_tokens = batch
    scheduler.dynamic_split_fuse = True
    # Cached prefixes of earlier prompts would make seeded answers differ.
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": threads, "sampler_num_threads": 1}
    # The library expects the original file names; in the cache files are named by digest.
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
