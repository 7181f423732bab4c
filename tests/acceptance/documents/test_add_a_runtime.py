"""The files of docs/howto/add-a-runtime.md, installed, tested and served as they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers.maas import Stack, running

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "add-a-runtime.md"
FILES = ("linear.json", "linear_json.py", "pyproject.toml", "test_linear_json.py", "publish.py")
"""The files of the page, in the order of its code blocks."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page in a folder that Python takes for an installed distribution."""
    folder = tmp_path_factory.mktemp("project")
    blocks = re.findall(r"^```\w+\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name, block in zip(FILES, blocks, strict=True):
        (folder / name).write_text(block)
    install(folder)
    return folder


def install(folder: Path) -> None:
    """Writes the metadata that `pip install` derives from pyproject.toml."""
    package = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    metadata = folder / f"openmaas_linear-{package['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package['name']}\nVersion: {package['version']}\n"
    )
    lines = []
    for group, points in package["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def server(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # Short, because the path of a unix socket has at most 107 bytes.
    with running(tmp_path_factory.mktemp("h"), {"PYTHONPATH": str(project)}) as stack:
        yield stack


def test_the_page_has_less_than_a_hundred_lines_of_code(project: Path) -> None:
    code = "".join((project / name).read_text() for name in FILES)
    assert len([line for line in code.splitlines() if line.strip()]) < 100


def test_the_tests_of_the_page_pass(project: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project)]
    result = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "5 passed" in result.stdout


def test_a_model_is_served_by_the_runtime(project: Path, server: Stack) -> None:
    environment = os.environ | {
        "MAAS_CLIENT__BASE_URL": server.url,
        "MAAS_API_KEY": server.token,
    }
    result = subprocess.run(
        [sys.executable, "publish.py"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.strip() == "{'y': 6.0}"
    _, _, body = server.request("POST", "/predict/prices", {"x": [[1.0, 1.0], [0.0, 2.0]]})
    assert json.loads(body) == {"y": [6.0, 7.0]}


def test_status_lists_the_runtime_with_its_package(server: Stack) -> None:
    runtimes = {entry["name"]: entry["library"] for entry in server.client().status()["runtimes"]}
    assert runtimes["linear_json"] == "openmaas-linear 1.0"
