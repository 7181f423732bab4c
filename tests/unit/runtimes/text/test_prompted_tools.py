"""Tool calls in the text of a model whose template does not support tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation
from maas.runtimes.text.prompted_tools import (
    CallReader,
    call_grammar,
    call_schema,
    chosen_tools,
    prompted_messages,
)

pytest.importorskip("llguidance", reason="needs the extra llm")

from maas.runtimes.schemas.ebnf import schema_grammar
from maas.runtimes.schemas.llguidance import json_grammar

GrammarOf = Callable[[dict[str, Any]], str]

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "other"}}
CALL = '{"name": "add", "arguments": {"a": {"b": 1}, "c": "}"}}'


def read(text: str, size: int) -> tuple[str, str, str]:
    """Plain text, name and arguments, of `text` in pieces of `size` characters."""
    reader = CallReader()
    parts = [reader.read(text[at : at + size]) for at in range(0, len(text), size)]
    parts.append(reader.read("", is_last=True))
    calls = [call for _, part_calls in parts for call in part_calls]
    assert all(call.index == 0 for call in calls) and sum(bool(call.id) for call in calls) <= 1
    return (
        "".join(plain for plain, _ in parts),
        "".join(call.name for call in calls),
        "".join(call.arguments for call in calls),
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_call_is_extracted_from_pieces_of_any_size(size: int) -> None:
    text, name, arguments = read(CALL, size)
    assert (text, name) == ("", "add")
    assert json.loads(arguments) == {"a": {"b": 1}, "c": "}"}
    assert json.loads(read("\n " + CALL + "\n", size)[2]) == {"a": {"b": 1}, "c": "}"}


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    "text", ["Hello {you}", '{"other": 1}', "{" + "x" * 900, "", '{"name": 5, "arguments": {}}']
)
def test_everything_else_is_text(text: str, size: int) -> None:
    assert read(text, size) == (text, "", "")


def test_text_that_cannot_be_a_call_is_emitted_at_once() -> None:
    reader = CallReader()
    assert reader.read("H") == ("H", [])
    assert reader.read('{"name"') == ('{"name"', [])


def test_a_named_function_is_the_only_one_and_required() -> None:
    named = {"type": "function", "function": {"name": "add"}}
    generation = Generation([], tools=[OTHER, TOOL], tool_choice=named)
    assert chosen_tools(generation) == ([TOOL], "required")
    assert chosen_tools(Generation([], tools=[TOOL])) == ([TOOL], "auto")
    with pytest.raises(InvalidInput, match="no function 'none'"):
        named = {"type": "function", "function": {"name": "none"}}
        chosen_tools(Generation([], tools=[TOOL], tool_choice=named))


def test_the_schema_of_a_call_has_the_name_and_the_parameters() -> None:
    schema = call_schema([TOOL])
    assert schema["properties"] == {"name": {"const": "add"}, "arguments": {"type": "object"}}
    assert [s["properties"]["name"] for s in call_schema([TOOL, OTHER])["anyOf"]] == [
        {"const": "add"},
        {"const": "other"},
    ]


COLOR = {"type": "string", "enum": ["r", "g"]}
TREE = {"type": "object", "properties": {"v": {"type": "boolean"}, "kids": {"type": "array",
        "maxItems": 1, "items": {"$ref": "#"}}}, "required": ["v", "kids"],
        "additionalProperties": False}  # fmt: skip
NESTED = {
    "$schema": "x",
    "$id": "http://x/",
    "type": "object",
    "properties": {
        "c": {"$ref": "#/$defs/C"},
        "d": {"$ref": "#/definitions/C"},
        "e": {"$ref": "#/properties/f"},
        "f": {"type": "null"},
        "g": {"const": {"$ref": "#"}},
    },
    "required": ["c"],
    "additionalProperties": False,
    "$defs": {"C": COLOR, "D": {"$ref": "#/$defs/C"}},
    "definitions": {"C": {"anyOf": [{"$ref": "#/$defs/D"}, {"type": "null"}]}},
}


def test_references_in_parameters_keep_their_targets() -> None:
    """Also if definitions of several tools have the same name."""
    other = {"type": "object", "properties": {"c": {"$ref": "#/$defs/C"}}, "required": ["c"],
             "$defs": {"C": {"type": "boolean"}}}  # fmt: skip
    parameters = {"tree": TREE, "nested": NESTED, "other": other}
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}}
             for name, schema in parameters.items()]  # fmt: skip
    cases: list[tuple[str, Any, bool]] = [
        ("tree", {"v": True, "kids": [{"v": False, "kids": []}]}, True),
        ("tree", {"v": True, "kids": [{"name": "tree", "arguments": {}}]}, False),
        ("nested", {"c": "r", "d": None, "e": None, "f": None, "g": {"$ref": "#"}}, True),
        ("nested", {"c": True}, False),
        ("nested", {"c": "g", "d": 1}, False),
        ("other", {"c": True}, True),
        ("other", {"c": "r"}, False),
    ]
    for schema in (call_schema(tools), *(call_schema([tool]) for tool in tools)):
        names = str(schema)
        for name, arguments, is_right in cases:
            if f"'const': '{name}'" in names:
                call = {"name": name, "arguments": arguments}
                assert jsonschema.Draft202012Validator(schema).is_valid(call) == is_right, call
    assert NESTED["$id"] and "tool0" not in str(TREE)


@pytest.mark.parametrize("grammar_of", [json_grammar, schema_grammar])
def test_calls_of_tools_with_references_have_a_grammar(grammar_of: GrammarOf) -> None:
    plain = {"type": "object", "properties": {"c": {"$ref": "#/$defs/C"}}, "required": ["c"],
             "additionalProperties": False, "$defs": {"C": COLOR}}  # fmt: skip
    for parameters in (plain, TREE):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        assert call_grammar([tool], grammar_of)


@pytest.mark.parametrize("grammar_of", [json_grammar, schema_grammar])
def test_parameters_that_cannot_be_enforced_are_an_error_of_tools(grammar_of: GrammarOf) -> None:
    """The request has no `response_format`."""
    broken = {"name": "add", "parameters": {"type": "no type"}}
    with pytest.raises(InvalidInput, match=r"^tools: this schema cannot be enforced") as error:
        call_grammar([{"type": "function", "function": broken}], grammar_of)
    assert error.value.details == {"field": "tools"}
    assert call_grammar([TOOL], grammar_of)


def test_functions_are_in_the_system_message_and_results_in_user_messages() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    history: list[dict[str, Any]] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    messages = prompted_messages(history, [TOOL])
    system = messages[0]["content"]
    assert system.startswith("Be kind.\n\n") and '"add"' in system
    assert messages[2] == {"role": "assistant", "content": '{"name": "add", "arguments": "{}"}'}
    assert messages[3] == {"role": "user", "content": "The function answered: 2"}
    assert prompted_messages(history[1:2], [TOOL])[0]["role"] == "system"
    assert prompted_messages(history[:2], []) == history[:2]


@pytest.mark.parametrize("name", [r"\d", r"\ud800", "a\nb"])
def test_an_invalid_name_makes_no_call(name: str) -> None:
    """An exception here would end all sequences of the engine."""
    text = f'{{"name": "{name}", "arguments": {{}}}}'
    for size in (1, 7, len(text)):
        assert read(text, size) == (text, "", "")


def test_many_blanks_do_not_take_long() -> None:
    """With cubic time in their number, this would not end."""
    blanks = " " * 20_000
    text, name, arguments = read('{"name": "f", "arguments": ["' + blanks + '"]}', 50_000)
    assert (text, name) == ("", "f") and len(arguments) == len(blanks) + 4
