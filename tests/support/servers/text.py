"""A server with a small real language model: SmolLM2-135M-Instruct."""

from __future__ import annotations

from typing import Any

from tests.support.models.packaged import smollm2, text_model
from tests.support.servers.maas import Stack

TEXT_MODEL = "smollm2"
QUESTION = "What is the capital of France? Answer with one word."
"""Without the last sentence the answer of these weights varies."""
FRANCE = [{"role": "user", "content": QUESTION}]
STORY = [{"role": "user", "content": "Tell me a story."}]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"], "additionalProperties": False,
}  # fmt: skip
"""Parameters of the tool `get_weather`."""


def deploy_text_model(stack: Stack) -> None:
    """Publish and deploy the model, and wait until it is ready.

    Skips the test without the weights or their engine.
    """
    client = stack.client()
    client.publish_prepared(text_model(smollm2(), TEXT_MODEL))
    client.deploy(TEXT_MODEL)
    stack.wait_ready(TEXT_MODEL)


def openai_chat(client: Any, messages: Any = FRANCE, **fields: Any) -> Any:
    """A chat through OpenAI's SDK, greedy and of at most 8 tokens unless `fields` change that."""
    defaults = {"model": TEXT_MODEL, "messages": messages, "temperature": 0, "max_tokens": 8}
    return client.chat.completions.create(**defaults | fields)
