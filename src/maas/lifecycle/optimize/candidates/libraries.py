"""Versions of the libraries that make candidates, as `how` names them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from maas.lifecycle.optimize.subject import NotApplicable


def versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def require(package: str, extra: str) -> None:
    """Raises NotApplicable that says what to install, if `package` is not there."""
    if not versions(package):
        raise NotApplicable(f"{package} is not installed; `pip install 'openmaas[{extra}]'`")
