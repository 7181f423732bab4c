"""Figure of quality against the cost of the objective, with its table."""

from __future__ import annotations

from maas.domain.errors import InvalidInput
from maas.domain.numbers import format_number, format_range
from maas.lifecycle.drawing.page import Cell, figure, number, table
from maas.lifecycle.drawing.svg import escaped
from maas.lifecycle.metrics.metric_names import LOWER_IS_BETTER, named
from maas.lifecycle.optimize.judgment.choose import cost_ratio
from maas.lifecycle.optimize.judgment.gate import Gate, Rule
from maas.lifecycle.optimize.report.figure_names import figure_names
from maas.lifecycle.optimize.report.pictures import Point, pareto_svg
from maas.lifecycle.optimize.results import Difference, Estimate, Optimization

CAPTION = (
    "Dots passed the gate, crosses did not; numbers are those of the table below, 1 is the "
    "original. Thin lines are intervals: of quality, the 95 % confidence interval of the "
    "difference from the original; of cost, the range of 99.9 % of repeats of the measurement. A "
    "circle marks the chosen candidate. The gate requires a bound, so a cross may be above its "
    "line: that it stays there was not shown."
)


def quality_and_cost_figure(optimization: Optimization) -> str:
    """The figure as HTML; empty if no candidate was compared and measured."""
    metric, rule = _main_metric(optimization)
    points: list[Point] = []
    original: float | None = None
    for index, result in enumerate(optimization.results[1:], start=2):
        difference = result.comparison.difference(metric) if result.comparison else None
        if difference is None or difference.original is None or result.measurement is None:
            continue
        original = difference.original
        cost = cost_ratio(optimization.objective, result.measurement)
        status = "accepted" if result.passed else "rejected"
        chosen = result.name == optimization.chosen
        points.append(Point(index, result.name, cost, _level(difference), status, chosen))
    if original is None:
        return ""
    rows = [_row(point) for point in points]
    name = optimization.original.name
    unit_cost = Estimate(1.0, 1.0, 1.0)
    level = Estimate(original, original, original)
    chosen = name == optimization.chosen
    points.insert(0, Point(1, name, unit_cost, level, "original", chosen))
    lower_is_better = metric in LOWER_IS_BETTER or metric == "perplexity"
    quality_label = named(metric) + (" (lower is better)" if lower_is_better else "")
    cost_label = figure_names(optimization.task).costs[optimization.objective]
    drawing = pareto_svg(
        points,
        (cost_label, quality_label),
        threshold=_threshold(rule, original),
        higher_is_better=not lower_is_better,
    )
    columns = ("Cost", "99.9 %", escaped(named(metric)), "95 %")
    head: list[Cell] = ["Candidate", *map(number, columns)]
    numbers = table(head, rows, caption="Quality and cost")
    title = f"{named(metric)} against {optimization.objective}"
    return figure(title, drawing, CAPTION, numbers)


def _row(point: Point) -> list[Cell]:
    cost, quality = point.cost, point.quality
    cost_interval = "" if cost.low == cost.high else format_range(cost.low, cost.high)
    return [
        f"{point.number}. {escaped(point.name)}",
        number(escaped(format_number(cost.value))),
        number(escaped(cost_interval)),
        number(escaped(format_number(quality.value))),
        number(escaped(format_range(quality.low, quality.high))),
    ]


def _main_metric(optimization: Optimization) -> tuple[str, Rule | None]:
    """The first compared metric of the gate with its rule, or else the first compared metric."""
    comparisons = [r.comparison for r in optimization.results if r.comparison is not None]
    try:
        rules = Gate.parse(optimization.gate).rules
    except InvalidInput:
        rules = ()
    for rule in rules:
        if any(comparison.difference(rule.metric) for comparison in comparisons):
            return rule.metric, rule
    for comparison in comparisons:
        first = next(iter(comparison.differences), comparison.agreement)
        if first is not None:
            return first.metric, None
    return "", None


def _level(difference: Difference) -> Estimate:
    """The candidate's own value, with the interval of the difference."""
    before = difference.original or 0.0
    return Estimate(before + difference.value, before + difference.low, before + difference.high)


def _threshold(rule: Rule | None, original: float) -> float | None:
    """Value of the metric at which the rule starts to pass."""
    if rule is None:
        return None
    if rule.basis == "level":
        return rule.value
    return original * (1 + rule.value) if rule.basis == "relative" else original + rule.value
