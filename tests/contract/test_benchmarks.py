"""The benchmarks can be imported, and override only methods that OpenMaaS calls."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
FILES = sorted([*FOLDER.glob("*.py"), *FOLDER.glob("harness/*.py")])
"""All but the servers in `benchmarks/peers`, which run in environments of their own."""
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
OWN_PACKAGES = ("maas", "benchmarks", "tests")


def imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package in OWN_PACKAGES:
            raise
        pytest.skip(f"needs {package}")


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_overrides_only_methods_of_its_base(name: str) -> None:
    module = imported(name)
    for class_ in vars(module).values():
        if not inspect.isclass(class_) or class_.__module__ != name:
            continue
        bases = [base for base in class_.__mro__ if base.__module__.startswith("maas.")]
        for method, _ in inspect.getmembers(class_, inspect.isfunction):
            if bases and method in vars(class_) and not method.startswith("__"):
                assert any(method in vars(base) for base in bases), f"{class_.__name__}.{method}"


def test_the_parts_of_a_step_that_a_benchmark_measures_exist() -> None:
    """`benchmarks/transformers_steps.py` replaces them by name."""
    engine = imported("maas.runtimes.transformers.engine")
    batch = imported("maas.runtimes.transformers.paged_batch")
    assert {"_step"} <= vars(engine.Transformers).keys() and callable(engine.sample)
    assert {"_computed", "put"} <= vars(batch.PagedBatch).keys()
