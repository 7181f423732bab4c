"""Chat templates of models, rendered in a sandboxed process.

A template is a program by the publisher of the model. Jinja's sandbox keeps it from Python objects
but limits neither time nor memory, so it runs in a process of its own with limits for both.
`python -m maas.runtimes.text.chat_template` is that process; it reads and writes lines of JSON.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from maas.domain.errors import InvalidInput, Unavailable

RENDER_SECONDS = 2.0
"""CPU time per rendering. A conversation that fills a large context needs a hundredth of it."""
ANSWER_TIMEOUT_SECONDS = 30.0
"""Timeout for a process that gets no CPU, or was stopped; all prompts wait for it meanwhile."""
MAX_BYTES = 16 << 20
"""Largest prompt that a template may render."""
MAX_MEMORY = 1 << 30
_EXITS = "the model's chat template ends its own process"


class ChatTemplate:
    """A template, and the process that renders it."""

    def __init__(self, source: str, tokens: dict[str, str]) -> None:
        """`tokens`: special tokens by the names that templates use, such as `bos_token`.

        Raises InvalidInput if `source` is not a template.
        """
        self._opening = msgspec.json.encode({"source": source, "tokens": tokens}) + b"\n"
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        with self._lock:
            self._running_worker()

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The prompt for `messages`, in OpenAI's format, up to the start of the answer.

        Raises InvalidInput if the template rejects them, or needs too much time or memory, and
        Unavailable if its process gets no CPU.
        """
        request = {"messages": [_flat(message) for message in messages]}
        line = msgspec.json.encode(request) + b"\n"
        with self._lock:
            try:
                answer = self._exchange(self._running_worker(), line)
            except BrokenPipeError:  # it exited since the last request
                self._end()
                answer = self._retry(line)
        return str(answer["text"])

    def _retry(self, line: bytes) -> dict[str, Any]:
        try:
            return self._exchange(self._running_worker(), line)
        except BrokenPipeError:
            self._end()
            raise InvalidInput(_EXITS) from None

    def close(self) -> None:
        with self._lock:
            self._end()

    def _running_worker(self) -> subprocess.Popen[bytes]:
        worker = self._worker
        if worker is None:
            self._worker = worker = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            try:
                self._exchange(worker, self._opening)
            except InvalidInput:
                self._end()
                raise
            except BrokenPipeError:
                self._end()
                raise InvalidInput(_EXITS) from None
        return worker

    def _exchange(self, worker: subprocess.Popen[bytes], line: bytes) -> dict[str, Any]:
        """Sends a request and returns the answer. Raises BrokenPipeError if the worker exited."""
        data, is_late = b"", threading.Event()

        def time_out() -> None:
            is_late.set()
            worker.kill()  # ends the write or read below

        clock = threading.Timer(ANSWER_TIMEOUT_SECONDS, time_out)
        clock.daemon = True
        clock.start()
        try:
            if worker.stdin is not None and worker.stdout is not None:
                worker.stdin.write(line)
                worker.stdin.flush()
                data = worker.stdout.readline(2 * MAX_BYTES)
        except BrokenPipeError:
            if not is_late.is_set():
                raise
        finally:
            clock.cancel()
        if is_late.is_set():
            self._end()
            raise Unavailable("the process of the chat template does not answer", retry_after=1)
        if not data.endswith(b"\n"):
            self._end()
            raise InvalidInput(
                f"the model's chat template took more than {RENDER_SECONDS:g} s or "
                f"{MAX_MEMORY >> 20} MiB for these messages",
                field="messages",
            )
        answer: dict[str, Any] = msgspec.json.decode(data)
        if "error" in answer:
            raise InvalidInput(f"the model's chat template: {answer['error']}", field="messages")
        return answer

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def _flat(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its parts joined to one text: most templates do not support parts."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    texts = []
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise InvalidInput("messages: this engine reads text only", field="messages")
        texts.append(part["text"])
    return message | {"content": "\n".join(texts)}


# -- in the process of its own ---------------------------------------------------------------


def main() -> int:
    """Renders a template for each line of stdin, in a process with little memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    opening = msgspec.json.decode(sys.stdin.buffer.readline())
    environment = _environment()
    template: Any = None

    def compiled() -> dict[str, Any]:
        nonlocal template
        template = environment.from_string(opening["source"])
        return {}

    _answer(compiled)
    for line in sys.stdin.buffer:
        variables = msgspec.json.decode(line) | opening["tokens"]
        _answer(lambda variables=variables: {"text": _rendered(template, variables)})
    return 0


def _answer(work: Any) -> None:
    """Writes the result of `work`, or its error. The timer's signal ends the process anywhere."""
    signal.setitimer(signal.ITIMER_PROF, RENDER_SECONDS)
    try:
        answer = work()
    except MemoryError:
        sys.exit(1)
    except Exception as wrong:  # noqa: BLE001 - a template may raise anything
        answer = {"error": f"{type(wrong).__name__}: {wrong}"[:300]}
    signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


def _environment() -> Any:
    """The environment of the transformers library, which publishers write templates for."""
    from jinja2.exceptions import TemplateError  # noqa: PLC0415 - only in the process of its own
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    def raise_exception(message: object) -> None:
        raise TemplateError(str(message))

    def tojson(value: object, indent: int | None = None, **_: object) -> str:
        text = msgspec.json.encode(value)
        return (msgspec.json.format(text, indent=indent) if indent else text).decode()

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(str(layout))
    return environment


def _rendered(template: Any, variables: dict[str, Any]) -> str:
    parts, size = [], 0
    for part in template.generate(**variables, add_generation_prompt=True):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise ValueError(f"the prompt has more than {MAX_BYTES} characters")
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
