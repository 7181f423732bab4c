"""Language models in safetensors through transformers' continuous batching, on the CPU or a GPU.

`text/stepped_engine.py` runs the sequences, `sampler.py` draws their tokens, and masks of
llguidance enforce schemas. Options: see `model.py` and `text/options.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import llguidance
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.generation import Ending, Piece, TokenLogprob
from maas.domain.machine import usable_cores
from maas.runtimes.base import LoadRequest
from maas.runtimes.schemas.llguidance import json_grammar
from maas.runtimes.text.detokenizer import SequenceText, bytes_of_tokens, new_detokenizer
from maas.runtimes.text.options import (
    LARGEST_BATCH,
    OPTIONS,
    batch_size,
    check_text_signature,
    checked_options,
    settled_sizes,
)
from maas.runtimes.text.prompted_tools import (
    CallReader,
    call_grammar,
    chosen_tools,
    prompted_messages,
)
from maas.runtimes.text.sequence import Sequence
from maas.runtimes.text.stepped_engine import SteppedEngine
from maas.runtimes.text.vocabulary import Vocabulary, looks_like_control
from maas.runtimes.transformers.cuda_graphs import CudaGraphBatch
from maas.runtimes.transformers.model import (
    ModelFolder,
    chosen_device,
    chosen_dtype,
    load_model,
    read_folder,
)
from maas.runtimes.transformers.paged_batch import PagedBatch
from maas.runtimes.transformers.sampler import (
    SampledToken,
    SamplingDefaults,
    SequenceSampler,
    sample,
)

_PROBE_TOKENS = 512
"""Tokens of the KV cache for control's probe, which starts whether or not there is room."""
_GPU_BATCH = 4 * LARGEST_BATCH


