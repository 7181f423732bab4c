"""README, tutorial, how-to guides and reference: every block runs in order, as the page prints it.

`tests/support/documents.py` says how; `tests/contract/test_document_blocks.py` holds that every
block is run or carries the reason why it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import Reader, lines_match, pages

DOCS = Path(__file__).resolve().parents[3] / "docs"
TUTORIAL = "docs/tutorial/from-data-to-a-service.md"
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)|`((?:examples|docs|src|tests)/[\w./-]+)`")


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.mark.parametrize("page", pages())
def test_a_page_runs_as_written(reader: Reader, page: str) -> None:
    reader.read(page)


def test_the_tutorial_leaves_a_report(reader: Reader) -> None:
    report = reader.read(TUTORIAL).folder / "report.html"
    assert "<html" in report.read_text(encoding="utf-8")


def test_expected_output_is_really_compared() -> None:
    assert lines_match("a 1 b\nmore\n", "a … b\n")
    assert not lines_match("a 1 c\n", "a … b\n")
    assert not lines_match("", "a\n")
    assert not lines_match("(a\n", "a\n")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda p: p.stem)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for link, path in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / link if link else DOCS.parent / path
        assert target.exists(), f"{page.name} names {link or path}"
