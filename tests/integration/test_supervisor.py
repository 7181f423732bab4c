"""The supervisor with small processes in place of control and the gateway."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.maas import free_port, wait_until

# Runs until SIGTERM, then for the seconds of its argument.
CHILD = """
import os, pathlib, signal, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
def stop(*_):
    time.sleep(float(sys.argv[2]))
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
while True:
    time.sleep(60)
"""

SUPERVISOR = """
import errno, pathlib, subprocess, sys
from maas.processes import supervisor
from maas.settings import load

home, port, child, fault = sys.argv[1:]
settings = load({}, {"MAAS_HOME": home, "MAAS_SERVER__PORT": port, "MAAS_SERVER__DRAIN_S": "4"})
initialize = supervisor.Supervisor.__init__

def init(self, *arguments):
    initialize(self, *arguments)
    for each, wait in ((self._control, "0"), (self._gateways[0], "1")):
        each.command = [sys.executable, "-c", child, f"{home}/{each.name}.pid", wait]

supervisor.Supervisor.__init__ = init
failures = 2 if fault == "fork" else 0
popen = subprocess.Popen

def fork(*arguments, **options):
    global failures
    if failures:
        failures -= 1
        raise OSError(errno.EAGAIN, "no more processes")
    return popen(*arguments, **options)

subprocess.Popen = fork
sys.exit(supervisor.run(settings, lambda text: print(text, flush=True)))
"""


class Running:
    def __init__(self, home: Path, fault: str = "") -> None:
        self.home = home
        arguments = [str(home), str(free_port()), CHILD, fault]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, *arguments], stdout=subprocess.PIPE, text=True
        )
        self.output = self.process.stdout

    def pid(self, name: str, other_than: int = 0) -> int:
        path = self.home / f"{name}.pid"

        def read() -> int:
            text = path.read_text() if path.exists() else ""
            return int(text) if text and int(text) != other_than else 0

        return int(wait_until(read, 20, name))


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[list[Running]]:
    running: list[Running] = []
    yield running
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait(10)
        if each.output is not None:
            each.output.close()


def test_a_crash_of_control_while_gateways_drain_is_noticed(
    tmp_path: Path, homes: list[Running]
) -> None:
    homes.append(running := Running(tmp_path))
    control, _ = running.pid("control"), running.pid("gateway")
    running.process.terminate()
    wait_until(lambda: "stopping" in (running.output.readline() if running.output else ""), 5)
    os.kill(control, signal.SIGKILL)  # the gateway takes a second to drain
    assert running.process.wait(10) == 0


def test_a_closed_terminal_and_a_crashed_child_do_not_stop_it(
    tmp_path: Path, homes: list[Running]
) -> None:
    homes.append(running := Running(tmp_path))
    gateway, control = running.pid("gateway"), running.pid("control")
    assert running.output is not None
    running.output.close()
    os.kill(control, signal.SIGKILL)
    running.pid("control", other_than=control)
    assert running.pid("gateway") == gateway
    running.process.terminate()
    assert running.process.wait(10) == 0


def test_a_child_that_cannot_be_started_is_retried(tmp_path: Path, homes: list[Running]) -> None:
    homes.append(running := Running(tmp_path, "fork"))
    assert running.output is not None
    assert "cannot be started" in running.output.readline()
    assert running.pid("control")
    assert running.pid("gateway")
    running.process.terminate()
    assert running.process.wait(10) == 0
