from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.maas import Stack


@pytest.fixture(scope="module")
def article(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server with the network of the article as deployment `article`."""
    from tests.support.servers.article import article_server  # loads torch

    home: Path = tmp_path_factory.mktemp("h")
    with article_server(home) as stack:
        yield stack
