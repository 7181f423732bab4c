"""Checks of texts against a model's vocabulary, before they are tokenized: a lower bound of their
tokens, and texts in messages that would become control tokens."""

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
"""A zero-width space. After the first character of a token's text it leaves the text readable but
no longer that token."""

_LETTERS = bytes(b for b in range(128) if chr(b).isalnum())
_NO_LETTERS = bytes(b for b in range(256) if b not in _LETTERS)
_ASCII = bytes(range(128))
_CONTROL_TYPES = (2, 3)
"""Token types in GGUF: unknown and control."""
_LOOKS_LIKE_CONTROL = re.compile(
    rb"<(\||\xef\xbd\x9c)[^<>]+(\||\xef\xbd\x9c)>|<(start|end)_of_turn>|<EOT>|\[/?INST\]"
)
"""Turn markers have the wrong type in some files; llama.cpp treats these as control tokens, too."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one model."""

    control: tuple[str, ...] = ()
    """Texts of control tokens, such as the end of a turn."""
    longest: tuple[int, int, int] = (0, 0, 0)
    """Most bytes, ASCII letters and digits, and non-ASCII bytes of a token; 0 if unknown."""
    openers: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    """The first characters of `control`, in UTF-8."""
    _control: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A lookahead, since one token's text may begin within another's.
        texts = "|".join(re.escape(text) for text in self.control if len(text) > 1)
        pattern = re.compile(f"(?=(?:{texts}))(.)", re.DOTALL) if texts else None
        object.__setattr__(self, "_control", pattern)
        firsts = {text[0].encode() for text in self.control if text}
        object.__setattr__(self, "openers", tuple(sorted(firsts)))

    @classmethod
    def of(cls, tokens: Iterable[bytes], control: Iterable[bytes]) -> Vocabulary:
        """`tokens`: all of them, or none if there is no bound on the text of a token."""
        longest = [0, 0, 0]
        for token in tokens:
            longest = [max(pair) for pair in zip(longest, _measures(token), strict=True)]
        texts = {token.decode(errors="replace") for token in control}
        return cls(tuple(sorted(texts)), (longest[0], longest[1], longest[2]))

    def least_tokens(self, texts: Iterable[str]) -> int:
        """A lower bound of the tokens of `texts`; takes milliseconds where tokenizing takes
        seconds."""
        totals = [0, 0, 0]
        for text in texts:
            for at, measure in enumerate(_measures(text.encode(errors="replace"))):
                totals[at] += measure
        least = 0
        for total, most in zip(totals, self.longest, strict=True):
            if most:
                least = max(least, -(-total // most))
        return least

    def checked(self, generation: Generation, context_length: int) -> Generation:
        """`generation` with no control tokens in texts of its messages and tools. Plain prompts
        remain unchanged.

        Raises ContextLengthExceeded if the prompt certainly exceeds the context, and InvalidInput
        for a control token in a schema.
        """
        least = self.least_tokens(_prompt_texts(generation))
        if least >= context_length:
            raise ContextLengthExceeded(
                f"the prompt has at least {least} tokens; prompt and output of this model have at "
                f"most {context_length} together",
                prompt_tokens=least,
                context_length=context_length,
            )
        if generation.response_format is not None:
            self._schema(generation.response_format, "it", "response_format")
        if self._control is None or generation.messages is None:
            return generation
        messages = [self._message(message) for message in generation.messages]
        tools = [self._schema(tool, "tools") for tool in generation.tools]
        if messages == generation.messages and tools == generation.tools:
            return generation
        return replace(generation, messages=messages, tools=tools)

    def content(self, text: str) -> str:
        """`text` with a BREAK in everything that would become a control token."""
        if self._control is None:
            return text
        return self._control.sub(rf"\1{BREAK}", text)

    def _value(self, value: Any) -> Any:
        """A JSON value with `content` applied to all its texts."""
        if isinstance(value, str):
            return self.content(value)
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            return {self.content(name): self._value(item) for name, item in value.items()}
        return value

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        checked = {self.content(name): self._value(value) for name, value in message.items()}
        for call in checked.get("tool_calls") or []:
            function = call.get("function", {})
            arguments = function.get("arguments")
            if isinstance(arguments, str) and "\\" in arguments:
                # Templates print the parsed value, in which escapes are characters.
                function["arguments"] = self._json(arguments)
        return checked

    def _json(self, text: str) -> str:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        checked = self._value(value)
        return text if checked == value else json.dumps(checked, ensure_ascii=False)

    def _schema(self, value: Any, name: str, field: str = "tools", is_literal: bool = False) -> Any:
        """A part of a tool, or of another `field` with a schema. Only descriptions may change: all
        else is matched by the answer, which would contain the BREAK."""
        if isinstance(value, dict):
            checked = {}
            for key, item in value.items():
                self._schema(key, name, field)
                if not is_literal and key in ("description", "title") and isinstance(item, str):
                    checked[key] = self.content(item)
                    continue
                is_constant = key == "const" or (key == "enum" and isinstance(item, list))
                checked[key] = self._schema(item, key, field, is_literal or is_constant)
            return checked
        if isinstance(value, list):
            return [self._schema(item, name, field, is_literal) for item in value]
        if isinstance(value, str) and self.content(value) != value:
            raise InvalidInput(
                f"{field}: {shown(name)} contains {shown(value)}, which is a control token of this "
                "model",
                field=field,
            )
        return value


def looks_like_control(token: bytes) -> bool:
    """Whether a token is a control token even if its file declares it as plain text, as published
    tokenizers do for DeepSeek's `<｜User｜>`."""
    return _LOOKS_LIKE_CONTROL.fullmatch(token) is not None


def _measures(text: bytes) -> tuple[int, int, int]:
    return len(text), len(text.translate(None, _NO_LETTERS)), len(text.translate(None, _ASCII))


def _prompt_texts(generation: Generation) -> Iterator[str]:
    """Texts that are certainly part of the prompt."""
    if isinstance(generation.prompt, str):
        yield generation.prompt
    for message in generation.messages or []:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str):
                continue
            # Templates omit the reasoning of earlier answers.
            is_answer = message.get("role") == "assistant"
            yield text.rpartition("</think>")[2] if is_answer else text
        for call in message.get("tool_calls") or []:
            arguments = call.get("function", {}).get("arguments")
            if isinstance(arguments, str):
                yield arguments


def gguf_vocabulary(path: Path, summary: GgufSummary) -> Vocabulary:
    """The vocabulary of a GGUF file whose header `check_gguf` has accepted."""
    tokens = gguf_tokens(path, summary)
    types: Sequence[int] = ()
    if summary.token_types_at is not None and summary.token_types == len(tokens):
        with path.open("rb") as stream:
            stream.seek(summary.token_types_at)
            types = struct.unpack(f"<{len(tokens)}i", stream.read(4 * len(tokens)))
    control = [token for token, kind in zip(tokens, types, strict=False) if kind in _CONTROL_TYPES]
    control += [token for token in tokens if looks_like_control(token)]
    # Other kinds of tokenizers make one token of any unknown word.
    return Vocabulary.of(tokens if summary.tokenizer in ("gpt2", "llama") else (), control)
