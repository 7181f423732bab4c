"""GGUF models through llama.cpp's server, in this process, with xllamacpp.

The engine batches continuously; one thread per sequence waits for its output. The chat template is
that of the file, rendered by the engine's own interpreter, which has no access to anything; callers
cannot supply one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import xllamacpp

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError, Unavailable
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.machine import usable_cores
from maas.runtimes.base import LoadRequest, Sink
from maas.runtimes.formats.gguf import GgufSummary, check_gguf
from maas.runtimes.llama_cpp.request import request_body
from maas.runtimes.options import one_of
from maas.runtimes.schemas.llama_limits import TokenTexts
from maas.runtimes.schemas.llguidance import AnswerFollower
from maas.runtimes.text.detokenizer import StopTexts
from maas.runtimes.text.engine import TextEngine
from maas.runtimes.text.options import (
    batch_size,
    check_text_signature,
    checked_options,
    settled_sizes,
)
from maas.runtimes.text.prompted_tools import CallReader
from maas.runtimes.text.stream_chunks import PromptProgress, decode_chunk, too_long
from maas.runtimes.text.vocabulary import gguf_vocabulary

log = logging.getLogger(__name__)

PROBE_TOKENS = 512
"""Tokens of the KV cache for control's probe, which starts whether or not there is room."""

