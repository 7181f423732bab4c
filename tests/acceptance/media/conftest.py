from __future__ import annotations

from typing import Any

import pytest

from tests.support.media import clip, flower, run_example
from tests.support.servers.maas import Stack


@pytest.fixture(scope="module")
def search(stack: Stack) -> str:
    """Output of the example that deploys `minilm`."""
    return run_example(stack, "embeddings/search.py", "When do I have to pay?")


@pytest.fixture(scope="module")
def recognition(stack: Stack) -> str:
    """Output of the example that deploys `imagenet`."""
    return run_example(stack, "images/recognize.py", str(flower()))


@pytest.fixture(scope="module")
def transcript(stack: Stack) -> str:
    """Output of the example that deploys `whisper`."""
    return run_example(stack, "speech/transcribe.py", str(clip()))


@pytest.fixture(scope="module")
def translation(stack: Stack) -> str:
    """Output of the example that deploys `en-pt` and `pt-en`."""
    return run_example(stack, "translation/translate.py", "Good morning, my friend.")


@pytest.fixture
def client(stack: Stack) -> Any:
    """OpenAI's SDK."""
    openai = pytest.importorskip("openai", reason="needs the official client")
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.token, max_retries=0)
