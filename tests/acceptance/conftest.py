from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.maas import Stack, running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One server for the tests of a file."""
    # Short, because the path of a unix socket has at most 107 bytes.
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as started:
        yield started
