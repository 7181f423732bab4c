"""Tables, charts and page of a load test have its results and send no requests."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

from maas.lifecycle.load_test.page import load_page
from maas.lifecycle.load_test.pictures import load_svg, panels
from maas.lifecycle.load_test.results import Load, LoadResult, RequestSample
from maas.lifecycle.load_test.statistics import figures
from maas.lifecycle.load_test.summary import headings, rows

TEXT = tuple(
    figures(
        (c, None),
        [RequestSample(0.0, 0.1 * c, 0.1 * c + 1, 0.1 * c + 1, 128, 65)] * c,
        generates_text=True,
    )
    for c in (1, 4, 16, 32)
)
ROWS = tuple(
    figures((None, r), [RequestSample(0.0, 0.1, 0.1, 0.1)], generates_text=False)
    for r in (5.0, 10.0)
)
RESULT = LoadResult("writer", "writer:1", ("1/gguf",), "text-generation", Load(), TEXT,
                    {"method": "<script>", "seed": 0})  # fmt: skip


def test_a_row_per_level() -> None:
    assert [row[0] for row in rows(TEXT)] == [f"concurrency {c}" for c in (1, 4, 16, 32)]
    assert all(len(row) == len(headings(TEXT)) for row in rows(TEXT))
    assert rows(ROWS)[0] == ("rate 5/s", "1", "0", "100", "100", "10")
    assert headings(ROWS)[-1] == "requests/s"
    failed = figures(
        (1, None), [RequestSample(0.0, 0.0, 0.0, 1.0, error="overloaded")], generates_text=True
    )
    assert "1: overloaded 1" in rows([replace(failed, complete=False), *TEXT])[0]
    assert rows([replace(failed, complete=False), *TEXT])[0][0] == "concurrency 1 (stopped)"


def test_the_picture_is_a_document_of_its_own_with_a_dot_per_level() -> None:
    for levels, dots in ((TEXT, 4 + 8 + 8), (ROWS, 2 + 4)):
        root = ElementTree.fromstring(load_svg(levels, "a <b> & c", "note"))
        circles = [e for e in root.iter() if e.tag.endswith("circle")]
        assert len(circles) == dots
        assert "a <b> & c" in "".join(root.itertext())
        assert "NaN" not in "".join(str(e.attrib) for e in root.iter())
    assert len(panels(TEXT)) == 3 and len(panels(ROWS)) == 2


def test_levels_without_answers_are_drawn_without_dots() -> None:
    failed = figures((1, None), [RequestSample(0.0, 0.0, 0.0, 1.0, error="x")], generates_text=True)
    root = ElementTree.fromstring(load_svg([failed], "all failed"))
    assert all("nan" not in str(e.attrib).lower() for e in root.iter())


def test_the_page_escapes_names_and_sends_no_requests() -> None:
    page = load_page(RESULT)
    assert "&lt;script&gt;" in page and "<script" not in page
    assert not re.search(r"(?:src|href)=", page)
    assert "concurrency 32" in page and "variant 1/gguf" in page
    assert "stopped" in load_page(replace(RESULT, interrupted=True))
