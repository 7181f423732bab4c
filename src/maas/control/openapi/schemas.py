"""Schemas of the OpenAPI document, derived from the types of requests and answers."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import msgspec

from maas.control.openapi import answers
from maas.protocols import (
    anthropic,
    audio,
    embeddings,
    oip,
    openai_requests,
    openai_responses,
    rerank,
)

Schema = dict[str, Any]

_TYPES = (
    openai_requests.ChatRequest,
    openai_requests.CompletionRequest,
    openai_responses.ChatCompletion,
    openai_responses.Completion,
    openai_responses.OpenAIModelList,
    openai_responses.OpenAIError,
    anthropic.MessagesRequest,
    anthropic.MessagesAnswer,
    anthropic.CountRequest,
    anthropic.CountedTokens,
    anthropic.AnthropicError,
    embeddings.EmbeddingRequest,
    embeddings.EmbeddingList,
    rerank.RerankRequest,
    rerank.RerankResults,
    audio.SpeechForm,
    audio.Transcription,
)
"""Messages of the gateway; the types of their fields are found through them."""

_ROWS: Schema = {"type": "object", "additionalProperties": True}
_FREE_FORM: dict[str, Schema] = {
    "Inputs": _ROWS
    | {
        "description": "A value per input of the signature: one row in its shape, or a list of "
        "rows; all agree",
        "examples": [{"x": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}],
    },
    "Outputs": _ROWS
    | {
        "description": "A value per output of the signature: for one row its value, for a list of "
        "rows a list; a shape of [1] is a plain number",
        "examples": [{"y_pred": 0.5}],
    },
    "PredictForm": _ROWS
    | {
        "description": "A field per input of the signature: a file or text for BYTES, JSON for "
        "others; a name that comes several times is a list of rows",
    },
}
"""Bodies whose fields depend on a model's signature."""


def component_schemas() -> dict[str, Schema]:
    """By name, the schemas of all messages but control's requests, which FastAPI derives."""
    types = [*_TYPES, *_structs(oip), *_structs(answers)]
    _, derived = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas: dict[str, Schema] = _tidied(derived) | _FREE_FORM
    schemas["Problem"]["additionalProperties"] = True
    return schemas


def _structs(module: ModuleType) -> list[type[msgspec.Struct]]:
    """The message types that `module` defines."""
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, msgspec.Struct) and member.__module__ == module.__name__
    ]


def _tidied(value: Any) -> Any:
    """msgspec's schemas with names without `View`, without titles that only repeat a name, with
    descriptions in one line, and with a type beside each list of texts."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if isinstance(value, str):
        return value.removesuffix("View") if value.startswith("#/components/") else value
    if not isinstance(value, dict):
        return value
    schema = {
        name.removesuffix("View"): _tidied(item)
        for name, item in value.items()
        if name != "title" or not isinstance(item, str)
    }
    if isinstance(schema.get("description"), str):
        schema["description"] = " ".join(schema["description"].split())
    if isinstance(schema.get("enum"), list):
        schema = {"type": "string"} | schema
    if isinstance(schema.get("anyOf"), list):
        _lift_description(schema)
    return schema


def _lift_description(schema: Schema) -> None:
    """Move the description of the only member of a union that has one to the union, where readers
    of the document look for it."""
    described = [member for member in schema["anyOf"] if "description" in member]
    if len(described) == 1 and "description" not in schema:
        schema["description"] = described[0].pop("description")
