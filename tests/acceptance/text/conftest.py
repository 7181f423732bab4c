from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.maas import Stack, running
from tests.support.servers.text import deploy_text_model


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server with a small language model, for the tests of a file."""
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        deploy_text_model(stack)
        yield stack


@pytest.fixture
def client(served: Stack) -> Iterator[Any]:
    """OpenAI's SDK."""
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.token, max_retries=0) as sdk:
        yield sdk
