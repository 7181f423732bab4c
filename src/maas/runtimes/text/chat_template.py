"""Chat templates of a model, rendered where they can do no harm.

A template is a program of whoever published the model. It runs in Jinja's sandbox, so that it
reaches no Python object, and in a process of its own, with little memory and a clock that ends it,
so that it cannot loop for ever: a sandbox bounds neither. `python
-m maas.runtimes.text.chat_template`
is that process; it speaks JSON, one text a line.
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
"""Of the processor. A conversation that fills a large context needs a hundredth of it."""
PATIENCE_SECONDS = 30.0
"""With a process that got no processor, or was stopped; all prompts wait for it meanwhile."""
MAX_BYTES = 16 << 20
"""Of what a template may write."""
MAX_MEMORY = 1 << 30
_ENDS = "the model's chat template ends its own process"


class ChatTemplate:
    """A template, and the process that renders it."""

    def __init__(self, source: str, tokens: dict[str, str]) -> None:
        """`tokens` are the special tokens that templates name, for example `bos_token`.

        Raises InvalidInput if `source` is no template.
        """
        self._opening = msgspec.json.encode({"source": source, "tokens": tokens}) + b"\n"
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        with self._lock:
            self._started()

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The prompt for `messages`, in OpenAI's shape, up to where the answer begins.

        Raises InvalidInput if the template refuses them, or takes too much time or memory,
        Unavailable if its process gets no processor.
        """
        asked = {"messages": [_flat(message) for message in messages]}
        line = msgspec.json.encode(asked) + b"\n"
        with self._lock:
            try:
                told = self._ask(self._started(), line)
            except BrokenPipeError:  # it ended since it was last asked
                self._end()
                told = self._asked_anew(line)
        return str(told["text"])

    def _asked_anew(self, line: bytes) -> dict[str, Any]:
        try:
            return self._ask(self._started(), line)
        except BrokenPipeError:
            self._end()
            raise InvalidInput(_ENDS) from None

    def close(self) -> None:
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        worker = self._worker
        if worker is None:
            self._worker = worker = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            try:
                self._ask(worker, self._opening)
            except InvalidInput:
                self._end()
                raise
            except BrokenPipeError:
                self._end()
                raise InvalidInput(_ENDS) from None
        return worker

    def _ask(self, worker: subprocess.Popen[bytes], line: bytes) -> dict[str, Any]:
        """Raises BrokenPipeError if nobody reads what is asked."""
        answer, given_up = b"", threading.Event()

        def give_up() -> None:
            given_up.set()
            worker.kill()  # which ends the writing or reading below

        clock = threading.Timer(PATIENCE_SECONDS, give_up)
        clock.daemon = True
        clock.start()
        try:
            if worker.stdin is not None and worker.stdout is not None:
                worker.stdin.write(line)
                worker.stdin.flush()
                answer = worker.stdout.readline(2 * MAX_BYTES)
        except BrokenPipeError:
            if not given_up.is_set():
                raise
        finally:
            clock.cancel()
        if given_up.is_set():
            self._end()
            raise Unavailable("the process of the chat template does not answer", retry_after=1)
        if not answer.endswith(b"\n"):
            self._end()
            raise InvalidInput(
                f"the model's chat template took more than {RENDER_SECONDS:g} s or "
                f"{MAX_MEMORY >> 20} MiB for these messages",
                field="messages",
            )
        told: dict[str, Any] = msgspec.json.decode(answer)
        if "error" in told:
            raise InvalidInput(f"the model's chat template: {told['error']}", field="messages")
        return told

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
    """Text in parts as one text: most templates know no parts."""
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
        given = msgspec.json.decode(line) | opening["tokens"]
        _answer(lambda given=given: {"text": _rendered(template, given)})
    return 0


def _answer(work: Any) -> None:
    """Says what `work` gave, or its error. The clock's signal ends this process wherever it is."""
    signal.setitimer(signal.ITIMER_PROF, RENDER_SECONDS)
    try:
        told = work()
    except MemoryError:
        sys.exit(1)
    except Exception as wrong:  # noqa: BLE001 - a template may raise anything
        told = {"error": f"{type(wrong).__name__}: {wrong}"[:300]}
    signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
    sys.stdout.buffer.flush()


def _environment() -> Any:
    """As transformers renders templates: publishers write for that."""
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


def _rendered(template: Any, given: dict[str, Any]) -> str:
    parts, size = [], 0
    for part in template.generate(**given, add_generation_prompt=True):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise ValueError(f"it writes more than {MAX_BYTES} characters")
    return "".join(parts)


if __name__ == "__main__":
    sys.exit(main())
