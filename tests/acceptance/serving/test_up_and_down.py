"""`maas up --detach` and `maas down`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.servers.maas import free_port, readyz


def test_up_in_the_background_and_down(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
        return subprocess.run(
            [sys.executable, "-m", "maas.cli.main", "--home", str(home), *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    up = command("up", "--detach", "--port", str(port))
    try:
        assert up.returncode == 0, up.stderr
        assert up.stdout == f"http://127.0.0.1:{port}\n"
        assert readyz(port) == 200
        assert (home / "admin.key").stat().st_mode & 0o077 == 0
        again = command("up", "--detach", "--port", str(port))
        assert again.returncode == 5
        assert "already served" in again.stderr
    finally:
        down = command("down")
    assert down.returncode == 0, down.stderr
    assert readyz(port) == 0
    assert command("down").returncode == 0


def test_a_public_address_needs_tls_or_insecure(tmp_path: Path) -> None:
    up = subprocess.run(
        [sys.executable, "-m", "maas.cli.main", "up", "-d", "--host", "0.0.0.0",
         "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert up.returncode == 78
    assert "--insecure" in up.stderr
