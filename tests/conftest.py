from __future__ import annotations

import os
import signal

import pytest

from maas.settings import GOMP_SPINS

# Engines that tests load in their own process wait as in a replica: threads of OpenMP sleep soon,
# else a test beside others on the same cores takes minutes.
os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINS)

# Who starts the tests in the background of a shell has Ctrl-C ignored, and so would have every
# process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-size", action="store_true",
        help="as many rounds, requests and answers as the acceptance criteria ask for",
    )  # fmt: skip


@pytest.fixture(scope="session")
def full_size(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full-size"))
