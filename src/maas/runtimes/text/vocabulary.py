"""What a model's vocabulary says about texts before the engine reads them: how many tokens one has
at least, and which texts in a message would be read as a token that steers the model."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maas.domain.errors import ContextLengthExceeded, InvalidInput
from maas.domain.generation import Generation
from maas.domain.names import shown
from maas.runtimes.formats.gguf import GgufSummary
from maas.runtimes.formats.gguf_tokens import gguf_tokens

BREAK = "\u200b"
"""A zero-width space: put behind the first character of a token's text it keeps the text readable
and makes it no token."""

_LETTERS = bytes(b for b in range(128) if chr(b).isalnum())
_NO_LETTERS = bytes(b for b in range(256) if b not in _LETTERS)
_ASCII = bytes(range(128))
_STEER = (2, 3)
"""Types of tokens in GGUF: unknown and control."""
_LOOKS_LIKE_CONTROL = re.compile(
    rb"<(\||\xef\xbd\x9c)[^<>]+(\||\xef\xbd\x9c)>|<(start|end)_of_turn>|<EOT>|\[/?INST\]"
)
"""Files give turn markers the wrong type now and then; llama.cpp takes them for control tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one model."""

    control: tuple[str, ...] = ()
    """Texts of the tokens that steer the model, such as the ends of turns."""
    longest: tuple[int, int, int] = (0, 0, 0)
    """Most bytes, ASCII letters and digits, and bytes beyond ASCII that one token stands for; 0:
    not known."""
    openers: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    """The first characters of `control`, in UTF-8."""
    _control: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A look ahead, since one token's text may begin within another's.
        texts = "|".join(re.escape(text) for text in self.control if len(text) > 1)
        found = re.compile(f"(?=(?:{texts}))(.)", re.DOTALL) if texts else None
        object.__setattr__(self, "_control", found)
        firsts = {text[0].encode() for text in self.control if text}
        object.__setattr__(self, "openers", tuple(sorted(firsts)))

    @classmethod
    def of(cls, tokens: Iterable[bytes], control: Iterable[bytes]) -> Vocabulary:
        """`tokens`: all, or none if nothing is certain about how long one may become."""
        longest = [0, 0, 0]
        for token in tokens:
            longest = [max(pair) for pair in zip(longest, _measures(token), strict=True)]
        texts = {token.decode(errors="replace") for token in control}
        return cls(tuple(sorted(texts)), (longest[0], longest[1], longest[2]))

    def least_tokens(self, texts: Iterable[str]) -> int:
        """How many tokens `texts` have at least. Takes milliseconds where the engine's reading
        takes seconds."""
        totals = [0, 0, 0]
        for text in texts:
            for at, measure in enumerate(_measures(text.encode(errors="replace"))):
                totals[at] += measure
        return max(
            -(-total // most) if most else 0
            for total, most in zip(totals, self.longest, strict=True)
        )

    def checked(self, generation: Generation, context_length: int) -> Generation:
        """`generation` with messages that say nothing but what they say: no text in them is read
        as a token that steers the model. Prompts without messages stay as they are.

        Raises ContextLengthExceeded if it is certain that the context is too short.
        """
        least = self.least_tokens(_read_texts(generation))
        if least >= context_length:
            raise ContextLengthExceeded(
                f"the prompt has at least {least} tokens; this model reads and writes at most "
                f"{context_length} together",
                prompt_tokens=least,
                context_length=context_length,
            )
        if generation.response_format is not None:
            self._told(generation.response_format, "it", "response_format")
        if self._control is None or generation.messages is None:
            return generation
        messages = [self._message(message) for message in generation.messages]
        tools = [self._told(tool, "tools") for tool in generation.tools]
        if messages == generation.messages and tools == generation.tools:
            return generation
        return replace(generation, messages=messages, tools=tools)

    def content(self, text: str) -> str:
        """`text` with a BREAK in whatever would be read as a control token."""
        if self._control is None:
            return text
        return self._control.sub(rf"\1{BREAK}", text)

    def _value(self, value: Any) -> Any:
        """All texts of a JSON value."""
        if isinstance(value, str):
            return self.content(value)
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            return {self.content(name): self._value(item) for name, item in value.items()}
        return value

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        made = {self.content(name): self._value(value) for name, value in message.items()}
        for call in made.get("tool_calls") or []:
            function = call.get("function", {})
            arguments = function.get("arguments")
            if isinstance(arguments, str) and "\\" in arguments:
                # Templates print the value, in which escapes are characters.
                function["arguments"] = self._json(arguments)
        return made

    def _json(self, text: str) -> str:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        made = self._value(value)
        return text if made == value else json.dumps(made, ensure_ascii=False)

    def _told(self, value: Any, name: str, field: str = "tools", is_literal: bool = False) -> Any:
        """A part of a tool, or of another `field` with a schema. Descriptions are for reading; all
        else is also what an answer must match, and a BREAK in it would come back in the answer."""
        if isinstance(value, dict):
            for key in value:
                self._told(key, name, field)
            return {
                key: self.content(item)
                if not is_literal and key in ("description", "title") and isinstance(item, str)
                else self._told(
                    item,
                    key,
                    field,
                    is_literal or key == "const" or (key == "enum" and isinstance(item, list)),
                )
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._told(item, name, field, is_literal) for item in value]
        if isinstance(value, str) and self.content(value) != value:
            raise InvalidInput(
                f"{field}: {shown(name)} holds {shown(value)}, which this model would read as a "
                f"control token",
                field=field,
            )
        return value


def looks_like_control(token: bytes) -> bool:
    """Whether it steers the model whatever its file calls it: published tokenizers list such as
    DeepSeek's `<｜User｜>` as plain text, and read it as one token all the same."""
    return _LOOKS_LIKE_CONTROL.fullmatch(token) is not None


def _measures(text: bytes) -> tuple[int, int, int]:
    return len(text), len(text.translate(None, _NO_LETTERS)), len(text.translate(None, _ASCII))


def _read_texts(generation: Generation) -> Iterator[str]:
    """What of a generation the model certainly reads."""
    if isinstance(generation.prompt, str):
        yield generation.prompt
    for message in generation.messages or []:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str):
                continue
            # Templates leave out what an earlier answer thought.
            is_answer = message.get("role") == "assistant"
            yield text.rpartition("</think>")[2] if is_answer else text
        for call in message.get("tool_calls") or []:
            arguments = call.get("function", {}).get("arguments")
            if isinstance(arguments, str):
                yield arguments


def gguf_vocabulary(path: Path, summary: GgufSummary) -> Vocabulary:
    """Of a GGUF file whose header `check_gguf` found in order."""
    tokens = gguf_tokens(path, summary)
    types: Sequence[int] = ()
    if summary.token_types_at is not None and summary.token_types == len(tokens):
        with path.open("rb") as stream:
            stream.seek(summary.token_types_at)
            types = struct.unpack(f"<{len(tokens)}i", stream.read(4 * len(tokens)))
    control = [token for token, kind in zip(tokens, types, strict=False) if kind in _STEER]
    control += [token for token in tokens if looks_like_control(token)]
    # Other kinds of tokenizers make one token of any word that they do not know.
    return Vocabulary.of(tokens if summary.tokenizer in ("gpt2", "llama") else (), control)
