from __future__ import annotations

import json

import pytest

from maas.domain.errors import InvalidInput
from maas.gateway.anthropic.errors import anthropic_shape
from maas.gateway.http.request import ErrorShape
from maas.gateway.openai.errors import openai_shape


@pytest.mark.parametrize("shape", [openai_shape, anthropic_shape])
def test_an_error_that_quotes_half_of_a_character_is_encoded(shape: ErrorShape) -> None:
    status, _, body = shape(InvalidInput("no field '\ud800'", field="\ud800"), "r1")
    assert status == 400
    assert json.loads(body)["error"]["message"] == "no field '\ud800'"