class Transformers(SteppedEngine):
    """A model and its batch."""

    def __init__(self) -> None:
        super().__init__()
        self._ends: frozenset[int] = frozenset()
        self._defaults = SamplingDefaults()
        self._token_bytes: Mapping[int, bytes] | None = None
        """The result of `bytes_of_tokens`."""

    def load(self, request: LoadRequest) -> None:
        """Loads a model folder with config.json. Raises InvalidInput if transformers cannot."""
        check_text_signature(request.signature)
        options = request.options
        common = checked_options("transformers", options)
        device = chosen_device(options)
        dtype = chosen_dtype(options, device)
        folder = read_folder(request.paths)
        self._tokenizer = _tokenizer(request)
        # A GPU runs more sequences at a time than the default; a deployment may set them.
        slots = {"slots": min(request.max_batch, OPTIONS["slots"][1])}
        sizes = settled_sizes(folder.trained_context, slots | common, request.max_batch)
        threads = min(request.threads, usable_cores())
        torch.set_num_threads(threads)
        size = folder.parameters * dtype.itemsize
        default = batch_size(threads, size) if device.type == "cpu" else _GPU_BATCH
        batch = common.get("batch", default)
        self._set_sizes(sizes, batch, min(sizes.context, _PROBE_TOKENS))
        model = load_model(folder, device, dtype)
        self._vocabulary_size = int(model.get_input_embeddings().num_embeddings)
        self._batch = _batch(model, self.slots + 1, self._memory, batch)
        self._ends, self._defaults = folder.ends, folder.sampling
        self._set_vocabulary(folder)
        self._begin()

    def _set_vocabulary(self, folder: ModelFolder) -> None:
        self._set_template(folder.template, folder.special)
        try:
            self._grammars = llguidance.LLTokenizer(
                self._tokenizer.to_str(),
                self._vocabulary_size,
                eos_token=sorted(self._ends) or None,
            )
        except ValueError as wrong:
            raise InvalidInput(f"tokenizer.json cannot be used: {str(wrong)[:300]}") from None
        self._vocabulary = Vocabulary.of(self._token_texts(), _control_texts(self._tokenizer))
        numbers = range(self._tokenizer.get_vocab_size())
        tokens = {number: self._grammars.decode_bytes([number]) for number in numbers}
        self._token_bytes = bytes_of_tokens(tokens, self._tokenizer.decode_batch)

    def _token_texts(self) -> Iterator[bytes]:
        """The bytes of every token; none if the tokenizer may normalize a text."""
        is_exact = self._tokenizer.normalizer is None and isinstance(
            self._tokenizer.decoder, ByteLevel
        )
        for token in range(self._tokenizer.get_vocab_size() if is_exact else 0):
            yield self._grammars.decode_bytes([token])

    def _unload(self) -> None:
        del self._batch

    # -- prompts ------------------------------------------------------------------------------

    def _prepare(self, sequence: Sequence) -> None:
        g = self._checked(sequence)
        self._check_tokens(g.logit_bias, "logit_bias")
        tools, choice = chosen_tools(g)
        may_call = bool(tools) and choice != "none"
        grammar = json_grammar(g.response_format) if g.response_format is not None else None
        if tools and choice == "required":
            grammar = call_grammar(tools, json_grammar)
        messages = prompted_messages(g.messages or [], tools if may_call else [])
        ids = self._encode_prompt(sequence, g, messages)
        matcher = None if grammar is None else self._matcher(grammar)
        sequence.work = _Work(ids, SequenceSampler(g, self._defaults, matcher))
        detokenizer = new_detokenizer(self._token_bytes, self._tokenizer.decode)
        sequence.text = SequenceText(detokenizer, g.stop, CallReader() if may_call else None)

    def _matcher(self, grammar: str) -> Any:
        matcher = llguidance.LLMatcher(self._grammars, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidInput(
                f"response_format: this schema cannot be enforced: {matcher.get_error()[:300]}",
                field="response_format",
            )
        return matcher

    def _encode(self, text: str, *, is_plain: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=is_plain).ids
        return ids

    # -- the engine ---------------------------------------------------------------------------

    def _admit(self, sequence: Sequence) -> None:
        self._batch.add(sequence.number, sequence.work.prompt)

    def _step(self) -> None:
        running = self._running
        for sequence in list(running.values()):
            if sequence.is_cancelled:
                position = self._batch.position(sequence.number)
                processed = min(sequence.prompt_tokens, position)
                self._drop(sequence, sequence.ending("cancelled", processed))
        if not running:
            return
        due, logits = self._batch.step()
        samplers = [running[number].work.sampler for number in due]
        results = sample(logits, samplers) if due else []
        by_number = dict(zip(due, results, strict=True))
        self._batch.put([_token_or_0(result) for result in results])
        is_due = self._is_output_due()
        for sequence in list(running.values()):
            result = by_number.get(sequence.number)
            if isinstance(result, MaasError):
                self._drop(sequence, result)
            elif result is None:
                sequence.sink(sequence.number, Piece())  # a part of its prompt, or it waited
            else:
                self._collect(sequence, result, is_due)

    def _collect(self, sequence: Sequence, sampled: SampledToken, is_due: bool) -> None:
        """Adds a token to a sequence, and ends it if that was the last one."""
        sequence.completion_tokens += 1
        is_end = sampled.token in self._ends
        logprobs = []
        if sequence.generation.logprobs is not None:
            top = [self._logprob(token, value) for token, value in sampled.top]
            logprobs = [self._logprob(sampled.token, sampled.logprob, top)]
        sequence.add([] if is_end else [sampled.token], logprobs)
        reason = None
        if is_end or sequence.work.sampler.is_complete:
            reason = "stop"
        elif sequence.completion_tokens >= sequence.limit:
            reason = "length"
        reason = self._emit(sequence, reason, is_due=is_due)
        if reason is not None:
            self._drop(sequence, sequence.ending(reason))

    def _drop(self, sequence: Sequence, end: Ending | MaasError) -> None:
        # The batch first: if that fails, the sequence must still be in `_running` to be ended.
        self._batch.drop(sequence.number)
        self._finish(sequence, end)

    def _logprob(
        self, token: int, value: float, top: list[TokenLogprob] | None = None
    ) -> TokenLogprob:
        data = self._grammars.decode_bytes([token])
        return TokenLogprob(data.decode(errors="replace"), min(0.0, value), list(data), top or [])


@dataclass
class _Work:
    """A sequence in the batch."""

    prompt: list[int]
    sampler: SequenceSampler


def _token_or_0(result: SampledToken | MaasError) -> int:
    """The token to continue with; any for a sequence that failed and will be dropped."""
    return result.token if isinstance(result, SampledToken) else 0


def _batch(model: Any, sequences: int, tokens: int, batch: int) -> PagedBatch:
    """The batch for the model's device. Raises InvalidInput."""
    if model.device.type != "cuda":
        return PagedBatch(model, sequences, tokens, batch)
    try:
        return CudaGraphBatch(model, sequences, tokens, batch)
    except RuntimeError as wrong:  # it computes its first steps in the constructor
        raise InvalidInput(f"the device cannot compute this model: {str(wrong)[:300]}") from None


def _control_texts(tokenizer: Tokenizer) -> list[bytes]:
    texts = []
    for token in tokenizer.get_added_tokens_decoder().values():
        text = token.content.encode()
        if token.special or looks_like_control(text):
            texts.append(text)
    return texts


def _tokenizer(request: LoadRequest) -> Any:
    try:
        tokenizer = Tokenizer.from_file(str(request.paths["tokenizer.json"]))
    except Exception as wrong:  # noqa: BLE001 - the library raises Exception itself
        raise InvalidInput(f"tokenizer.json cannot be read: {str(wrong)[:300]}") from None
    # Files often configure truncation, or padding to one length; neither is for serving.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
