"""Real servers, each started once per session if a test requests it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import backends


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[backends.PostgresServer]:
    with backends.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[backends.S3Server]:
    with backends.s3() as server:
        yield server
