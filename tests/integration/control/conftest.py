"""A real control process in a fresh home."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.control.home import Home


@contextlib.contextmanager
def new_home() -> Iterator[Home]:
    # Not pytest's own folder: the path of a unix socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="maas-") as folder:
        made = Home(Path(folder))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as made:
        yield made


@pytest.fixture(scope="module")
def shared_control() -> Iterator[Home]:
    """One control for tests that leave each other alone."""
    with new_home() as made:
        made.start()
        yield made


@pytest.fixture
def control(home: Home) -> Home:
    home.start()
    return home
