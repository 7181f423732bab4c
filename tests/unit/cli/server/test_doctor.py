"""`maas doctor` on machines where optional dependencies are missing."""

from __future__ import annotations

import tomllib
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from maas.cli.server.doctor import EXTRAS, check_extras

PROJECT = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]


def test_every_extra_of_the_package_is_checked() -> None:
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - {"all"}


@pytest.mark.parametrize("absent", [None, *EXTRAS])
def test_a_missing_extra_is_a_warning_with_its_purpose(
    monkeypatch: pytest.MonkeyPatch, absent: str | None
) -> None:
    """`absent` alone is missing, or all are, as after `pip install openmaas`."""
    missing = {m for name, extra in EXTRAS.items() if absent in (None, name) for m in extra.modules}

    def find_spec(name: str, *_: Any) -> object | None:
        return None if name in missing else object()

    monkeypatch.setattr(util, "find_spec", find_spec)
    checks = {check.what: check for check in check_extras()}
    assert set(checks) == {f"[{name}]" for name in EXTRAS}
    for name in EXTRAS if absent is None else (absent,):
        check = checks[f"[{name}]"]
        assert check.outcome == "warn"
        assert f"needed only for {EXTRAS[name].purpose}" in check.finding
        assert check.advice == f"pip install 'openmaas[{name}]'"
