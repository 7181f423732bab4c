"""Report: every measurement of a version in one self-contained HTML file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from maas.domain.models import Manifest
from maas.domain.numbers import format_number, format_range
from maas.domain.signature import TensorSpec
from maas.lifecycle.drawing.page import Cell, facts, figure, number, page, pair, section, table
from maas.lifecycle.drawing.svg import escaped
from maas.lifecycle.evaluate import Evaluation
from maas.lifecycle.explain import Explanation
from maas.lifecycle.metrics.metric_names import IN_UNITS, LOWER_IS_BETTER, MAIN, named
from maas.lifecycle.pictures import explanation_figure, loss_curves_svg
from maas.lifecycle.report_parts import class_figures, regression_figures, slice_figures


@dataclass(frozen=True)
class ExplainedRow:
    """One explained row."""

    explanation: Explanation
    title: str = ""
    """Title such as `test row 17, true class 3`."""
    image: npt.NDArray[Any] | None = None
    """The row's pixels, if it is an image."""


@dataclass(frozen=True)
class Report:
    """Content of a version's report; the page leaves out what is missing."""

    manifest: Manifest
    evaluation: Evaluation | None = None
    training: Mapping[str, Any] | None = None
    """{curves: {loss, val_loss: one number per epoch}, epochs, seconds, seed, …}"""
    parity: Mapping[str, Any] | None = None
    """{max_abs_diff, rows, tolerance, passed, …}"""
    examples: tuple[ExplainedRow, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further lines of the table of facts: version number, data digest, machine, command."""
    created_at: float = 0.0
    """Seconds since the epoch, UTC."""


def render_report(report: Report) -> str:
    """One HTML document with inline style and pictures, without scripts or requests."""
    manifest = report.manifest
    content = [_header(report)]
    if report.evaluation is not None:
        content += _evaluation(report.evaluation)
    if report.training is not None:
        content.append(_training(report.training))
    if report.parity is not None:
        content.append(_parity(report.parity))
    content.append(_examples(report.examples))
    content.append(_published(manifest, report.facts))
    content.append("<footer>Made by OpenMaaS. This file is self-contained.</footer>")
    return page(f"{manifest.model}: report", content)


def _header(report: Report) -> str:
    manifest = report.manifest
    date = time.strftime("%-d %B %Y, %H:%M UTC", time.gmtime(report.created_at))
    kicker = str(manifest.task).replace("-", " ").capitalize()
    if report.created_at:
        kicker += f" · {date}"
    about = f"<p>{escaped(manifest.description)}</p>" if manifest.description else ""
    return (
        f'<header>\n<p class="kicker">{escaped(kicker)}</p>\n<h1>{escaped(manifest.model)}</h1>\n'
        f"{about}\n{_tiles(report.evaluation)}</header>"
    )


def _tiles(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    values, units = evaluation.values, evaluation.how.get("units")
    shown = [name for name in MAIN if values["metrics"].get(name) is not None]
    if "f1" in shown:
        shown.remove("f1_macro")
    shown = shown[:5]
    lines = []
    for name in shown:
        unit = f" {units}" if units and name in IN_UNITS else ""
        interval = values["intervals"].get(name)
        between = format_range(interval[0], interval[1]) if interval else "no interval"
        lines.append(
            f'<li><span class="name">{escaped(_named(name, values))}</span>'
            f"<b>{escaped(format_number(values['metrics'][name]) + unit)}</b>"
            f"<span>{escaped(between)}</span></li>"
        )
    rows = evaluation.how["rows"]
    note = f"Measured on {rows:,} rows"
    if evaluation.how["resamples"]:
        percent = round(evaluation.how["confidence"] * 100)
        note += f"; below each value is its {percent} % confidence interval"
    return (
        f'<ul class="tiles" aria-label="Main metrics">{"".join(lines)}</ul>\n'
        f'<p class="note">{note}.</p>\n'
    )


def _evaluation(evaluation: Evaluation) -> list[str]:
    values, units = evaluation.values, str(evaluation.how.get("units") or "")
    if "per_class" in values:
        pictures = class_figures(values)
    else:
        pictures = [("Errors", regression_figures(values, units))]
    how = facts(_lines(evaluation.how), caption="Method")
    metrics = pair(
        f"<figure><h3>Metrics</h3>{_metrics(values, units)}</figure>",
        f"<figure><h3>Method</h3>{how}</figure>",
    )
    sections = [section("All metrics", metrics)]
    sections += [section(title, content) for title, content in pictures]
    note = "The same metrics for each group of rows."
    sections.append(section("Slices", slice_figures(values), note=note))
    return sections


def _metrics(values: Mapping[str, Any], units: str) -> str:
    remarks = {**values["notes"], **values["undefined"]}
    rows: list[list[Cell]] = []
    for name, value in values["metrics"].items():
        interval = values["intervals"].get(name)
        between = format_range(interval[0], interval[1]) if interval else "–"
        unit = f" {units}" if units and name in IN_UNITS else ""
        better = "<small>lower is better</small>" if name in LOWER_IS_BETTER else ""
        shown = "undefined" if value is None else format_number(value) + unit
        row: list[Cell] = [escaped(_named(name, values)) + better, number(escaped(shown))]
        row.append(number(escaped(between)))
        rows.append([*row, (escaped(remarks.get(name, "")), "soft")] if remarks else row)
    head: list[Cell] = ["Metric", number("Value"), number("95 % interval")]
    return table([*head, "Remark"] if remarks else head, rows, caption="All metrics")


def _named(metric: str, values: Mapping[str, Any]) -> str:
    """The metric's name, with the class if it is a metric of one class of two."""
    if metric in ("precision", "recall", "f1"):
        return f"{named(metric)} of {values['classes'][1]}"
    return named(metric)


def _training(training: Mapping[str, Any]) -> str:
    curves = training.get("curves") or {}
    drawing = ""
    if any(curves.get(name) for name in ("loss", "val_loss")):
        best = training.get("best_epoch")
        names = [n for n in ("loss", "val_loss", "learning_rate") if curves.get(n)]
        rows: list[list[Cell]] = []
        for epoch, values in enumerate(zip(*(curves[n] for n in names), strict=False), start=1):
            rows.append([str(epoch), *(number(format_number(v, digits=5)) for v in values)])
        head: list[Cell] = ["Epoch", *(number(escaped(n.replace("_", " "))) for n in names)]
        drawing = figure(
            "Loss",
            loss_curves_svg(curves, best_epoch=best, alone=False),
            "A rising validation loss with a falling training loss indicates overfitting.",
            table(head, rows, caption="Loss by epoch"),
        )
    rest = _lines({name: value for name, value in training.items() if name != "curves"})
    heading = f"<h3>Training parameters</h3>{facts(rest, caption='Training')}"
    return section("Training", pair(drawing, f"<figure>{heading}</figure>" if rest else ""))


def _parity(parity: Mapping[str, Any]) -> str:
    passed = parity.get("passed")
    verdict = ""
    if passed is not None:
        kind, text = ("good", "Equal within tolerance") if passed else ("bad", "Beyond tolerance")
        verdict = f'<p class="{kind}">{text}</p>'
    rows = _lines({name: value for name, value in parity.items() if name != "passed"})
    note = "Outputs of the served form and of the original model on the same rows."
    return section("Parity", verdict + facts(rows, caption="Parity"), note=note)


def _examples(examples: Sequence[ExplainedRow]) -> str:
    parts = [
        explanation_figure(e.explanation, image=e.image, title=e.title or f"Example {index}")
        for index, e in enumerate(examples, start=1)
    ]
    note = (
        "Shapley values: the contribution of each input to the difference between the prediction "
        "and the baseline, the mean prediction over the background rows. They describe the model, "
        "not causes in the data."
    )
    return section("Explanations", pair(*parts), note=note)


def _published(manifest: Manifest, more: Mapping[str, Any]) -> str:
    rows = _lines(more)
    rows.append(("manifest SHA-256", f'<span class="code">{manifest.digest}</span>'))
    rows += _lines(manifest.metadata)
    sides = [("input", s) for s in manifest.signature.inputs]
    sides += [("output", s) for s in manifest.signature.outputs]
    tensors = [_tensor(side, spec) for side, spec in sides]
    files: list[list[Cell]] = []
    for variant in manifest.variants:
        for file in variant.files:
            size, digest = number(format_number(file.size)), (escaped(file.sha256), "code")
            names = [escaped(variant.name), escaped(variant.runtime), escaped(file.name)]
            files.append([*names, size, digest])
    head: list[Cell] = ["Variant", "Runtime", "File", number("Bytes"), "SHA-256"]
    return section(
        "Publication",
        facts(rows, caption="Publication"),
        "<h3>Signature</h3>",
        table(["", "Name", "Type", "Shape of a row", "Units", "Entries"], tensors),
        "<h3>Files</h3>",
        table(head, files, caption="Files"),
    )


def _tensor(side: str, spec: TensorSpec) -> list[Cell]:
    shape = " × ".join("any" if d == -1 else str(d) for d in spec.shape) or "one value"
    labels = ", ".join(spec.labels[:20]) + (" …" if len(spec.labels) > 20 else "")
    return [
        side,
        escaped(spec.name),
        spec.datatype,
        shape,
        escaped(spec.units or ""),
        (escaped(labels), "soft"),
    ]


WORDS = {
    "max_abs_diff": "largest difference",
    "max_rel_diff": "largest relative difference",
    "data_digest": "data SHA-256",
}


def _lines(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows for `facts`: display names, and values as HTML."""
    return [
        (WORDS.get(name, str(name).replace("_", " ")), _value(value))
        for name, value in values.items()
    ]


def _value(value: Any) -> str:
    """A JSON value as readable HTML."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, Mapping):
        return "<br>".join(f"{escaped(k)}: {_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(_value(v) for v in value[:20])
        return shown + (f" and {len(value) - 20} more" if len(value) > 20 else "")
    text = str(value)
    return f'<span class="code">{escaped(text)}</span>' if len(text) > 40 else escaped(text)
