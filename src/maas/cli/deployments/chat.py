"""maas chat: chat with a deployment that generates text."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas.cli.common import UsageError, client_of
from maas.cli.completion import DeploymentArgument
from maas.cli.output import notify, printable
from maas.domain.errors import MaasError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from maas.client.chat import ChatStream
    from maas.client.client import Client

HELP = """\
/clear starts a new conversation, /system TEXT sets the system message, /exit ends.
Ctrl-C stops an answer, Ctrl-D ends."""
MAX_TOKENS = 1024
"""Several screens of text. A model that repeats itself would generate until its context is full."""
MESSAGE_HELP = "Message to send (default: standard input, or a conversation if that is a terminal)."


def command(
    ctx: typer.Context,
    name: DeploymentArgument,
    message: Annotated[str | None, typer.Argument(metavar="MESSAGE", help=MESSAGE_HELP)] = None,
    system: Annotated[
        str | None, typer.Option(help="System message: how the model should behave.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum length of an answer in tokens.")
    ] = MAX_TOKENS,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature from 0 (always the most likely token) to 2 (default: the "
            "model's)."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the sampling; the same seed repeats an answer.")
    ] = None,
) -> None:
    """Chat with a model. Its answers are printed as they are generated."""
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    options = {key: value for key, value in sampling.items() if value is not None}
    conversation = Conversation(client_of(ctx), name, system, options)
    if message is None and sys.stdin.isatty():
        _converse(conversation)
        return
    text = message if message is not None else sys.stdin.read().strip()
    if not text:
        raise UsageError("the message is empty: give one as an argument or on standard input")
    _print(conversation.send(text))
    _notify_of_limit(conversation)


class Conversation:
    """The messages so far; all of them are sent for each answer."""

    def __init__(
        self, client: Client, name: str, system: str | None, options: dict[str, Any]
    ) -> None:
        self._client = client
        self._name = name
        self._options = options
        self._messages: list[dict[str, Any]] = []
        self.was_cut = False
        """Whether the last answer reached the limit of tokens."""
        self.instruct(system or "")

    def instruct(self, system: str) -> None:
        """Set the system message; an empty one removes it."""
        rest = [message for message in self._messages if message["role"] != "system"]
        first = [{"role": "system", "content": system}] if system else []
        self._messages = first + rest

    def clear(self) -> None:
        """Remove all messages except the system message."""
        self._messages = [message for message in self._messages if message["role"] == "system"]

    def send(self, text: str) -> Generator[str, None, None]:
        """Yield the answer to `text` while it is generated.

        The part of an answer that was interrupted stays in the conversation; a message whose
        answer failed does not.
        """
        messages = [*self._messages, {"role": "user", "content": text}]
        stream: ChatStream = self._client.chat(self._name, messages, stream=True, **self._options)
        try:
            with stream:
                yield from stream
        finally:
            self.was_cut = stream.answer.finish_reason == "length"
            if stream.answer.text:
                self._messages = [*messages, stream.answer.message]


def _converse(conversation: Conversation) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() line editing and a history
    notify(HELP)
    while True:
        try:
            text = input("> ").strip()
        except KeyboardInterrupt:
            notify("")
            continue
        except EOFError:
            notify("")
            return
        word, _, rest = text.partition(" ")
        if word in ("/exit", "/quit"):
            return
        if word == "/clear":
            conversation.clear()
        elif word == "/system":
            conversation.instruct(rest.strip())
        elif text.startswith("/"):
            notify(HELP)
        elif text:
            _answer(conversation, text)


def _answer(conversation: Conversation, text: str) -> None:
    """Print the answer or its error. Ctrl-C stops the answer, not the conversation."""
    pieces = conversation.send(text)
    try:
        _print(pieces)
        _notify_of_limit(conversation)
    except KeyboardInterrupt:
        notify("\n(stopped)")
    except MaasError as error:
        notify(f"error: {error.message}")
    finally:
        pieces.close()


def _notify_of_limit(conversation: Conversation) -> None:
    if conversation.was_cut:
        notify("(stopped at the limit of tokens; --max-tokens sets it)")


def _print(pieces: Iterator[str]) -> None:
    for piece in pieces:
        sys.stdout.write(printable(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")


def register(app: typer.Typer) -> None:
    app.command("chat")(command)
