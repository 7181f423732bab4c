"""The house rules of CONTRIBUTING.md, held by counting. See `house_rules.py` for the counts."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract import house_rules as rules

SOURCE = "src/maas"
OWN_CODE = ("src/maas", "tests", "benchmarks", "examples")

MANY_PARAMETERS = {
    # CLI commands: one parameter per option.
    "src/maas/cli/deployments/bench.py": "command",
    "src/maas/cli/deployments/chat.py": "command",
    "src/maas/cli/deployments/deploy.py": "command",
    "src/maas/cli/deployments/explain.py": "command",
    "src/maas/cli/models/optimize.py": "command",
    "src/maas/cli/models/publish.py": "command",
    "src/maas/cli/models/pull.py": "command",
    "src/maas/cli/server/up.py": "command",
    # SDK entry points: keyword arguments that people type.
    "src/maas/client/deployments.py": "deploy",
    "src/maas/client/optimizations.py": "optimize",
    "src/maas/client/publications.py": "publish",
    "src/maas/client/pulling.py": "pull",
}
DYNAMIC_IMPORTS = {
    "src/maas/runtimes/catalog.py",  # a runtime's module is imported when a variant needs it
    "src/maas/lifecycle/data/entrypoints.py",  # the owner's own module, named in a recipe
    "src/maas/lifecycle/data/tables.py",  # optional libraries, by a name from a table
}


@pytest.mark.parametrize("folder", ["src/maas", "tests"])
def test_a_folder_holds_at_most_16_modules(folder: str) -> None:
    counts = rules.modules_per_folder(folder)
    assert {name: n for name, n in counts.items() if n > rules.MAX_MODULES} == {}


@pytest.mark.parametrize("folder", ["src/maas", "tests"])
def test_a_file_has_at_most_400_lines(folder: str) -> None:
    assert [str(place) for place in rules.long_files(folder)] == []


def test_a_function_body_has_at_most_50_lines() -> None:
    assert [str(place) for place in rules.long_functions(SOURCE)] == []


def test_a_function_has_at_most_6_parameters() -> None:
    """CLI commands and SDK entry points are listed by name."""
    long = rules.long_signatures(SOURCE)
    unlisted = [
        str(place)
        for place in long
        if place.text.partition(":")[0] != MANY_PARAMETERS.get(place.path)
    ]
    assert unlisted == []
    assert set(MANY_PARAMETERS) == {place.path for place in long}


def test_names_say_what_they_hold() -> None:
    assert [str(place) for place in rules.verb_bindings(*OWN_CODE)] == []
    assert [str(place) for place in rules.metaphors(*OWN_CODE)] == []


def test_a_public_class_name_is_defined_once() -> None:
    assert len(rules.shared_class_names(SOURCE)) <= rules.MAX_SHARED_CLASS_NAMES


def test_only_the_runtime_catalog_imports_our_modules_by_name() -> None:
    places = rules.own_dynamic_imports(SOURCE)
    assert {place.path for place in places} <= DYNAMIC_IMPORTS


def test_nothing_is_started_at_import() -> None:
    assert [str(place) for place in rules.made_at_import(SOURCE)] == []


IMPORT_ALL = """
import concurrent.futures, gc, importlib, pkgutil, threading
import httpx2
import maas
packages = ("domain", "storage", "serving", "gateway", "control", "client", "cli", "processes")
for module in pkgutil.walk_packages(maas.__path__, "maas."):
    if module.name.split(".")[1] in packages and "migrations" not in module.name:
        importlib.import_module(module.name)
kinds = (concurrent.futures.Executor, threading.Thread, httpx2.Client, httpx2.AsyncClient)
objects = [o for o in gc.get_objects() if isinstance(o, kinds)]
print([repr(o) for o in objects if o is not threading.main_thread()])
"""


def test_importing_every_module_starts_nothing() -> None:
    """In a fresh process, without lifecycle and runtimes, whose libraries have threads."""
    command = [sys.executable, "-c", IMPORT_ALL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_tests_mirror_the_source() -> None:
    """Each folder of `tests/unit` is a folder of the package."""
    unit = rules.ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert [str(f) for f in folders if not (rules.ROOT / SOURCE / f).is_dir()] == []


BROKEN = (
    """
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

POOL = ThreadPoolExecutor(2)


class UploadDoor:
    pool = ThreadPoolExecutor(1)

    def serve(self, a, b, c, d, e, f, *told):
        self._kept = [said for said in told]
        with open(a) as found:
            return import_module("maas." + b), hasattr(self, "x")


def asked():
"""
    + "    x = 1\n" * 51
)


def test_the_counts_find_what_breaks_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rule fails on a file that breaks it."""
    monkeypatch.setattr(rules, "ROOT", tmp_path)
    for number in range(17):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"m{number}.py").write_text("class Shared: ...\n" + "\n" * 400)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken.py").write_text(BROKEN)
    assert ast.parse(BROKEN)
    assert rules.modules_per_folder("a") == {"a": 17}
    assert len(rules.long_files("a")) == 17
    assert [place.text for place in rules.long_functions("b")] == ["asked: 51 lines"]
    assert [place.text for place in rules.long_signatures("b")] == ["serve: 7 parameters"]
    verbs = sorted(place.text for place in rules.verb_bindings("b"))
    assert verbs == ["_kept", "asked", "found", "said", "told"]
    assert [place.text for place in rules.metaphors("b")] == ["UploadDoor"]
    assert list(rules.shared_class_names("a", "b")) == ["Shared"]
    assert len(rules.own_dynamic_imports("b")) == 1
    assert len(rules.made_at_import("b")) == 2
    assert len(rules.attribute_probes("b")) == 1
