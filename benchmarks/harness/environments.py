"""A virtual environment with pinned versions for each peer, cached in a folder."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints-peers.txt"


class EnvironmentFailed(Exception):
    """The packages of a peer could not be installed."""


def constraints_of(name: str) -> str:
    """Lines of section `[name]` in constraints-peers.txt.

    Each peer has its own section, because they need different versions of the same libraries.
    """
    lines, inside = [], False
    for line in CONSTRAINTS.read_text().splitlines():
        if line.startswith("["):
            inside = line.strip() == f"[{name}]"
        elif inside and line and not line.startswith("#"):
            lines.append(line)
    return "\n".join(lines) + "\n"


def ensure(name: str, requirements: Sequence[str], cache: Path) -> Path:
    """Folder of the peer's environment, created again if its pins or Python have changed."""
    pins = constraints_of(name)
    inputs = "\n".join([*sorted(requirements), pins, sys.version])
    stamp = hashlib.sha256(inputs.encode()).hexdigest()
    folder = cache / "venvs" / name
    marker = folder / "bench-stamp"
    if marker.is_file() and marker.read_text() == stamp:
        return folder
    print(f"installing {', '.join(requirements)} for {name} …", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    file = folder / "constraints.txt"
    file.write_text(pins)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "-c", str(file)]
    _run([*pip, "--disable-pip-version-check", *requirements])
    marker.write_text(stamp)
    return folder


def versions(python: Path) -> dict[str, str]:
    """Versions of all packages in an environment, by name."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    )
    import json

    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return dict(sorted(json.loads(done.stdout).items()))


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise EnvironmentFailed(f"{' '.join(argv[:4])} … failed:\n{tail}")
