"""maas chat: talk with a deployment that writes text."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import client_of, printable, say
from maas.domain.errors import InvalidInput, MaasError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from maas.client.chat import ChatStream
    from maas.client.client import Client

HELP = """\
/clear forgets what was said, /system TEXT tells the model how to behave, /exit ends.
Ctrl-C stops an answer, Ctrl-D ends."""
MAX_TOKENS = 1024
"""Several screens full. A model that repeats itself would write until its context is full."""
MESSAGE_HELP = "What to say; without it, standard input, or a conversation in a terminal."


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Deployment.")],
    message: Annotated[str | None, typer.Argument(help=MESSAGE_HELP)] = None,
    system: Annotated[str | None, typer.Option(help="How the model shall behave.")] = None,
    max_tokens: Annotated[
        int, typer.Option(help="Longest answer, in tokens; models may repeat themselves for ever.")
    ] = MAX_TOKENS,
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the likeliest; up to 2.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same answer.")] = None,
) -> None:
    """Talk with a model: answers appear while they are written."""
    asked = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    options = {key: value for key, value in asked.items() if value is not None}
    conversation = Conversation(client_of(ctx), name, system, options)
    if message is None and sys.stdin.isatty():
        _talk(conversation)
        return
    text = message if message is not None else sys.stdin.read().strip()
    if not text:
        raise InvalidInput("there is nothing to say: give a message, or pipe one in")
    _print(conversation.say(text))
    _tell_cut(conversation)


class Conversation:
    """What was said so far; each answer sees all of it."""

    def __init__(
        self, client: Client, name: str, system: str | None, options: dict[str, Any]
    ) -> None:
        self._client = client
        self._name = name
        self._options = options
        self._messages: list[dict[str, Any]] = []
        self.was_cut = False
        """Whether the latest answer had to end before its model ended it."""
        self.instruct(system or "")

    def instruct(self, system: str) -> None:
        """How the model shall behave from now on; "" takes it back."""
        kept = [message for message in self._messages if message["role"] != "system"]
        first = [{"role": "system", "content": system}] if system else []
        self._messages = first + kept

    def clear(self) -> None:
        """Forget all but how the model shall behave."""
        self._messages = [message for message in self._messages if message["role"] == "system"]

    def say(self, text: str) -> Generator[str, None, None]:
        """The answer to `text` while it is written. An answer that was stopped stays as far as it
        came; a question that failed is forgotten."""
        asked = [*self._messages, {"role": "user", "content": text}]
        stream: ChatStream = self._client.chat(self._name, asked, stream=True, **self._options)
        try:
            with stream:
                yield from stream
        finally:
            self.was_cut = stream.answer.finish_reason == "length"
            if stream.answer.text:
                self._messages = [*asked, stream.answer.message]


def _talk(conversation: Conversation) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - from here on lines can be edited and had again
    say(HELP)
    while True:
        try:
            text = input("> ").strip()
        except KeyboardInterrupt:
            say("")
            continue
        except EOFError:
            say("")
            return
        word, _, rest = text.partition(" ")
        if word in ("/exit", "/quit"):
            return
        if word == "/clear":
            conversation.clear()
        elif word == "/system":
            conversation.instruct(rest.strip())
        elif text.startswith("/"):
            say(HELP)
        elif text:
            _answer(conversation, text)


def _answer(conversation: Conversation, text: str) -> None:
    """Print the answer, or what went wrong; Ctrl-C ends it and nothing else."""
    pieces = conversation.say(text)
    try:
        _print(pieces)
        _tell_cut(conversation)
    except KeyboardInterrupt:
        say("\n(stopped)")
    except MaasError as error:
        say(error.message)
    finally:
        pieces.close()


def _tell_cut(conversation: Conversation) -> None:
    if conversation.was_cut:
        say("(cut off; --max-tokens allows longer answers)")


def _print(pieces: Iterator[str]) -> None:
    for piece in pieces:
        sys.stdout.write(printable(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")


def register(app: typer.Typer) -> None:
    app.command("chat")(command)
