"""Language models in safetensors through transformers' continuous batching, on the CPU or a GPU.

One thread of ours steps the batch; what all sequences wrote comes step by step, and one call of a
sink per sequence and step tells it. Which token follows is chosen by `token_choice`, schemas are
held by llguidance's masks, chat templates are rendered in a process of their own. Options:
`transformers_model` and `text_options`.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llguidance
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError
from maas.domain.generation import Ending, Generation, Piece, TokenLogprob
from maas.runtimes.base import LoadRequest, Sink
from maas.runtimes.chat_template import ChatTemplate
from maas.runtimes.json_grammar import json_grammar
from maas.runtimes.llama_chunks import too_long
from maas.runtimes.paged_batch import PagedBatch
from maas.runtimes.plain_tools import CallReader, call_schema, chosen_tools, told_messages
from maas.runtimes.text_options import (
    LARGEST_BATCH,
    OPTIONS,
    batch_size,
    check_text_signature,
    checked_options,
    cores,
    fitting,
    most_tokens,
    settled_sizes,
)
from maas.runtimes.token_choice import Chooser, Chosen, Manner, choose
from maas.runtimes.transformers_model import (
    Folder,
    chosen_device,
    chosen_dtype,
    load_model,
    read_folder,
)
from maas.runtimes.vocabulary import Vocabulary, looks_like_control
from maas.runtimes.written_text import WrittenText

log = logging.getLogger(__name__)

_PROOF_TOKENS = 512
"""Of the cache, for control's proof, which is started without asking for room."""
_GPU_BATCH = 4 * LARGEST_BATCH
_OWN_OPTIONS = ("device", "dtype")


