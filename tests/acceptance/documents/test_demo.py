"""`make demo`, as a user runs it: once to its end, and once more until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
DEMO_SECONDS = 400.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # Short, because the path of a unix socket has at most 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="demo"))
    yield path
    for process in _processes(path):
        with contextlib.suppress(psutil.Error):
            process.kill()
    shutil.rmtree(path, ignore_errors=True)


def test_with_oneshot_the_demo_exits_by_itself(home: Path) -> None:
    ran = subprocess.run(
        _command(home),
        env=_environment(DEMO_ONESHOT="1"),
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "It is a 3" in ran.stdout
    assert re.search(r"digits/predict +requests 1, rows 1, errors 0", ran.stdout), ran.stdout
    assert re.search(r"digits/explain +requests 1", ran.stdout), ran.stdout
    if shutil.which("curl"):
        assert "printed the same answer" in ran.stdout
    assert (home / "explanation.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "<html" in (home / "report.html").read_text()
    assert _processes(home) == []


def test_a_second_run_serves_until_ctrl_c(home: Path) -> None:
    """In the same home, with port 8000 in use."""
    with _port_8000_taken(), (home / "demo.out").open("w+") as output:
        process = subprocess.Popen(
            _command(home), env=_environment(), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            text = _wait_for(process, home / "demo.out", "Serving until Ctrl-C.")
            assert "port 8000 is taken" in text
            assert "published digits:1 (it already existed)" in text
            if shutil.which("curl"):
                assert _run_curl_command(text)["label"] == 3
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, (home / "demo.out").read_text()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)
    assert _processes(home) == []


def _run_curl_command(text: str) -> dict[str, object]:
    """The answer to the printed curl command, pasted into a shell."""
    lines = text[text.index("\ncurl ") + 1 : text.index("\nServing until")]
    ran = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, object] = json.loads(ran.stdout)
    return answer


def _command(home: Path) -> list[str]:
    return [sys.executable, str(CHECKOUT / "examples" / "demo.py"), "--home", str(home)]


def _environment(**more: str) -> dict[str, str]:
    others = {k: v for k, v in os.environ.items() if not k.startswith(("MAAS_", "DEMO_"))}
    return others | more


@contextlib.contextmanager
def _port_8000_taken() -> Iterator[None]:
    """Port 8000 in use, by this test or by another program."""
    with socket.socket() as holder:
        # Connections of the server that has just exited may still linger on the port.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            holder.bind(("127.0.0.1", 8000))
            holder.listen()
        yield


def _wait_for(process: subprocess.Popen[bytes], output: Path, words: str) -> str:
    ends = time.monotonic() + DEMO_SECONDS
    while words not in (text := output.read_text()):
        assert process.poll() is None and time.monotonic() < ends, text
        time.sleep(0.1)
    return text


def _processes(home: Path) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(home) in part for part in process.cmdline()):
                processes.append(process)
    return processes
