"""Checks for the libraries that make candidates."""

from __future__ import annotations

from maas.domain.machine import library_versions
from maas.lifecycle.optimize.subject import NotApplicable


def require(package: str, extra: str) -> None:
    """Raises NotApplicable, with the extra to install, if `package` is missing."""
    if not library_versions(package):
        raise NotApplicable(f"{package} is not installed; `pip install 'openmaas[{extra}]'`")