class Transformers:
    """One model and its batch."""

    def __init__(self) -> None:
        self.context_length = 0
        self.slots = 1
        self.has_chat_template = False
        self._pool = 0
        self._known_tokens = 0
        self._vocabulary = Vocabulary()
        self._ends: frozenset[int] = frozenset()
        self._manner = Manner()
        self._template: ChatTemplate | None = None
        self._sequences: dict[int, _Sequence] = {}
        self._ready: list[_Sequence] = []
        """Read by us and not yet in the batch."""
        self._wake = threading.Condition()
        self._is_closed = False
        self._lost: InferenceFailed | None = None
        """Why the engine ended before it was closed."""

    def load(self, request: LoadRequest) -> None:
        """Loads the files of a folder with config.json; raises InvalidInput if it cannot."""
        check_text_signature(request.signature)
        options = request.options
        common = checked_options({k: v for k, v in options.items() if k not in _OWN_OPTIONS})
        device = chosen_device(options)
        dtype = chosen_dtype(options, device)
        folder = read_folder(request.paths)
        self._tokenizer = _tokenizer(request)
        # A GPU writes more at once than the usual slots; who deploys may ask for them.
        slots = {"slots": min(request.max_batch, OPTIONS["slots"][1])}
        sizes = settled_sizes(folder.trained_context, slots | common, request.max_batch)
        self.context_length, self.slots, self._pool = sizes.context, sizes.slots, sizes.pool
        threads = min(request.threads, cores())
        torch.set_num_threads(threads)
        size = folder.parameters * dtype.itemsize
        usual = batch_size(threads, size) if device.type == "cpu" else _GPU_BATCH
        model = load_model(folder, device, dtype)
        self._known_tokens = int(model.get_input_embeddings().num_embeddings)
        self._memory = self._pool + min(self.context_length, _PROOF_TOKENS)
        self._batch = PagedBatch(model, self.slots + 1, self._memory, common.get("batch", usual))
        self._ends, self._manner = folder.ends, folder.manner
        self._set_words(folder)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._engine = threading.Thread(target=self._run, name="engine", daemon=True)
        self._engine.start()

    def _set_words(self, folder: Folder) -> None:
        self.has_chat_template = bool(folder.template)
        if folder.template:
            self._template = ChatTemplate(folder.template, folder.special)
        try:
            self._grammars = llguidance.LLTokenizer(
                self._tokenizer.to_str(), self._known_tokens, eos_token=sorted(self._ends) or None
            )
        except ValueError as wrong:
            raise InvalidInput(f"tokenizer.json cannot be used: {str(wrong)[:300]}") from None
        self._vocabulary = Vocabulary.of(self._token_texts(), _control_texts(self._tokenizer))

    def _token_texts(self) -> Iterator[bytes]:
        """What each token stands for; none where a text may change before it is cut into them."""
        is_exact = self._tokenizer.normalizer is None and isinstance(
            self._tokenizer.decoder, ByteLevel
        )
        for token in range(self._tokenizer.get_vocab_size() if is_exact else 0):
            yield self._grammars.decode_bytes([token])

    def has_room(self, generation: Generation) -> bool:
        taken = sum(sequence.reserved for sequence in list(self._sequences.values()))
        return (
            taken + most_tokens(generation, self.context_length, self._vocabulary.openers)
            <= self._pool
        )

    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        sequence = _Sequence(number, generation, sink)
        sequence.reserved = most_tokens(generation, self.context_length, self._vocabulary.openers)
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
        del self._batch

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
            self._end(sequence, Ending("length", len(sequence.prompt), 0))
            return
        with self._wake:
            lost = self._lost
            if lost is None:
                self._ready.append(sequence)
                self._wake.notify()
        if lost is not None:
            self._end(sequence, lost)

    def _prepare(self, sequence: _Sequence) -> None:
        g = self._vocabulary.checked(sequence.generation, self.context_length)
        self._check_tokens(g.logit_bias, "logit_bias")
        tools, choice = chosen_tools(g)
        may_call = bool(tools) and choice != "none"
        wanted = g.response_format
        if tools and choice == "required":
            wanted = {"type": "json_schema", "schema": call_schema(tools)}
        grammar = json_grammar(wanted) if wanted is not None else None
        sequence.prompt = ids = self._prompt(g, tools if may_call else [])
        if len(ids) >= self.context_length:
            raise too_long(len(ids), self.context_length)
        room = self.context_length - len(ids)
        sequence.limit = room if g.max_tokens is None else min(room, g.max_tokens)
        sequence.reserved = len(ids) + sequence.limit
        matcher = None if grammar is None else self._matcher(grammar)
        sequence.chooser = Chooser(g, self._manner, matcher)
        sequence.calls = CallReader() if may_call else None
        sequence.text = WrittenText(self._tokenizer.decode, g.stop, sequence.calls)

    def _matcher(self, grammar: str) -> Any:
        matcher = llguidance.LLMatcher(self._grammars, grammar, log_level=0)
        if matcher.is_error():
            raise InvalidInput(
                f"response_format: this schema cannot be enforced: {matcher.get_error()[:300]}",
                field="response_format",
            )
        return matcher

    def _prompt(self, g: Generation, tools: list[dict[str, Any]]) -> list[int]:
        if isinstance(g.prompt, list):
            self._check_tokens(g.prompt, "prompt")
            ids = list(g.prompt)
        else:
            text = g.prompt
            if text is None:
                if self._template is None:
                    raise InvalidInput("this model has no chat template", field="messages")
                text = self._template.render(told_messages(g.messages or [], tools))
            # A template writes the special tokens itself.
            ids = self._tokenizer.encode(text, add_special_tokens=g.prompt is not None).ids
        if not ids:
            raise InvalidInput("the prompt is empty", field="prompt")
        return ids

    def _check_tokens(self, tokens: Any, what: str) -> None:
        unknown = [token for token in tokens if not 0 <= token < self._known_tokens]
        if unknown:
            raise InvalidInput(
                f"{what}: there is no token {unknown[0]}; the model has {self._known_tokens}",
                field=what,
            )

    # -- the engine, in a thread of its own --------------------------------------------------

    def _run(self) -> None:
        running: dict[int, _Sequence] = {}
        while self._take_in(running):
            try:
                self._step(running)
            except Exception as wrong:
                log.exception("the engine failed")
                self._give_up(running, wrong)
                return

    def _take_in(self, running: dict[int, _Sequence]) -> bool:
        """Waits until there is work, and gives new sequences to the batch; False: closed."""
        with self._wake:
            while not running and not self._ready and not self._is_closed:
                self._wake.wait()
            new, self._ready = fitting(self._ready, running.values(), self._memory)
        for sequence in new:
            if sequence.is_cancelled:
                self._end(sequence, Ending("cancelled", 0, 0))
                continue
            self._batch.add(sequence.number, sequence.prompt)
            running[sequence.number] = sequence
        return bool(running or not self._is_closed)

    def _step(self, running: dict[int, _Sequence]) -> None:
        for sequence in list(running.values()):
            if sequence.is_cancelled:
                read = min(len(sequence.prompt), self._batch.position(sequence.number))
                self._leave(running, sequence, sequence.ending("cancelled", read))
        if not running:
            return
        due, logits = self._batch.step()
        found = choose(logits, [running[number].chooser for number in due]) if due else []
        self._batch.put([0 if isinstance(one, MaasError) else one.token for one in found])
        chosen = dict(zip(due, found, strict=True))
        for sequence in list(running.values()):
            one = chosen.get(sequence.number)
            if isinstance(one, MaasError):
                self._leave(running, sequence, one)
                continue
            reason = sequence.take(one, self._ends)
            sequence.sink(sequence.number, self._piece(sequence, one, reason))
            if reason is not None:
                self._leave(running, sequence, sequence.ending(reason))

    def _piece(self, sequence: _Sequence, one: Chosen | None, reason: str | None) -> Piece:
        """What a sequence wrote in a step; empty if it got on with its prompt, or waited."""
        if one is None:
            return Piece()
        logprobs = []
        if sequence.generation.logprobs is not None:
            top = [self._logprob(token, value) for token, value in one.top]
            logprobs = [self._logprob(one.token, one.logprob, top)]
        return sequence.told(logprobs, reason is not None)

    def _logprob(
        self, token: int, value: float, top: list[TokenLogprob] | None = None
    ) -> TokenLogprob:
        data = self._grammars.decode_bytes([token])
        return TokenLogprob(data.decode(errors="replace"), min(0.0, value), list(data), top or [])

    def _leave(
        self, running: dict[int, _Sequence], sequence: _Sequence, said: Ending | MaasError
    ) -> None:
        self._batch.drop(sequence.number)
        del running[sequence.number]  # not before: if the engine fails here, it is told of it
        self._end(sequence, said)

    def _give_up(self, running: dict[int, _Sequence], wrong: Exception) -> None:
        """A batch that failed within a step is of no known state: whoever waits is told, and the
        replica ends, so that another takes its place."""
        lost = InferenceFailed(f"the engine failed: {str(wrong)[-300:]}")
        with self._wake:
            self._lost = lost  # who is read from here on is told there
            waiting, self._ready = self._ready, []
        for sequence in [*running.values(), *waiting]:
            self._end(sequence, lost)
        os.kill(os.getpid(), signal.SIGTERM)

    def _end(self, sequence: _Sequence, said: Ending | MaasError) -> None:
        del self._sequences[sequence.number]
        sequence.sink(sequence.number, said)


