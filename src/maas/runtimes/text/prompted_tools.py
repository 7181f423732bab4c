"""Tools for models whose chat template knows none.

The functions are told as a system message, and a call is a JSON object with `name` and
`arguments`. If the caller must get a call, a grammar makes sure of it; otherwise what begins like
a call is taken for one. Histories with calls and results become plain messages.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.generation import Generation, ToolCallPiece
from maas.runtimes.schemas.keywords import each_schema

_TOLD = (
    "You may call one of these functions, given as JSON:\n{functions}\n"
    'To call one, answer with nothing but {{"name": its name, "arguments": its arguments as an '
    "object}}."
)
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')
_LONGEST_HEAD = 400
"""Characters after which what has not become a call is text."""


def chosen_tools(generation: Generation) -> tuple[list[dict[str, Any]], str]:
    """The functions that may be called, and `auto`, `none` or `required`: a caller who names one
    gets that one only, and must get it. Raises InvalidInput if there is none of that name."""
    choice = generation.tool_choice
    if not isinstance(choice, dict):
        return generation.tools, choice or "auto"
    name = choice.get("function", {}).get("name")
    named = [tool for tool in generation.tools if _function(tool).get("name") == name]
    if not named:
        raise InvalidInput(f"tool_choice: there is no function {name!r}", field="tool_choice")
    return named, "required"


def call_schema(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """A JSON schema for a call of one of `tools`."""
    calls = []
    definitions: dict[str, dict[str, Any]] = {}
    for at, tool in enumerate(tools):
        function = _function(tool)
        arguments = function.get("parameters") or {"type": "object"}
        if "$ref" in json.dumps(arguments):
            arguments = _moved(arguments, f"tool{at}", definitions)
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function.get("name")}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return (calls[0] if len(calls) == 1 else {"anyOf": calls}) | definitions


def _moved(
    parameters: dict[str, Any], name: str, definitions: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A reference to `parameters` as the definition `name`, beside which theirs come into
    `definitions`, so that `#` and what is below it mean what they did."""
    places = ("$defs", "definitions")

    def moved(part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
            return part
        for place in places:
            if reference.startswith(f"#/{place}/"):
                rest = reference.removeprefix(f"#/{place}/")
                return part | {"$ref": f"#/{place}/{name}.{rest}"}
        return part | {"$ref": f"#/$defs/{name}{reference.removeprefix('#')}"}

    whole = each_schema(parameters, moved)
    for place in places:
        own = whole.pop(place, {})
        if isinstance(own, dict):
            into = definitions.setdefault(place, {})
            into |= {f"{name}.{key}": value for key, value in own.items()}
    # In a part of a schema these would be the beginning of another one.
    kept = {key: value for key, value in whole.items() if key not in ("$id", "id", "$schema")}
    definitions.setdefault("$defs", {})[name] = kept
    return {"$ref": f"#/$defs/{name}"}


def call_grammar(tools: list[dict[str, Any]], grammar_of: Callable[[dict[str, Any]], str]) -> str:
    """`grammar_of` a response format, for a call of one of `tools`; raises InvalidInput."""
    try:
        return grammar_of({"type": "json_schema", "schema": call_schema(tools)})
    except InvalidInput as wrong:
        # The caller asked for no format.
        told = wrong.message.removeprefix("response_format: ")
        raise InvalidInput(f"tools: {told}", field="tools") from None


def told_messages(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """`messages` in words that every template knows, with `tools` in the system message."""
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    functions = "\n".join(json.dumps(_function(tool)) for tool in tools)
    told = _TOLD.format(functions=functions)
    if plain and plain[0].get("role") == "system" and isinstance(plain[0].get("content"), str):
        return [plain[0] | {"content": f"{plain[0]['content']}\n\n{told}"}, *plain[1:]]
    return [{"role": "system", "content": told}, *plain]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message.get("role") == "tool":
        return {"role": "user", "content": f"The function answered: {message.get('content')}"}
    if message.get("tool_calls"):
        calls = [_function(call) for call in message["tool_calls"]]
        return {"role": "assistant", "content": "\n".join(json.dumps(call) for call in calls)}
    return message


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, dict) else {}


class CallReader:
    """Takes a call out of text that comes in pieces.

    Before stop texts are looked for: they end what is said to the caller, and do not cut the
    arguments of a call, which half are of no use.
    """

    def __init__(self) -> None:
        self.is_call: bool | None = None
        """None while it may become either."""
        self._held = ""

    def read(self, text: str, is_last: bool = False) -> tuple[str, list[ToolCallPiece]]:
        """What is text, and what is of a call, of all that has come so far and was not told.

        The last brace closes the call, not its arguments.
        """
        said, calls = self._read(text) if text else ("", [])
        if not is_last:
            return said, calls
        held, self._held = self._held, ""
        if not self.is_call:
            return said + held, calls
        fragment = held.rstrip().removesuffix("}").rstrip()
        return said, [*calls, ToolCallPiece(0, arguments=fragment)] if fragment else calls

    def _read(self, text: str) -> tuple[str, list[ToolCallPiece]]:
        if self.is_call is False:
            return text, []
        self._held += text
        if self.is_call is None:
            head = _HEAD.match(self._held)
            if head is None:
                return self._still_open(), []
            name = _name(head[1])
            if name is None:
                return self._no_call(), []
            self.is_call = True
            self._held = self._held[head.end() :]
            call_id = f"call_{secrets.token_hex(12)}"
            return "", [ToolCallPiece(0, call_id, name), *self._arguments()]
        return "", self._arguments()

    def _still_open(self) -> str:
        start = self._held.lstrip()[:1]
        if start not in ("", "{") or len(self._held) > _LONGEST_HEAD:
            return self._no_call()
        return ""

    def _no_call(self) -> str:
        self.is_call = False
        text, self._held = self._held, ""
        return text

    def _arguments(self) -> list[ToolCallPiece]:
        """All but what may be the call's own closing brace, with the blanks around it."""
        end = len(self._held.rstrip().removesuffix("}").rstrip())
        told, self._held = self._held[:end], self._held[end:]
        return [ToolCallPiece(0, arguments=told)] if told else []


def _name(written: str) -> str | None:
    """Of a function, as the model wrote it; None if that is no JSON, or no text."""
    try:
        name: str = json.loads(written)
        name.encode()
    except ValueError:
        return None
    return name
