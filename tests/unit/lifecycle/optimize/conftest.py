from __future__ import annotations

import pytest

from maas.lifecycle.optimize.subject import Subject
from tests.unit.lifecycle.optimize.subjects import digits_subject


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A small CNN for digits, shared by all tests, which must not modify it."""
    return digits_subject(tmp_path_factory.mktemp("digits"))