class _Sequence:
    """One that is being written, and what it has cost so far."""

    chooser: Chooser
    text: WrittenText

    def __init__(self, number: int, generation: Generation, sink: Sink) -> None:
        self.number = number
        self.generation = generation
        self.sink = sink
        self.reserved = 0
        """Tokens of the cache that are kept for it."""
        self.is_cancelled = False
        self.prompt: list[int] = []
        self.limit = 0
        self.calls: CallReader | None = None
        self._written = 0
        self._new = ""

    def take(self, one: Chosen | None, ends: frozenset[int]) -> str | None:
        """Why it ends with this token, if it does."""
        if one is None:
            return None
        self._written += 1
        if one.token in ends:
            return "stop"
        self._new = self.text.push([one.token])
        if self.text.stops.found or self.chooser.is_complete:
            return "stop"
        return "length" if self._written >= self.limit else None

    def told(self, logprobs: list[TokenLogprob], is_last: bool) -> Piece:
        """The text since the last time, what is of a call, and the logprobs of what is told."""
        text, self._new = self._new, ""
        if is_last:
            text += self.text.rest()
        logprobs = self.text.stops.logprobs(logprobs, text, is_last)
        return Piece(text, 1, logprobs, self.text.taken_call())

    def ending(self, reason: str, read: int | None = None) -> Ending:
        """`read`: how many tokens of its prompt, if not all."""
        if reason == "stop" and self.calls is not None and self.calls.is_call:
            reason = "tool_calls"
        stop = self.text.stops.found if reason == "stop" else ""
        prompt_tokens = len(self.prompt) if read is None else read
        return Ending(reason, prompt_tokens, self._written, stop=stop)


def _control_texts(tokenizer: Tokenizer) -> list[bytes]:
    added = tokenizer.get_added_tokens_decoder().values()
    return [
        text
        for token in added
        if looks_like_control(text := token.content.encode()) or token.special
    ]


def _tokenizer(request: LoadRequest) -> Any:
    try:
        tokenizer = Tokenizer.from_file(str(request.paths["tokenizer.json"]))
    except Exception as wrong:  # noqa: BLE001 - the library raises Exception itself
        raise InvalidInput(f"tokenizer.json cannot be read: {str(wrong)[:300]}") from None
    # Files often say that texts are cut, or all padded to one length; neither is wanted here.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
