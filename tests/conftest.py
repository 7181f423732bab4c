"""Environment and options of all tests."""

from __future__ import annotations

import os
import signal

import pytest

from maas.settings import GOMP_SPINS

# Engines that tests load in their own process behave as in a replica: OpenMP threads sleep soon.
# Otherwise a test that shares its cores with others takes minutes.
os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINS)

# A shell starts background jobs with SIGINT ignored, and every process that a test interrupts
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-size", action="store_true",
        help="run as many rounds and requests as the acceptance criteria require",
    )  # fmt: skip


@pytest.fixture(scope="session")
def full_size(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full-size"))
