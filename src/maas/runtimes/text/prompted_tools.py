"""Tools for models whose chat template does not support them.

The system message describes the functions, and a call is a JSON object with `name` and
`arguments`. If the caller requires a call, a grammar enforces it; otherwise text that begins like a
call is one. Calls and results in the history become plain messages.
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

_INSTRUCTIONS = (
    "You may call one of these functions, given as JSON:\n{functions}\n"
    'To call one, answer with nothing but {{"name": its name, "arguments": its arguments as an '
    "object}}."
)
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')
_LONGEST_HEAD = 400
"""Characters after which text that has not become a call stays text."""


def chosen_tools(generation: Generation) -> tuple[list[dict[str, Any]], str]:
    """The functions that may be called, and `auto`, `none` or `required`.

    A caller that names a function requires a call of that one. Raises InvalidInput if there is no
    such function.
    """
    choice = generation.tool_choice
    if not isinstance(choice, dict):
        return generation.tools, choice or "auto"
    name = choice.get("function", {}).get("name")
    tools = [tool for tool in generation.tools if _function(tool).get("name") == name]
    if not tools:
        raise InvalidInput(f"tool_choice: there is no function {name!r}", field="tool_choice")
    return tools, "required"


def call_schema(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """A JSON Schema for a call of one of `tools`."""
    calls = []
    definitions: dict[str, dict[str, Any]] = {}
    for at, tool in enumerate(tools):
        function = _function(tool)
        arguments = function.get("parameters") or {"type": "object"}
        if "$ref" in json.dumps(arguments):
            arguments = _as_definition(arguments, f"tool{at}", definitions)
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function.get("name")}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return (calls[0] if len(calls) == 1 else {"anyOf": calls}) | definitions


def _as_definition(
    parameters: dict[str, Any], name: str, definitions: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Moves `parameters` to the definition `name` and returns a reference to it.

    Their own definitions move to `definitions` beside it, and references are adjusted, so that `#`
    and paths below it keep their targets.
    """
    places = ("$defs", "definitions")

    def adjusted(part: dict[str, Any]) -> dict[str, Any]:
        reference = part.get("$ref")
        if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
            return part
        for place in places:
            if reference.startswith(f"#/{place}/"):
                rest = reference.removeprefix(f"#/{place}/")
                return part | {"$ref": f"#/{place}/{name}.{rest}"}
        return part | {"$ref": f"#/$defs/{name}{reference.removeprefix('#')}"}

    schema = each_schema(parameters, adjusted)
    for place in places:
        own = schema.pop(place, {})
        if isinstance(own, dict):
            target = definitions.setdefault(place, {})
            target |= {f"{name}.{key}": value for key, value in own.items()}
    for key in ("$id", "id", "$schema"):  # would begin another schema within this one
        schema.pop(key, None)
    definitions.setdefault("$defs", {})[name] = schema
    return {"$ref": f"#/$defs/{name}"}


def call_grammar(tools: list[dict[str, Any]], grammar_of: Callable[[dict[str, Any]], str]) -> str:
    """`grammar_of` a response format that is a call of one of `tools`. Raises InvalidInput."""
    try:
        return grammar_of({"type": "json_schema", "schema": call_schema(tools)})
    except InvalidInput as wrong:
        # The request has tools and no response format.
        message = wrong.message.removeprefix("response_format: ")
        raise InvalidInput(f"tools: {message}", field="tools") from None


def prompted_messages(
    messages: list[dict[str, Any]], tools: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """`messages` in a form that every template supports, with `tools` in the system message."""
    plain = [_plain(message) for message in messages]
    if not tools:
        return plain
    functions = "\n".join(json.dumps(_function(tool)) for tool in tools)
    instructions = _INSTRUCTIONS.format(functions=functions)
    if plain and plain[0].get("role") == "system" and isinstance(plain[0].get("content"), str):
        return [plain[0] | {"content": f"{plain[0]['content']}\n\n{instructions}"}, *plain[1:]]
    return [{"role": "system", "content": instructions}, *plain]


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
    """Extracts a tool call from streamed text.

    It runs before stop sequences are matched: those end the text for the caller, and must not cut
    the arguments of a call, which are useless in part.
    """

    def __init__(self) -> None:
        self.is_call: bool | None = None
        """None while the text may still become a call."""
        self._pending = ""

    def read(self, text: str, is_last: bool = False) -> tuple[str, list[ToolCallPiece]]:
        """The text and the pieces of a call that can be emitted once `text` is added.

        The last brace closes the call, not its arguments.
        """
        plain, calls = self._read(text) if text else ("", [])
        if not is_last:
            return plain, calls
        rest, self._pending = self._pending, ""
        if not self.is_call:
            return plain + rest, calls
        fragment = rest.rstrip().removesuffix("}").rstrip()
        return plain, [*calls, ToolCallPiece(0, arguments=fragment)] if fragment else calls

    def _read(self, text: str) -> tuple[str, list[ToolCallPiece]]:
        if self.is_call is False:
            return text, []
        self._pending += text
        if self.is_call is None:
            head = _HEAD.match(self._pending)
            if head is None:
                return self._undecided_text(), []
            name = _parsed_name(head[1])
            if name is None:
                return self._all_as_text(), []
            self.is_call = True
            self._pending = self._pending[head.end() :]
            call_id = f"call_{secrets.token_hex(12)}"
            return "", [ToolCallPiece(0, call_id, name), *self._arguments()]
        return "", self._arguments()

    def _undecided_text(self) -> str:
        start = self._pending.lstrip()[:1]
        if start not in ("", "{") or len(self._pending) > _LONGEST_HEAD:
            return self._all_as_text()
        return ""

    def _all_as_text(self) -> str:
        self.is_call = False
        text, self._pending = self._pending, ""
        return text

    def _arguments(self) -> list[ToolCallPiece]:
        """All but the part that may be the closing brace of the call and the blanks around it."""
        end = len(self._pending.rstrip().removesuffix("}").rstrip())
        arguments, self._pending = self._pending[:end], self._pending[end:]
        return [ToolCallPiece(0, arguments=arguments)] if arguments else []


def _parsed_name(literal: str) -> str | None:
    """A function's name from its JSON literal; None if that is invalid."""
    try:
        name: str = json.loads(literal)
        name.encode()
    except ValueError:
        return None
    return name
