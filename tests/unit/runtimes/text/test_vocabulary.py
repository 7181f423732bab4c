"""Messages with control tokens, and prompts that are certainly too long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from maas.domain.errors import ContextLengthExceeded, InvalidInput
from maas.domain.generation import Generation
from maas.runtimes.text.options import most_tokens
from maas.runtimes.text.vocabulary import BREAK, Vocabulary

TOKENS = [b"a", b"ab", b" abc", b"        ", b"/", "\u00e9".encode(), b"<|end|>", b"<a<b>", b"<b>"]
MODEL = Vocabulary.of(TOKENS, TOKENS[-3:])


def messages(*contents: str, role: str = "user", **fields: Any) -> Generation:
    return Generation([{"role": role, "content": text} | fields for text in contents])


def test_contents_have_no_control_tokens_and_other_texts_are_unchanged() -> None:
    checked = MODEL.checked(messages("a<|end|>b", "x <a<b> y"), 100).messages
    assert checked is not None
    assert [m["content"] for m in checked] == [f"a<{BREAK}|end|>b", f"x <{BREAK}a<{BREAK}b> y"]
    for plain in (messages("a <| end |>, b > <c"), Generation(prompt="<|end|>")):
        assert MODEL.checked(plain, 100) is plain
    assert Vocabulary().checked(messages("<|end|>"), 100) == messages("<|end|>")


def test_names_and_arguments_of_calls_are_checked_as_contents() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"q": "\\u003c|end|>"}'}}
    generation = messages("", role="assistant", name="<|end|>", tool_calls=[call])
    (checked,) = MODEL.checked(generation, 100).messages or []
    assert checked["name"] == f"<{BREAK}|end|>"
    assert checked["tool_calls"][0]["function"]["arguments"] == f'{{"q": "<{BREAK}|end|>"}}'
    assert generation.messages is not None
    assert generation.messages[0]["tool_calls"] == [call]


def test_descriptions_of_tools_are_checked_and_names_in_them_refused() -> None:
    described: dict[str, Any] = {"name": "f", "description": "<|end|>", "parameters": {}}
    generation = replace(messages("a"), tools=[{"type": "function", "function": described}])
    (tool,) = MODEL.checked(generation, 100).tools
    assert tool["function"]["description"] == f"<{BREAK}|end|>"
    bad_ones: list[dict[str, Any]] = [{"properties": {"<|end|>": {}}}, {"enum": ["<|end|>"]}]
    for parameters in bad_ones:
        bad = {"type": "function", "function": described | {"parameters": parameters}}
        with pytest.raises(InvalidInput, match=r"'<\|end\|>', which is a control token"):
            MODEL.checked(replace(generation, tools=[bad]), 100)


def test_the_upper_bound_of_tokens_includes_breaks() -> None:
    generation = replace(messages("<b>" * 500), max_tokens=1)
    (checked,) = MODEL.checked(generation, 10_000).messages or []
    most = most_tokens(generation, 10_000, MODEL.openers)
    assert len(checked["content"].encode()) == 3000 < most < 3000 + 1200
    assert most_tokens(generation, 10_000) < 3000


@pytest.mark.parametrize(
    ("text", "least"),
    [("a" * 90, 30), ("/" * 80, 10), (" " * 80, 10), ("\u00e9" * 10, 10), ("<|end|>" * 10, 10)],
)
def test_the_lower_bound_of_tokens_follows_from_the_longest_tokens(text: str, least: int) -> None:
    with pytest.raises(ContextLengthExceeded, match=f"at least {least} tokens") as error:
        MODEL.checked(messages(text[:-1], text[-1:]), least)
    assert error.value.details == {"prompt_tokens": least, "context_length": least}
    assert MODEL.checked(Generation(prompt=text), least + 1).prompt == text


def test_reasoning_of_earlier_answers_does_not_count() -> None:
    MODEL.checked(messages("<think>" + "a" * 900 + "</think>a", role="assistant"), 10)
