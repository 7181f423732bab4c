"""GGUF files and OpenVINO IR through OpenVINO GenAI's continuous batching, on the CPU.

The life of a sequence is that of `stepped_engine`; what the engine cannot do is refused by
`openvino_request`.
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
from maas.runtimes.openvino.request import asked, configured
from maas.runtimes.text.detokenizer import SequenceText, bytes_of_tokens, read_tokens
from maas.runtimes.text.options import (
    Sizes,
    batch_size,
    check_text_signature,
    checked_options,
    settled_sizes,
)
from maas.runtimes.text.prompted_tools import CallReader
from maas.runtimes.text.stepped_engine import Sequence, SteppedEngine
from maas.runtimes.text.vocabulary import Vocabulary, gguf_vocabulary, looks_like_control

_BLOCK_TOKENS = 32
"""Of the memory of a sequence; the engine hands it out in such blocks."""
_PROOF_TOKENS = 512
"""For control's proof at least: a chat template may put hundreds of tokens around its text."""
_MODEL = "openvino_model.xml"
_REASONS = {GenerationFinishReason.STOP: "stop", GenerationFinishReason.LENGTH: "length"}


class OpenVino(SteppedEngine):
    """One pipeline with one model."""

    def __init__(self) -> None:
        super().__init__()
        self._pipeline: Any = None
        self._tokenizer: Any = None
        self._tokens: dict[int, bytes] = {}
        self._in_texts: Mapping[int, bytes] | None = None
        """`_tokens` as they stand in texts, where they stand for themselves."""
        self._ends: frozenset[int] = frozenset()
        """Tokens at which the model ends its text."""

    def load(self, request: LoadRequest) -> None:
        """Loads one GGUF file, or the files of an IR; raises InvalidInput if OpenVINO does not."""
        check_text_signature(request.signature)
        options = checked_options("openvino", request.options)
        sizes, size = _sizes(request, options)
        batch = options.get("batch") or batch_size(min(request.threads, usable_cores()), size)
        self._set_sizes(sizes, batch, _for_proof(sizes))
        self._pipeline = _pipeline(request, sizes, batch)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._tokens = {number: token for token, number in self._tokenizer.get_vocab().items()}
        self._in_texts = bytes_of_tokens(self._tokens, self._tokenizer.decode)
        self._known_tokens = max(self._tokens) + 1
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
        wanted = asked(generation, self._ends)
        ids = self._take_prompt(sequence, generation, wanted.messages)
        config = configured(generation, wanted, max(1, sequence.limit))
        sequence.work = _Work(openvino.Tensor(np.array([ids], np.int64)), config)
        reading = read_tokens(self._in_texts, self._tokenizer.decode)
        calls = CallReader() if wanted.reads_calls else None
        sequence.text = SequenceText(reading, generation.stop, calls)

    def _encoded(self, text: str, *, is_plain: bool) -> list[int]:
        found = self._tokenizer.encode(text, add_special_tokens=is_plain)
        ids: list[int] = np.array(found.input_ids.data).reshape(-1).tolist()
        return ids

    # -- the engine ---------------------------------------------------------------------------

    def step_in_caller(self, has_work: Callable[[], None]) -> StepFunction:
        """The library holds the interpreter's lock while it steps, so that a thread of our own
        would only wait for it, and be waited for, at each step."""
        self._hand_over(has_work)
        return self.turn

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
        """Takes what a sequence wrote in this step, and whether it ended."""
        work = sequence.work
        tokens, likely, reason = work.read(sequence.generation.logprobs is not None)
        sequence.completion_tokens += len(tokens)
        # One that was cancelled has the same status as one for which there was no memory.
        is_ignored = not tokens and work.handle.get_status() == GenerationStatus.IGNORED
        if is_ignored and not sequence.is_cancelled:
            full = "the engine has no memory left for this sequence"
            self._leave(sequence, Unavailable(full, retry_after=1.0))
            return
        if sequence.is_cancelled and reason is None:
            reason = "cancelled"
        sequence.wrote(tokens, [self._logprob(token, value) for token, value in likely])
        of_engine, reason = reason, self._tell(sequence, reason, is_due=is_due)
        if reason is None:
            return
        if reason == "stop" and of_engine in (None, "length"):
            work.handle.stop()
        # How far it is with a prompt the engine does not tell: counted when it was read.
        is_read = sequence.completion_tokens > 0 or reason != "cancelled"
        self._leave(sequence, sequence.ending(reason, None if is_read else 0))

    def _logprob(self, token: int, value: float) -> TokenLogprob:
        data = self._tokens.get(token, b"")
        return TokenLogprob(data.decode(errors="replace"), min(0.0, value), list(data))


@dataclass
class _Work:
    """A sequence as the library knows it."""

    prompt: Any
    config: Any
    handle: Any = None

    def read(self, with_logprobs: bool) -> tuple[list[int], list[tuple[int, float]], str | None]:
        """New tokens, the same with their logarithms of probability if asked for, and why it
        ended, if it did. Each look at what the library has is a copy."""
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


def _for_proof(sizes: Sizes) -> int:
    """Tokens of memory besides those of callers, so that control's proof finds room."""
    return max((sizes.slots + 1) * _BLOCK_TOKENS, min(sizes.context, _PROOF_TOKENS))


def _pipeline(request: LoadRequest, sizes: Sizes, batch: int) -> Any:
    threads = min(request.threads, usable_cores())
    scheduler = openvino_genai.SchedulerConfig()
    # Each sequence wastes at most a part of a block; one more than callers get is for control.
    wasted = sizes.slots + 1
    scheduler.num_kv_blocks = -(-(sizes.pool + _for_proof(sizes)) // _BLOCK_TOKENS) + wasted
    scheduler.max_num_seqs = sizes.slots + 1
    scheduler.max_num_batched_tokens = batch
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
