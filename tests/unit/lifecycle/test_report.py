"""The report: complete, well formed, self-contained, and safe with hostile names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from maas.domain.models import File, Manifest, Task, Variant
from maas.domain.numbers import format_number, format_range
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.drawing.page import POLICY
from maas.lifecycle.evaluate import EvaluationRequest, evaluate
from maas.lifecycle.explain import ExplainRequest, Explanation, explain
from maas.lifecycle.pictures import explanation_html
from maas.lifecycle.report import ExplainedRow, Report, render_report

HOSTILE = "\"><script>alert('x')</script><img src=https://evil.test/a onerror=1>&amp;\x00\ud800]]>"
VOID = {"meta", "img", "br", "link", "input"}
# fmt: off
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section",
    "h1", "h2", "h3", "p", "b", "small", "span", "ul", "li", "div", "figure", "figcaption",
    "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "img", "br", "svg",
    "rect", "line", "polyline", "circle", "text",
}
# fmt: on


class Reader(HTMLParser):
    """Collects the tags and texts of a page, and everything that could request or run something."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.undescribed: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        attributes = dict(attrs)
        for name, value in attrs:
            carried = tag == "img" and name == "src" and (value or "").startswith("data:")
            fetches = name in ("src", "href", "xlink:href", "srcset", "action")
            if (fetches or name.startswith("on")) and not carried:
                self.fetched.append(f"{tag} {name}={value}")
        if tag == "img" and not attributes.get("alt"):
            self.undescribed.append(tag)
        if tag == "svg" and not (attributes.get("role") == "img" and attributes.get("aria-label")):
            self.undescribed.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def manifest(task: Task, name: str = "digits", text: str = "") -> Manifest:
    entries = ("a", "b", text) if text else ("a", "b", "c")
    return Manifest(
        name,
        task,
        Signature(
            (TensorSpec("x", "FP64", (3,), units=text or "cm", labels=entries),),
            (TensorSpec("y", "FP64", (2,), labels=(text or "no", "yes")),),
        ),
        (Variant("onnx", "onnx", (File("model.onnx", "ab" * 32, 1234),)),),
        description=text,
        metadata={"data": text or "bundled", text or "seed": {text or "deep": [text, 1.5, True]}},
    )


def explanation(text: str = "") -> Explanation:
    request = ExplainRequest(manifest(Task.BINARY, text=text).signature, {"x": [1, 2, 3]})
    return explain(request, lambda i: {"y": i["x"][:, :2] * 0.1})


def image_example(text: str = "") -> ExplainedRow:
    spec = Signature((TensorSpec("x", "FP32", (6, 5)),), (TensorSpec("y", "FP32", ()),))
    pixels = np.arange(30.0).reshape(6, 5)
    explanation = explain(ExplainRequest(spec, {"x": pixels}), lambda i: {"y": i["x"][:, 2, 3]})
    return ExplainedRow(explanation, text or "Test row 0", pixels)


def report(text: str = "", classes: int = 3) -> Report:
    generator = np.random.default_rng(0)
    true = np.r_[np.arange(classes), generator.integers(0, classes, 150)]
    scores = generator.dirichlet(np.ones(classes), len(true)) + np.eye(classes)[true]
    scores /= scores.sum(axis=1, keepdims=True)
    names = tuple(f"{text}{i}" for i in range(classes))
    groups = np.where(true % 2 == 0, f"even {text}", "odd")
    task = Task.BINARY if classes == 2 else Task.MULTICLASS
    measured = evaluate(
        EvaluationRequest(
            task, true, scores.argmax(axis=1), scores, names, {text or "kind": groups}, resamples=50
        )
    )
    curves = {"loss": [2.0, 1.0, 0.01], "val_loss": [2.1, 1.2, 0.4], "learning_rate": [0.1] * 3}
    return Report(
        manifest(task, text=text),
        measured,
        {"curves": curves, "best_epoch": 3, "note": text, "seconds": 1.25},
        {"max_abs_diff": 1e-7, "rows": 10, "passed": True, text or "more": text},
        (ExplainedRow(explanation(text), text), image_example(text)),
        {text or "version": text or 3},
        created_at=1.7e9,
    )


def regression_report(values: Any = None) -> Report:
    true = np.linspace(1, 9, 80) if values is None else np.asarray(values, float)
    measured = evaluate(
        EvaluationRequest(Task.REGRESSION, true, true * 1.1, units="m³", resamples=50)
    )
    return Report(manifest(Task.REGRESSION), measured)


PAGES: dict[str, Callable[[], Report]] = {
    "classes": lambda: report(),
    "two classes": lambda: report(classes=2),
    "many classes": lambda: report(classes=60),
    "hostile": lambda: report(HOSTILE),
    "regression": regression_report,
    "one row": lambda: regression_report([0.0]),
    "constant": lambda: regression_report([5.0, 5.0, 5.0]),
    "empty": lambda: Report(manifest(Task.OTHER)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_every_page_is_well_formed_accessible_and_self_contained(kind: str) -> None:
    page = render_report(PAGES[kind]())
    read = Reader(page)
    assert read.open == []
    assert set(read.tags) <= ALLOWED
    assert read.fetched == []
    assert read.undescribed == []
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in page
    assert POLICY == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page.encode("utf-8")
    for svg in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(svg)
    for style in re.findall(r"<style>.*?</style>", page, re.S):
        assert "url(" not in style
        assert "@import" not in style
        assert "prefers-color-scheme:dark" in style
    assert "nan" not in re.findall(r'="([^"]*)"', page)
    assert not re.search(r'(points|x|y|cx|cy|width|height)="[^"]*(nan|inf)', page)


def test_addresses_appear_only_as_text() -> None:
    page = render_report(report())
    assert not re.search(r"https?://", page)
    hostile = Reader(render_report(report(HOSTILE)))
    assert "script" not in hostile.tags
    assert any("<script>alert('x')</script>" in text for text in hostile.texts)


def test_a_report_contains_every_measurement() -> None:
    document = report()
    assert document.evaluation is not None
    text = " ".join(Reader(render_report(document)).texts)
    for heading in (
        "All metrics", "Method", "Confusion matrix", "F1 by class", "ROC",
        "Precision and recall", "Reliability", "By kind", "Loss", "Parity",
        "Explanations", "Publication",
    ):  # fmt: skip
        assert heading in text, heading
    for name in ("accuracy", "f1_macro", "roc_auc_macro", "log_loss", "ece"):
        value = document.evaluation.values["metrics"][name]
        low, high = document.evaluation.values["intervals"][name]
        assert f" {format_number(value)} {format_range(low, high)} " in text, name
    assert document.manifest.digest in text
    assert "<h1>digits</h1>" in render_report(document)
    assert "ab" * 32 in text
    assert "14 November 2023, 22:13 UTC" in text
    assert "additivity error" in text


def test_an_undefined_metric_is_shown_with_its_reason() -> None:
    document = report()
    assert document.evaluation is not None
    true = np.array([0, 1, 1, 0])
    measured = evaluate(EvaluationRequest(Task.BINARY, true, true, resamples=20))
    text = " ".join(Reader(render_report(replace(document, evaluation=measured))).texts)
    assert "the model has no scores" in text
    assert "undefined" in text


def test_rendering_is_deterministic() -> None:
    document = report()
    assert render_report(document) == render_report(document)


def test_an_explanation_has_a_page_of_its_own() -> None:
    read = Reader(explanation_html(explanation(HOSTILE)))
    assert read.open == []
    assert read.fetched == []
    assert "script" not in read.tags
