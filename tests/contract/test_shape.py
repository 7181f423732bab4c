"""House rules that a test can check."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from maas.version import __version__

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "maas"
FILES = sorted(SOURCE.rglob("*.py"))
MAY_NAME = {("src/maas/lifecycle/training/checkpoints.py", "pickle")}
"""Exception: the class of torch's error for a checkpoint that contains more than tensors."""
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in FILES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def test_the_environment_is_read_in_one_file() -> None:
    readers = {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv", "environb")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert readers == {"src/maas/settings.py"}


def test_nothing_is_unpickled_evaluated_or_passed_to_a_shell() -> None:
    uses = []
    for name, tree in trees():
        for node in ast.walk(tree):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            uses += [(name, m) for m in modules if m.split(".")[0] in FORBIDDEN_MODULES]
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                    uses.append((name, node.func.id))
                uses += [
                    (name, "shell=True")
                    for keyword in node.keywords
                    if keyword.arg == "shell"
                    and isinstance(keyword.value, ast.Constant)
                    and keyword.value.value
                ]
    assert set(uses) <= MAY_NAME


def test_no_check_is_an_assert() -> None:
    """`python -O` removes assert statements."""
    asserts = [
        f"{name}:{node.lineno}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert asserts == []


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## .*{re.escape(__version__)}", changelog, re.MULTILINE)


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Dotted names of the modules of `maas` that a module imports at its top level."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("maas"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maas"):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                yield str(node.module)


def test_files_do_not_import_each_other_in_a_circle() -> None:
    names = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in FILES
    }
    graph = {
        name: {m for m in imported_modules(ast.parse(path.read_text())) if m in names} - {name}
        for name, path in names.items()
    }
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if state.get(name) == 2:
            return
        if state.get(name) == 1:
            pytest.fail(" → ".join((*trail[trail.index(name) :], name)))
        state[name] = 1
        for other in sorted(graph[name]):
            visit(other, (*trail, name))
        state[name] = 2

    for name in graph:
        visit(name, ())
