"""Fixtures for a real control process in a fresh home."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.control.home import Home


@contextlib.contextmanager
def new_home() -> Iterator[Home]:
    # pytest's own folders are too long: the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="maas-") as folder:
        home = Home(Path(folder))
        try:
            yield home
        finally:
            home.close()


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as home:
        yield home


@pytest.fixture(scope="module")
def shared_control() -> Iterator[Home]:
    """One control process for tests that do not affect each other. It must log no error."""
    with new_home() as home:
        home.start()
        yield home
        assert '"level": "error"' not in home.log(), home.log()


@pytest.fixture
def control(home: Home) -> Home:
    home.start()
    return home
