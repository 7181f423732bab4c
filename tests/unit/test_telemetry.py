"""Log lines: one JSON object each, whatever the message contains."""

from __future__ import annotations

import io
import json
import logging

import pytest

from maas.domain.keys import generate_token
from maas.telemetry import FIELDS, JsonLines


def line(message: object, **fields: object) -> str:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines("test"))
    logger = logging.Logger("maas.test")
    logger.addHandler(handler)
    logger.info(message, extra={FIELDS: fields})
    return out.getvalue()


@pytest.mark.parametrize("hostile", ['a\n{"level": "error"}', "a\r\nb", "\x00\x1b[31m\x7f\x9b",
                                     "a\u2028b\u2029", "\ud800", '"'])  # fmt: skip
def test_no_message_can_forge_a_line(hostile: str) -> None:
    text = line(hostile, field=hostile)
    assert text.count("\n") == 1 and text.isascii() and text[:-1].isprintable()
    entry = json.loads(text)
    assert entry["message"] == hostile and entry["field"] == hostile
    assert entry["process"] == "test" and entry["level"] == "info"


def test_tokens_are_hidden_and_ids_are_not() -> None:
    key_id, token = generate_token()
    text = line(f"came with {token}", header=f"Bearer {token}")
    assert token not in text and key_id in text and "(hidden)" in text
