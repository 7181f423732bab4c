"""Every block of the documents runs, or says why it does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maas import settings
from tests.support.documents import CHECKOUT, Reader, blocks_of, counts, page_text, pages
from tests.support.python_session import run

NOT_RUN = {
    "README.md": 2,
    "docs/tutorial/from-data-to-a-service.md": 1,
    "docs/howto/call-from-cpp.md": 1,
    "docs/howto/embeddings.md": 1,
    "docs/howto/engines.md": 3,
    "docs/howto/measure.md": 1,
    "docs/howto/optimize.md": 1,
    "docs/howto/postgresql-and-s3.md": 1,
    "docs/howto/pull.md": 2,
    "docs/howto/run-in-production.md": 6,
    "docs/reference/metrics.md": 2,
}
"""Blocks per page that are marked as not run; a page that is not listed has none."""


@pytest.mark.parametrize("page", pages())
def test_every_block_runs_or_has_a_reason(page: str) -> None:
    for block in blocks_of(page_text(page)):
        where = f"{page}, line {block.line}"
        assert block.use, f"{where}: a block of {block.language!r} without a mark"
        if block.use == "not run":
            assert len(block.detail.split()) >= 3, f"{where}: a reason is needed"
            for path in re.findall(r"(?:tests|docs)/[\w./-]*\w", block.detail):
                assert (CHECKOUT / path).exists(), f"{where}: {path}"


def test_blocks_that_are_not_run_are_counted() -> None:
    marked = {page: counts(page)[1] for page in pages()}
    assert {page: count for page, count in marked.items() if count} == NOT_RUN


@pytest.mark.parametrize("page", pages())
def test_programs_on_a_page_are_those_of_the_checkout(page: str) -> None:
    for block in blocks_of(page_text(page)):
        _, _, original = block.detail.partition(" = ") if block.use == "file" else ("", "", "")
        if original:
            assert block.text == (CHECKOUT / original).read_text(encoding="utf-8"), original


@pytest.mark.parametrize("page", pages())
def test_settings_on_a_page_are_valid(page: str, tmp_path: Path) -> None:
    for block in blocks_of(page_text(page)):
        if block.use == "file" and block.detail.endswith("maas.toml"):
            file = tmp_path / "maas.toml"
            file.write_text(block.text, encoding="utf-8")
            assert settings.load(environment={"MAAS_HOME": str(tmp_path)}, file=file).home


def test_marks_are_understood() -> None:
    text = (
        "```sh\necho 1\n```\n```text\n1\n```\n\n<!-- not run: needs a hub -->\n```sh\npull\n```\n"
        "<!-- file: a.toml -->\n```toml\n```\n\n```toml\n```\n\n```text\nalone\n```\n"
        "<!-- run if: node -->\n```sh\nnode a.mjs\n```\n"
    )
    blocks = blocks_of(text)
    assert [b.use for b in blocks] == ["run", "output", "not run", "file", "", "", "run"]
    assert [b.detail for b in blocks] == ["", "", "needs a hub", "a.toml", "", "", "node"]
    assert blocks[0].output is not None
    assert blocks[0].output.text == "1\n"


def test_an_unclosed_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="not closed"):
        blocks_of("```sh\necho 1\n")


def test_values_in_comments_are_compared() -> None:
    run("x = 1\nx + 1  # 2\n[x]  # […]\nx + 1  # more than x\n", {})
    with pytest.raises(AssertionError, match="the page shows 3, the value is 2"):
        run("1 + 1  # 3\n", {})


def test_a_page_that_fails_fails_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a page after it fails, too, instead of running without what it needs."""
    texts = {"a": "```sh\nfalse\n```\n", "b": "<!-- after: a -->\n```sh\ntrue\n```\n"}
    monkeypatch.setattr("tests.support.documents.page_text", texts.__getitem__)
    reader = Reader()
    try:
        for page in ("a", "b", "a"):
            with pytest.raises(AssertionError, match="a, line 1:\nfalse"):
                reader.read(page)
    finally:
        reader.close()
