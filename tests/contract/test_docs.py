"""What a document names exists: files, functions, commands, settings, routes and metrics."""

from __future__ import annotations

import ast
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maas.cli.commands import COMMANDS
from maas.domain.errors import ERRORS_BY_CODE
from maas.gateway.metering import GENERATION_WIDTH, GENERATIONS, WIDTH
from maas.gateway.metrics import metrics_handler

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCE = ROOT / "src" / "maas"
FOLDERS = "src|tests|docs|examples|benchmarks|api"
NAMED = re.compile(r"`((?:[\w-]+/)*[\w.-]+\.(?:py|js|json|md|toml))(?::([\w.]+))?`")


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[str]:
    """Fenced blocks of `text`, then its inline code."""
    yield from re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of `text`."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def names_in(file: Path) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {n.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, kinds)}


def test_the_architecture_names_what_exists() -> None:
    references = NAMED.findall(read("ARCHITECTURE.md").replace("`file.py:name`", ""))
    assert len(references) >= 90
    for path, name in references:
        file = next((f for f in (SOURCE / path, ROOT / path) if f.is_file()), None)
        assert file is not None, path
        if name:
            assert name in names_in(file), f"{path}:{name}"


def test_the_architecture_fits_on_two_pages() -> None:
    assert len(read("ARCHITECTURE.md").split()) <= 1200


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_and_commands_in_documents_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefiles = read("Makefile") + read("benchmarks/bench.mk")
    for code in blocks(text):
        for path in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*\w", code):
            assert "VERB" in path or (ROOT / path).exists(), path
        for command in re.findall(r"^(?:\S*/)?maas ([a-z]+)\b", code, re.MULTILINE):
            assert command in COMMANDS, f"maas {command}"
        for goal in re.findall(r"^make ((?:[a-z-]+ ?)+)", code, re.MULTILINE):
            for name in goal.split():
                assert re.search(rf"^{name}:", makefiles, re.MULTILINE), f"make {name}"


def test_the_settings_are_what_the_program_says() -> None:
    generator = runpy.run_path(str(ROOT / "docs/reference/make_configuration.py"))
    assert read("docs/reference/configuration.md") == generator["page"](), (
        "run: python docs/reference/make_configuration.py"
    )


def test_settings_in_examples_exist() -> None:
    settings = set(re.findall(r"^\| `(\w+)` \|", read("docs/reference/configuration.md"), re.M))
    sections = "SERVER|STORAGE|SERVING|CLIENT"
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(rf"MAAS_(?:{sections})__([A-Z0-9_]+)", text):
            assert name.lower() in settings, (page.name, name)
        for name in re.findall(r"`(?:server|storage|serving)\.(\w+)`", text):
            assert name in settings, (page.name, name)


def test_the_http_reference_has_every_operation_and_every_error() -> None:
    page = read("docs/reference/http-api.md")
    document: dict[str, Any] = json.loads(read("api/openapi.json"))
    lines = set(re.findall(r"^\| `([A-Z]+) ([^`]+)` \| ([\w ]+) \|", page, re.MULTILINE))
    operations = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            scopes = operation["security"]
            operations.add((method.upper(), path, scopes[0]["bearer"][0] if scopes else "no key"))
    assert lines == operations
    errors = set(re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE))
    assert errors == {
        (code, str(kind.status))
        for code, kind in ERRORS_BY_CODE.items()
        if kind.__module__ == "maas.domain.errors"
    }


def test_the_metrics_reference_has_every_metric_and_no_other() -> None:
    answers: list[bytes] = []
    totals = {
        "metrics": {"d\t1\tonnx\tok": tuple(range(WIDTH))},
        GENERATIONS: {"d\t1\tgguf\tchat": tuple(range(GENERATION_WIDTH))},
    }
    router = SimpleNamespace(deployments={"d": SimpleNamespace(targets=[])})
    meter = SimpleNamespace(totals=lambda ending="metrics": totals[ending])
    handle = metrics_handler(meter, router, "0")  # type: ignore[arg-type]
    handle(SimpleNamespace(respond=lambda status, body, kind: answers.append(body)))  # type: ignore[arg-type]
    page = read("docs/reference/metrics.md")
    documented = set(re.findall(r"^\| `(maas_\w+)` \| (\w+) \|", page, re.MULTILINE))
    exported = set(re.findall(r"^# TYPE (maas_\w+) (\w+)$", answers[0].decode(), re.MULTILINE))
    assert documented == exported
    queries = re.findall(r"\bmaas_\w+", "".join(re.findall(r"```promql(.*?)```", page, re.S)))
    for name in queries:
        assert re.sub(r"_(bucket|count|sum)$", "", name) in {n for n, _ in exported}, name


def test_every_decision_is_listed_and_every_page_can_be_found() -> None:
    listed = read("docs/decisions/README.md")
    for record in (ROOT / "docs/decisions").glob("0*.md"):
        title = record.read_text(encoding="utf-8").splitlines()[0].partition(": ")[2]
        assert f"[{record.name[:4]}]({record.name}) | {title} |" in listed
    index = read("docs/README.md")
    for page in (ROOT / "docs").rglob("*.md"):
        if page.parent.name not in ("decisions", "docs"):
            assert f"({page.relative_to(ROOT / 'docs')})" in index, page.name