CACHE_TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""Values of the option `cache_type`: the data type of the KV cache."""

_LOG_PREFIX = re.compile(r"^[\d.]+ [A-Z] ")


class LlamaCpp(TextEngine["_Sequence"]):
    """A llama.cpp server with one model."""

    def __init__(self) -> None:
        super().__init__()
        self._template_has_tools = False
        self._vocabulary_size: int | None = None
        self._token_texts = TokenTexts()
        self._server: Any = None

    def load(self, request: LoadRequest) -> None:
        """Loads the one GGUF file of the variant. Raises InvalidInput if llama.cpp cannot."""
        check_text_signature(request.signature)
        name, path = _only_file(request)
        summary = check_gguf(path, name)
        if summary.splits > 1:
            raise InvalidInput(f"{name} is one of {summary.splits} parts; give one whole file")
        self._settle_sizes(summary, request)
        self._vocabulary = gguf_vocabulary(path, summary)
        self._token_texts = TokenTexts.of(path, summary)
        parameters = self._parameters(path, summary, request)
        self._server = _start(name, parameters, self._before_socket_closes)
        # One more than clients get, so that control's probe never waits behind long answers.
        self._threads = ThreadPoolExecutor(self.slots + 1, thread_name_prefix="sequence")

    def _room(self) -> int:
        """Tokens of the KV cache that are not reserved; negative if it is overcommitted."""
        return self._pool + min(self.context_length, PROBE_TOKENS) - self._reserved()

    def start(self, number: int, generation: Generation, sink: Sink) -> None:
        sequence = _Sequence(number, generation, sink, self.context_length, self._room)
        sequence.reserved = self._most_tokens(generation)
        if generation.tools and not self._template_has_tools and generation.tool_choice != "none":
            sequence.calls = CallReader()
        self._sequences[number] = sequence
        self._threads.submit(self._generate, sequence)

    def close(self) -> None:
        self._cancel_all()
        self._threads.shutdown(wait=True)
        self._server = None

    # -- sequences --------------------------------------------------------------------------

    def _generate(self, sequence: _Sequence) -> None:
        """Runs a sequence to its end, in a thread of its own."""
        end: Ending | MaasError
        try:
            end = self._end_of(sequence)
        except MaasError as error:
            end = error
        except Exception:
            log.exception("the generation of a sequence failed")
            end = InferenceFailed("the engine failed on this request")
        del self._sequences[sequence.number]
        sequence.sink(sequence.number, end)

    def _end_of(self, sequence: _Sequence) -> Ending | MaasError:
        if sequence.is_cancelled:
            return Ending("cancelled", 0, 0)
        self._check_tokens(sequence.generation)
        generation = self._vocabulary.checked(sequence.generation, self.context_length)
        body = self._body(generation)
        if "grammar" in body and not self._token_texts.lacks_blanks:
            sequence.follower = AnswerFollower(body["grammar"])
        complete = self._server.handle_completions
        if generation.messages is not None:
            complete = self._server.handle_chat_completions
        try:
            complete(msgspec.json.encode(body), sequence.handle)
        except (ValueError, RuntimeError) as wrong:
            return InvalidInput(f"the engine refuses this request: {wrong}")
        return sequence.error or sequence.ending()

    def _body(self, generation: Generation) -> dict[str, Any]:
        return request_body(generation, self._template_has_tools, self._token_texts)

    def _check_tokens(self, generation: Generation) -> None:
        """Refuses biases for unknown tokens, which the engine ignores silently."""
        count = self._vocabulary_size
        unknown = [t for t in generation.logit_bias if count and not 0 <= t < count]
        if unknown:
            raise InvalidInput(
                f"logit_bias: there is no token {unknown[0]}; the model has {count}",
                field="logit_bias",
            )

    # -- loading ----------------------------------------------------------------------------

    def _before_socket_closes(self, parameters: Any) -> None:
        """Hook that runs once, while the loaded engine still has its HTTP socket."""

    def _settle_sizes(self, summary: GgufSummary, request: LoadRequest) -> None:
        options = checked_options("llama_cpp", request.options)
        sizes = settled_sizes(summary.context_length, options, request.max_batch)
        self.context_length, self.slots, self._pool = sizes.context, sizes.slots, sizes.pool
        self.has_chat_template = summary.chat_template
        self._template_has_tools = summary.template_tools
        self._vocabulary_size = summary.vocabulary

    def _parameters(self, path: Path, summary: GgufSummary, request: LoadRequest) -> Any:
        threads = min(request.threads, usable_cores())
        p = xllamacpp.CommonParams()
        p.model.path = str(path)
        p.n_ctx = self._pool + min(self.context_length, PROBE_TOKENS)
        p.n_parallel = self.slots + 1
        p.kv_unified = True
        p.kv_unified_per_slot = self.context_length
        p.ctx_shift = False
        p.fit_params = False  # would load the model a second time to try other sizes
        p.n_batch = request.options.get("batch", batch_size(threads, summary.size))
        p.n_ubatch = p.n_batch
        p.cache_ram_mib = 0
        cache_type = one_of(request.options, "cache_type", CACHE_TYPES)
        p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type[f"GGML_TYPE_{cache_type.upper()}"]
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
        # Threads that spin while they wait starve each other and all other processes.
        p.cpuparams.poll = p.cpuparams_batch.poll = 0
        p.use_jinja = True
        p.verbosity = 1
        p.ui = p.endpoint_slots = p.endpoint_props = p.endpoint_metrics = False
        p.n_threads_http = 1
        return p


class _Sequence:
    """A sequence that the engine generates, and its usage so far."""

    def __init__(
        self,
        number: int,
        generation: Generation,
        sink: Sink,
        context_length: int,
        room: Callable[[], int],
    ) -> None:
        self.number = number
        self.generation = generation
        self.sink = sink
        self.reserved = 0
        """Tokens of the KV cache that are reserved for it."""
        self.is_cancelled = False
        self.error: MaasError | None = None
        self.calls: CallReader | None = None
        """Extracts tool calls from the text, if the engine does not."""
        self.follower: AnswerFollower | None = None
        """Checks an answer that has a grammar: the engine drops grammars that it cannot follow."""
        self._stops = StopTexts(generation.stop)
        self._context_length = context_length
        self._room = room
        self._reason: str | None = None
        self._prompt_tokens = self._completion_tokens = self._cached_tokens = 0

    def handle(self, data: bytes) -> bool:
        """Handles a chunk of the engine's stream, in the sequence's thread; True ends the
        sequence."""
        chunk = decode_chunk(data)
        if chunk.error is not None:
            self.error = chunk.error.to_domain(self._context_length)
            return True
        if chunk.prompt_progress is not None:
            return self._handle_progress(chunk.prompt_progress)
        tokens = 0
        if chunk.timings is not None:
            tokens = max(0, chunk.timings.predicted_n - self._completion_tokens)
            self._completion_tokens += tokens
        if chunk.usage is not None:
            self._prompt_tokens = chunk.usage.prompt_tokens
            self._completion_tokens = chunk.usage.completion_tokens
        piece = chunk.piece(tokens, self.generation.logprobs or 0)
        is_last = chunk.finish_reason is not None
        if self._violates_grammar(piece, chunk.finish_reason):
            log.error("the engine violated a grammar")
            self.error = InferenceFailed("the engine left the requested format; its text ends here")
            return True
        if piece is not None or (is_last and (self.generation.stop or self.calls is not None)):
            self._emit(piece or Piece(), is_last)
        if self._stops.match and self._reason is None:
            self._reason = "stop"
            return True
        if is_last:
            is_call = self.calls is not None and self.calls.is_call
            is_complete = chunk.finish_reason == "stop"
            self._reason = "tool_calls" if is_call and is_complete else chunk.finish_reason
        return self.is_cancelled and self._reason is None

    def _violates_grammar(self, piece: Piece | None, finish_reason: str | None) -> bool:
        """Whether the grammar allows neither the text nor an end after it."""
        if self.follower is None:
            return False
        if piece is not None and not self.follower.take(piece.text):
            return True
        return finish_reason == "stop" and not self.follower.is_complete

    def _emit(self, piece: Piece, is_last: bool) -> None:
        if self.calls is not None:
            text, calls = self.calls.read(piece.text, is_last)
            piece = replace(piece, text=text, tool_calls=calls)
        if self.generation.stop:
            text = self._stops.push(piece.text) + (self._stops.rest() if is_last else "")
            logprobs = self._stops.logprobs(piece.logprobs, text, is_last)
            piece = replace(piece, text=text, logprobs=logprobs)
        self.sink(self.number, piece)

    def _handle_progress(self, progress: PromptProgress) -> bool:
        """Handles the progress report that the engine sends before the prompt and after each batch
        of it; True ends the sequence."""
        prompt_tokens = self._prompt_tokens = progress.total
        self._cached_tokens = progress.cache
        limit = self.generation.max_tokens
        if prompt_tokens >= self._context_length:
            self.error = too_long(prompt_tokens, self._context_length)
            return True
        if limit == 0:
            self._reason = "length"
            return True
        if limit is not None:
            estimate = self.reserved
            self.reserved = min(self._context_length, prompt_tokens + limit)
            if self.reserved > estimate and self._room() < 0:
                # The engine would fail all sequences when its KV cache is full.
                full = "the engine has no memory left for this sequence"
                self.error = Unavailable(full, retry_after=1.0)
                return True
        self.sink(self.number, Piece())
        if self.is_cancelled:  # the rest of the prompt is never processed
            self._prompt_tokens = progress.processed
        return self.is_cancelled

    def ending(self) -> Ending:
        reason = self._reason
        if reason is None:
            if not self.is_cancelled:
                raise InferenceFailed("the engine stopped without a reason")
            reason = "cancelled"
        counts = (self._prompt_tokens, self._completion_tokens, self._cached_tokens)
        return Ending(reason, *counts, stop=self._stops.match if reason == "stop" else "")


def _start(name: str, parameters: Any, hook: Callable[[Any], None]) -> Any:
    """Starts the engine. Raises InvalidInput if it does not load the model."""
    # An abort of the engine would start a debugger, which delays the crash for seconds.
    os.putenv("GGML_NO_BACKTRACE", "1")
    before = _log_size()
    with _private_socket(parameters), _own_signals():
        try:
            server = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError, MemoryError) as wrong:
            raise InvalidInput(
                f"llama.cpp does not load {name}: {_logged_since(before) or wrong}"
            ) from None
        hook(parameters)
        return server


@contextlib.contextmanager
def _private_socket(parameters: Any) -> Iterator[None]:
    """The engine always starts an HTTP server. It gets a random key and a Unix socket in a private
    directory, which is removed before the model serves requests."""
    with tempfile.TemporaryDirectory(prefix="maas-llama-") as directory:
        parameters.hostnames = [str(Path(directory) / "unused.sock")]
        parameters.api_keys = [secrets.token_urlsafe(32)]
        parameters.cors_origins = ""
        yield


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Restores the handlers of SIGINT and SIGTERM, which the engine replaces: they drain the
    replica."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _log_size() -> int | None:
    """Size of stderr in bytes, if it is a file, as it is in a replica."""
    try:
        status = os.fstat(2)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _logged_since(size: int | None) -> str:
    """The last lines that the engine wrote to stderr, the only place for its reasons."""
    if size is None:
        return ""
    try:
        with Path("/dev/fd/2").open("rb") as stream:
            stream.seek(size)
            lines = stream.read(65_536).decode(errors="replace").splitlines()
    except OSError:
        return ""
    messages = [_LOG_PREFIX.sub("", line).strip() for line in lines]
    return "; ".join(filter(None, messages))[:500]


def _only_file(request: LoadRequest) -> tuple[str, Path]:
    if len(request.paths) != 1:
        raise InvalidInput(f"a GGUF variant has one file, not {len(request.paths)}")
    return next(iter(request.paths.items()))
