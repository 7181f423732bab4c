"""Messages that would steer the model, and prompts that are certainly too long."""

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


def test_contents_are_no_control_tokens_and_others_stay() -> None:
    said = MODEL.checked(messages("a<|end|>b", "x <a<b> y"), 100).messages
    assert said is not None
    assert [m["content"] for m in said] == [f"a<{BREAK}|end|>b", f"x <{BREAK}a<{BREAK}b> y"]
    for plain in (messages("a <| end |>, b > <c"), Generation(prompt="<|end|>")):
        assert MODEL.checked(plain, 100) is plain
    assert Vocabulary().checked(messages("<|end|>"), 100) == messages("<|end|>")


def test_names_and_arguments_of_calls_are_contents_too() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"q": "\\u003c|end|>"}'}}
    given = messages("", role="assistant", name="<|end|>", tool_calls=[call])
    (said,) = MODEL.checked(given, 100).messages or []
    assert said["name"] == f"<{BREAK}|end|>"
    assert said["tool_calls"][0]["function"]["arguments"] == f'{{"q": "<{BREAK}|end|>"}}'
    assert given.messages is not None and given.messages[0]["tool_calls"] == [call]


def test_a_tool_is_described_as_content_and_must_not_be_called_a_control_token() -> None:
    described: dict[str, Any] = {"name": "f", "description": "<|end|>", "parameters": {}}
    asked = replace(messages("a"), tools=[{"type": "function", "function": described}])
    (tool,) = MODEL.checked(asked, 100).tools
    assert tool["function"]["description"] == f"<{BREAK}|end|>"
    bad_ones: list[dict[str, Any]] = [{"properties": {"<|end|>": {}}}, {"enum": ["<|end|>"]}]
    for parameters in bad_ones:
        bad = {"type": "function", "function": described | {"parameters": parameters}}
        with pytest.raises(InvalidInput, match=r"'<\|end\|>', which this model would read"):
            MODEL.checked(replace(asked, tools=[bad]), 100)


def test_what_a_text_may_need_counts_its_breaks() -> None:
    asked = replace(messages("<b>" * 500), max_tokens=1)
    (said,) = MODEL.checked(asked, 10_000).messages or []
    most = most_tokens(asked, 10_000, MODEL.openers)
    assert len(said["content"].encode()) == 3000 < most < 3000 + 1200
    assert most_tokens(asked, 10_000) < 3000


@pytest.mark.parametrize(
    ("text", "least"),
    [("a" * 90, 30), ("/" * 80, 10), (" " * 80, 10), ("\u00e9" * 10, 10), ("<|end|>" * 10, 10)],
)
def test_a_text_has_no_fewer_tokens_than_its_letters_need(text: str, least: int) -> None:
    with pytest.raises(ContextLengthExceeded, match=f"at least {least} tokens") as refused:
        MODEL.checked(messages(text[:-1], text[-1:]), least)
    assert refused.value.details == {"prompt_tokens": least, "context_length": least}
    assert MODEL.checked(Generation(prompt=text), least + 1).prompt == text


def test_what_an_answer_thought_may_be_left_out_by_its_template() -> None:
    MODEL.checked(messages("<think>" + "a" * 900 + "</think>a", role="assistant"), 10)
