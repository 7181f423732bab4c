"""A real control process in a fresh home."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.control.home import Home


@pytest.fixture
def home() -> Iterator[Home]:
    # Not pytest's own folder: the path of a unix socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="maas-") as folder:
        made = Home(Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def control(home: Home) -> Home:
    home.start()
    return home
