"""Counts what the house rules limit, over the syntax trees of the repository.

    python -m tests.contract.house_rules            # totals
    python -m tests.contract.house_rules --where    # and each place that breaks a rule
    python -m tests.contract.house_rules --where src/maas/gateway

`test_house_rules.py` holds the limits.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_MODULES = 16
MAX_FILE_LINES = 400
MAX_BODY_LINES = 50
MAX_PARAMETERS = 6
MAX_SHARED_CLASS_NAMES = 5
VERBS = frozenset(
    ("found", "said", "told", "known", "given", "wanted", "made", "kept", "held", "asked", "taken")
)
"""Past participles that say what happened to a value and not what the value is."""
METAPHORS = re.compile(r"Door|Desk|Teller|Workshop|Patience|Attention|Parcel|Sitting")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Place:
    """A line of a file, as `path:line text`; `path` is relative to the repository."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.text}"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules_per_folder(*folders: str) -> dict[str, int]:
    """Number of modules, without `__init__.py`, in each folder that has any."""
    counts: dict[str, int] = {}
    for path in files(*folders):
        if path.name != "__init__.py":
            folder = name_of(path.parent)
            counts[folder] = counts.get(folder, 0) + 1
    return counts


def long_files(*folders: str) -> list[Place]:
    counted = ((path, len(path.read_text().splitlines())) for path in files(*folders))
    return [Place(name_of(p), n, f"{n} lines") for p, n in counted if n > MAX_FILE_LINES]


def long_functions(*folders: str) -> list[Place]:
    """Functions whose body is too long. Signatures do not count: options are data."""
    places = []
    for path, node in _functions(*folders):
        lines = (node.end_lineno or 0) - node.body[0].lineno + 1
        if lines > MAX_BODY_LINES and "/migrations/" not in name_of(path):
            places.append(Place(name_of(path), node.lineno, f"{node.name}: {lines} lines"))
    return places


def long_signatures(*folders: str) -> list[Place]:
    """Functions with too many parameters, without `self` and `cls`."""
    places = []
    for path, node in _functions(*folders):
        arguments = node.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a]
        count = len([name for name in names if name not in ("self", "cls")])
        if count > MAX_PARAMETERS:
            places.append(Place(name_of(path), node.lineno, f"{node.name}: {count} parameters"))
    return places


def verb_bindings(*folders: str) -> list[Place]:
    """Names bound to one of VERBS: variables, parameters, attributes, functions, imports."""
    return [
        Place(name_of(path), line, name)
        for path in files(*folders)
        for name, line in _bindings(tree_of(path))
        if name.strip("_") in VERBS
    ]


def metaphors(*folders: str) -> list[Place]:
    return [
        Place(name_of(path), node.lineno, node.name)
        for path in files(*folders)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and METAPHORS.search(node.name)
    ]


def shared_class_names(*folders: str) -> dict[str, list[str]]:
    """Public class names that two or more files define, with those files."""
    homes: dict[str, list[str]] = {}
    for path in files(*folders):
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name_of(path))
    return {name: paths for name, paths in homes.items() if len(paths) > 1}


def density(*folders: str) -> float:
    """Comprehensions and conditional expressions per 1,000 lines."""
    dense = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp)
    lines = sum(len(path.read_text().splitlines()) for path in files(*folders))
    count = sum(isinstance(n, dense) for path in files(*folders) for n in ast.walk(tree_of(path)))
    return 1000 * count / max(lines, 1)


def own_dynamic_imports(*folders: str) -> list[Place]:
    """Calls of `import_module` that name this package, or whose argument is not a literal."""
    places = []
    for path in files(*folders):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Call):
                continue
            callee = ast.unparse(node.func).rpartition(".")[2]
            targets = [ast.unparse(argument) for argument in node.args]
            passed_on = any(target.endswith("import_module") for target in targets)
            if callee in ("import_module", "__import__") or passed_on:
                places.append(Place(name_of(path), node.lineno, ast.unparse(node)))
    return places


RESOURCES = re.compile(
    r"\b(ThreadPoolExecutor|ProcessPoolExecutor|Thread|Timer|Client|AsyncClient|Session|Popen"
    r"|socket|create_engine)$"
)


def made_at_import(*folders: str) -> list[Place]:
    """Threads, executors, sockets and clients that a module makes when it is imported."""
    places = []
    for path in files(*folders):
        for node in _run_at_import(tree_of(path)):
            if isinstance(node, ast.Call) and RESOURCES.search(ast.unparse(node.func)):
                places.append(Place(name_of(path), node.lineno, ast.unparse(node)[:80]))
    return places


def attribute_probes(*folders: str) -> list[Place]:
    """Calls of `hasattr`, which look for a method that a base class should declare."""
    return [
        Place(name_of(path), node.lineno, ast.unparse(node))
        for path in files(*folders)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "hasattr"
    ]


def _functions(*folders: str) -> Iterator[tuple[Path, Function]]:
    for path in files(*folders):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, Function):
                yield path, node


def _run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes outside function bodies."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _run_at_import(node)


def _bindings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.alias(name=name, asname=alias):
                yield (alias or name).rpartition(".")[2], node.lineno
            case ast.ExceptHandler(name=str(name)):
                yield name, node.lineno
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno


def report(folders: list[str], where: bool) -> Iterator[str]:
    source = folders or ["src/maas"]
    everything = folders or ["src/maas", "tests", "benchmarks", "examples"]
    counts = modules_per_folder(*source)
    fullest = max(counts, key=lambda folder: counts[folder])
    yield f"modules in the fullest folder: {counts[fullest]} ({fullest})"
    rules = {
        f"files over {MAX_FILE_LINES} lines": long_files(*(folders or ["src/maas", "tests"])),
        f"functions over {MAX_BODY_LINES} lines": long_functions(*source),
        f"signatures over {MAX_PARAMETERS} parameters": long_signatures(*source),
        "bindings of the eleven verbs": verb_bindings(*everything),
        "classes named by a metaphor": metaphors(*everything),
        "dynamic imports": own_dynamic_imports(*source),
        "threads, executors and clients made at import": made_at_import(*source),
        "hasattr": attribute_probes(*source),
    }
    for rule, places in rules.items():
        yield f"{rule}: {len(places)}"
        if where:
            yield from (f"  {place}" for place in places)
    shared = shared_class_names(*source)
    yield f"public class names defined twice: {len(shared)}"
    yield from (f"  {name}: {', '.join(paths)}" for name, paths in shared.items() if where)
    yield f"comprehensions and conditional expressions per 1,000 lines: {density(*source):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("folders", nargs="*", help="folders to count in (default: all)")
    parser.add_argument("--where", action="store_true", help="list each place")
    options = parser.parse_args()
    print("\n".join(report(options.folders, options.where)))


if __name__ == "__main__":
    main()
