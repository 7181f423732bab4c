"""Report: every measurement of a version in one self-contained HTML file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from maas.domain.models import Manifest
from maas.domain.names import joined
from maas.domain.numbers import UNDEFINED, format_number, format_range
from maas.domain.signature import TensorSpec
from maas.lifecycle.drawing.page import (
    Cell,
    facts,
    figure,
    number,
    number_row,
    page,
    pair,
    section,
    table,
)
from maas.lifecycle.drawing.svg import escaped
from maas.lifecycle.evaluate import Evaluation
from maas.lifecycle.explain import Explanation
from maas.lifecycle.metrics.metric_names import IN_UNITS, LOWER_IS_BETTER, MAIN, named
from maas.lifecycle.pictures import explanation_figure, loss_curves_svg
from maas.lifecycle.report_parts import class_figures, regression_figures, slice_figures

MOST_LISTED = 20
"""Most labels of a tensor and items of a list that are written."""
LONGEST_PROSE = 40
"""Longer texts are written as code."""


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
    about = ""
    if manifest.description:
        about = f"<p>{escaped(manifest.description)}</p>"
    return (
        f'<header>\n<p class="kicker">{escaped(kicker)}</p>\n<h1>{escaped(manifest.model)}</h1>\n'
        f"{about}\n{_tiles(report.evaluation)}</header>"
    )


def _tiles(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    values, units = evaluation.values, str(evaluation.how.get("units") or "")
    shown = [name for name in MAIN if values["metrics"].get(name) is not None]
    if "f1" in shown:
        shown.remove("f1_macro")
    shown = shown[:5]
    lines = []
    for name in shown:
        value = _with_unit(name, values["metrics"][name], units)
        interval = _interval(name, values, "no interval")
        lines.append(
            f'<li><span class="name">{escaped(_named(name, values))}</span>'
            f"<b>{escaped(value)}</b><span>{escaped(interval)}</span></li>"
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
        label = escaped(_named(name, values))
        if name in LOWER_IS_BETTER:
            label += "<small>lower is better</small>"
        shown = "undefined"
        if value is not None:
            shown = _with_unit(name, value, units)
        row: list[Cell] = [label, number(escaped(shown))]
        row.append(number(escaped(_interval(name, values, UNDEFINED))))
        if remarks:
            row.append((escaped(remarks.get(name, "")), "soft"))
        rows.append(row)
    head = number_row("Metric", "Value", "95 % interval")
    if remarks:
        head.append("Remark")
    return table(head, rows, caption="All metrics")


def _with_unit(metric: str, value: float, units: str) -> str:
    """The value of a metric, with the units of the target if the metric has them."""
    if metric in IN_UNITS:
        return format_number(value, units)
    return format_number(value)


def _interval(metric: str, values: Mapping[str, Any], default: str) -> str:
    """The confidence interval of a metric, or `default` if it has none."""
    interval = values["intervals"].get(metric)
    if not interval:
        return default
    return format_range(interval[0], interval[1])


def _named(metric: str, values: Mapping[str, Any]) -> str:
    """The metric's name, with the class if it is a metric of one class of two."""
    if metric in ("precision", "recall", "f1"):
        return f"{named(metric)} of {values['classes'][1]}"
    return named(metric)


def _training(training: Mapping[str, Any]) -> str:
    curves = training.get("curves") or {}
    figures = []
    if curves.get("loss") or curves.get("val_loss"):
        drawing = loss_curves_svg(curves, best_epoch=training.get("best_epoch"), alone=False)
        caption = "A rising validation loss with a falling training loss indicates overfitting."
        figures.append(figure("Loss", drawing, caption, _losses_by_epoch(curves)))
    parameters = _lines(training, without="curves")
    if parameters:
        heading = "<h3>Training parameters</h3>"
        figures.append(f"<figure>{heading}{facts(parameters, caption='Training')}</figure>")
    return section("Training", pair(*figures))


def _losses_by_epoch(curves: Mapping[str, Any]) -> str:
    names = []
    columns = []
    for name in ("loss", "val_loss", "learning_rate"):
        if curves.get(name):
            names.append(name.replace("_", " "))
            columns.append(curves[name])
    rows = []
    for epoch, values in enumerate(zip(*columns, strict=False), start=1):
        rows.append(number_row(str(epoch), *(format_number(v, digits=5) for v in values)))
    return table(number_row("Epoch", *names), rows, caption="Loss by epoch")


def _parity(parity: Mapping[str, Any]) -> str:
    passed = parity.get("passed")
    verdict = ""
    if passed is not None:
        verdict = '<p class="bad">Beyond tolerance</p>'
        if passed:
            verdict = '<p class="good">Equal within tolerance</p>'
    rows = _lines(parity, without="passed")
    note = "Outputs of the served form and of the original model on the same rows."
    return section("Parity", verdict + facts(rows, caption="Parity"), note=note)


def _examples(examples: Sequence[ExplainedRow]) -> str:
    parts = []
    for index, example in enumerate(examples, start=1):
        title = example.title or f"Example {index}"
        parts.append(explanation_figure(example.explanation, image=example.image, title=title))
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
    tensors = [_tensor("input", spec) for spec in manifest.signature.inputs]
    tensors += [_tensor("output", spec) for spec in manifest.signature.outputs]
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


def _dimension(size: int) -> str:
    if size == -1:
        return "any"
    return str(size)


def _tensor(side: str, spec: TensorSpec) -> list[Cell]:
    shape = " × ".join(map(_dimension, spec.shape)) or "one value"
    labels = ", ".join(spec.labels[:MOST_LISTED])
    if len(spec.labels) > MOST_LISTED:
        labels += " …"
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


def _lines(values: Mapping[str, Any], *, without: str | None = None) -> list[tuple[str, str]]:
    """Rows for `facts`: display names, and values as HTML; `without` is a key to leave out."""
    lines = []
    for name, value in values.items():
        if name != without:
            lines.append((WORDS.get(name, str(name).replace("_", " ")), _value(value)))
    return lines


def _value(value: Any) -> str:
    """A JSON value as readable HTML."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format_number(value)
    if isinstance(value, Mapping):
        return "<br>".join(f"{escaped(k)}: {_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return joined([_value(item) for item in value], MOST_LISTED)
    text = str(value)
    if len(text) > LONGEST_PROSE:
        return f'<span class="code">{escaped(text)}</span>'
    return escaped(text)
