"""Modules that `import maas` and `maas --help` must not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "onnxruntime", "sqlalchemy", "fastapi", "sklearn", "onnx"}


def imported_by(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a new interpreter."""
    program = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {line.partition(".")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import maas", HEAVY | {"numpy", "httpx2", "msgspec", "typer", "rich"}),
        ("import maas; maas.Client('http://x').close()", HEAVY | {"numpy", "typer"}),
        (
            "from maas.cli.main import run; run(['--help'])",
            HEAVY | {"numpy", "httpx2", "msgspec", "typer", "rich"},
        ),
        ("import maas.cli.app as a; a.run_app(['predict', '--help'])", HEAVY | {"httpx2"}),
    ],
)
def test_it_stays_light(code: str, unwanted: set[str]) -> None:
    assert not imported_by(code) & unwanted


def test_every_exported_name_is_there() -> None:
    import maas

    for name in maas.__all__:
        assert getattr(maas, name)
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        _ = maas.Cleint
