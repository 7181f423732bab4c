"""Gate: rules that a candidate must be shown to satisfy before it may serve.

A rule is `METRIC>=VALUE` or `METRIC<=VALUE`; several rules are joined by `and` or a comma.

- With a sign, or 0, the value limits the difference from the original: `accuracy>=-0.01`.
- With a percent sign it limits the difference as a share of the original's value: `mae<=+5%`.
- Without a sign it limits the candidate's own value: `accuracy>=0.95`, `file_mb<=6`.

A rule about quality passes only if its one-sided 95 % bound satisfies it: a loss that was not
observed has not been ruled out. `class_loss<=0.1` sets the limit of the guard that every gate has:
no class and no slice may have lost significantly more than that share of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.domain.numbers import format_change, format_number
from maas.lifecycle.optimize.judgment.bounds import holm, rows_to_show, share_loss_p
from maas.lifecycle.optimize.results import (
    CONFIDENCE,
    Comparison,
    Difference,
    Estimate,
    Measurement,
    RowGroup,
    RuleResult,
    Verdict,
)

CLASS_LOSS = 0.1
MOST_RULES = 20
MOST_NAMED = 5
MOST_CHARACTERS = 1000
GUARD = "class_loss"
TOLERANCE = 1e-12
"""Tolerance for rounding errors when a value is compared with that of a rule."""

HIGHER_IS_BETTER = (
    "accuracy", "balanced_accuracy", "precision", "precision_macro", "precision_weighted", "recall",
    "recall_macro", "recall_weighted", "f1", "f1_macro", "f1_weighted", "roc_auc", "roc_auc_macro",
    "roc_auc_weighted", "pr_auc", "pr_auc_macro", "pr_auc_weighted", "r2", "agreement",
)  # fmt: skip
LOWER_IS_BETTER = ("log_loss", "brier", "mae", "rmse", "perplexity")
COSTS: Mapping[str, Callable[[Measurement], float | None]] = {
    "file_mb": lambda m: m.file_bytes / 1e6,
    "memory_mb": lambda m: m.resident_bytes / 1e6,
    "p50_ms": lambda m: m.speeds[0].p50_ms.high,
    "p99_ms": lambda m: _high(m.speeds[0].p99_ms),
    "rows_per_s": lambda m: m.speeds[-1].rows_per_s.low if m.unit == "row" else None,
    "tokens_per_s": lambda m: m.speeds[-1].rows_per_s.low if m.unit == "token" else None,
    "first_token_ms": lambda m: _high(m.speeds[0].first_ms),
    "speedup": lambda m: m.speeds[-1].rows_per_s_ratio.low,
}
"""Cautious end of each measured interval: latency of the smallest batch, throughput of the largest,
and `speedup` over the original."""
COSTS_HIGHER_IS_BETTER = ("rows_per_s", "tokens_per_s", "speedup")

_RULE = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(>=|<=)\s*([+\-−]?)(\d+\.?\d*|\.\d+)\s*(%?)\s*")


@dataclass(frozen=True)
class Rule:
    """One rule of a gate."""

    metric: str
    at_least: bool
    value: float
    basis: str
    """difference | relative | level: what the value limits."""
    text: str


@dataclass(frozen=True)
class Gate:
    """Rules that must all pass, and the largest share of its rows that a class may lose."""

    rules: tuple[Rule, ...]
    class_loss: float = CLASS_LOSS
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Raises InvalidInput, with the expected form, if the text is not a gate."""
        if len(text) > MOST_CHARACTERS:
            raise InvalidInput(
                f"a gate has at most {MOST_CHARACTERS} characters; got {len(text)}", field="gate"
            )
        parts = [part.strip() for part in re.split(r",|\band\b", text)]
        if not any(parts):
            return cls((), text=text)
        if len(parts) > MOST_RULES:
            raise InvalidInput(
                f"a gate has at most {MOST_RULES} rules; got {len(parts)}", field="gate"
            )
        parsed = [_parse_rule(part) for part in parts]
        limits = [rule.value for rule in parsed if rule.metric == GUARD]
        rules = tuple(rule for rule in parsed if rule.metric != GUARD)
        return cls(rules, min(limits, default=CLASS_LOSS), text)


def _parse_rule(text: str) -> Rule:
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidInput(
            "a rule is METRIC>=VALUE or METRIC<=VALUE, as in accuracy>=-0.01 (at most 1 point "
            f"worse than the original), accuracy>=0.95 or mae<=+5%; got {shown(text)}",
            field="gate",
        )
    metric, operator, sign, digits, percent = match.groups()
    value = float(digits) * (-1 if sign in ("-", "−") else 1) / (100 if percent else 1)
    rule = re.sub(r"\s", "", text)
    metrics = (*HIGHER_IS_BETTER, *LOWER_IS_BETTER, *COSTS, GUARD)
    if metric not in metrics:
        raise InvalidInput(
            f"the metric of a rule must be one of {', '.join(metrics)}; got {shown(metric)}",
            field="gate",
        )
    higher = metric in (*HIGHER_IS_BETTER, *COSTS_HIGHER_IS_BETTER)
    expected, better = (">=", "higher") if higher else ("<=", "lower")
    if operator != expected:
        raise InvalidInput(
            f"{better} values of {metric} are better, so its rule must be "
            f"{metric}{expected}VALUE; got {shown(rule)}",
            field="gate",
        )
    basis = "level"
    if percent:
        basis = "relative"
    elif sign or value == 0:
        basis = "difference"
    if metric in COSTS or metric == GUARD:
        _check_plain_value(metric, basis, value, rule)
    return Rule(metric, operator == ">=", value, basis, rule)


def _check_plain_value(metric: str, basis: str, value: float, rule: str) -> None:
    """Raises InvalidInput unless the value is a level that a cost or the guard can have."""
    if basis == "level" and not (metric == GUARD and value > 1):
        return
    limit = ", at most 1" if metric == GUARD else ""
    raise InvalidInput(
        f"the value of {metric} must be a number above 0 without a sign or percent{limit}; got "
        f"{shown(rule)}",
        field="gate",
    )


def judge(gate: Gate, comparison: Comparison, measurement: Measurement | None = None) -> Verdict:
    """Verdict of the gate, with one sentence for each rule and for the guard."""
    results = [_judge_rule(rule, comparison, measurement) for rule in gate.rules]
    guard_result, worse_groups = _judge_groups(gate.class_loss, comparison.groups)
    if guard_result is not None:
        results.append(guard_result)
    return Verdict(
        candidate=comparison.candidate,
        gate=gate.text,
        passed=all(result.passed for result in results),
        results=tuple(results),
        worse_groups=worse_groups,
    )


def _judge_rule(rule: Rule, comparison: Comparison, measurement: Measurement | None) -> RuleResult:
    if rule.metric in COSTS:
        return _judge_cost(rule, measurement)
    difference = comparison.difference(rule.metric)
    if difference is None:
        compared = [d.metric for d in comparison.differences]
        compared += ["agreement"] if comparison.agreement else []
        names = ", ".join(compared) or "none"
        reason = f"{rule.metric} was not compared; the compared metrics are {names}"
        return RuleResult(rule.text, False, reason)
    value, bound = _value_and_bound(rule, difference)
    if bound is None or value is None:
        reason = f"{rule.metric}: a relative rule needs an original value above 0"
        return RuleResult(rule.text, False, reason)
    direction = 1 if rule.at_least else -1
    finding = _finding(rule, value, bound)
    if direction * (bound - rule.value) >= -TOLERANCE:
        return RuleResult(rule.text, True, finding)
    if direction * (value - rule.value) < -TOLERANCE:
        return RuleResult(rule.text, False, f"{finding}, which violates {rule.text}")
    needed = _rows_needed(rule, difference, value, bound)
    reason = f"{finding}: {rule.text} cannot be shown with {difference.rows:,} rows"
    if needed:
        reason += f"; about {needed:,} rows are needed"
    return RuleResult(rule.text, False, reason, needed)


def _value_and_bound(rule: Rule, difference: Difference) -> tuple[float | None, float | None]:
    """Observed value and cautious bound of the quantity that the rule limits."""
    if rule.basis == "difference":
        return difference.value, difference.bound
    if rule.basis == "level":
        return difference.candidate, difference.level
    relative = difference.value / difference.original if difference.original else None
    return relative, difference.relative


def _finding(rule: Rule, value: float, bound: float) -> str:
    end = "at least" if rule.at_least else "at most"
    confidence = f"with {CONFIDENCE * 100:.0f} % confidence"
    if rule.basis == "level":
        return f"{rule.metric} is {format_number(value)}, {confidence} {end} {format_number(bound)}"
    scale, unit = (100, "%") if rule.basis == "relative" else (1, "")
    return (
        f"{rule.metric} changed by {format_change(value * scale, unit)}, {confidence} by {end} "
        f"{format_change(bound * scale, unit)}"
    )


def _rows_needed(rule: Rule, difference: Difference, value: float, bound: float) -> int | None:
    """Approximate number of rows that would satisfy the rule.

    For counts it is computed from the bound itself; for other metrics it assumes that the distance
    of the bound decreases with the square root of the rows. None if no number of rows would do.
    """
    tail = 1 - CONFIDENCE
    lost, gained, rows = difference.lost, difference.gained, difference.rows
    if lost is not None and gained is not None and rule.basis == "difference":
        return rows_to_show(lost, gained, rows, rule.value, tail)
    if lost is not None and difference.candidate is not None and rule.basis == "level":
        wrong = round((1 - difference.candidate) * rows)
        return rows_to_show(wrong, 0, rows, rule.value - 1, tail)
    if value == rule.value:
        return None
    return _two_digits(rows * ((bound - value) / (rule.value - value)) ** 2)


def _two_digits(rows: float) -> int:
    """Rounds up to two significant digits, which is all the precision of such an estimate."""
    scale = 10 ** max(0, len(str(int(rows))) - 2)
    return int(-(-rows // scale) * scale)


def _high(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.high


def _judge_cost(rule: Rule, measurement: Measurement | None) -> RuleResult:
    cautious = COSTS[rule.metric](measurement) if measurement is not None else None
    if cautious is None:
        reason = f"{rule.metric} was not measured"
        if rule.metric == "p99_ms":
            reason += ": p99 is reported only for runs with at least 100 requests"
        return RuleResult(rule.text, False, reason)
    passed = cautious >= rule.value if rule.at_least else cautious <= rule.value
    end = "at least" if rule.at_least else "at most"
    finding = f"{rule.metric} is {end} {format_number(cautious)}"
    reason = finding if passed else f"{finding}, which violates {rule.text}"
    return RuleResult(rule.text, passed, reason)


def _judge_groups(
    allowed: float, groups: Sequence[RowGroup]
) -> tuple[RuleResult | None, tuple[str, ...]]:
    """Result of the guard, and the names of the classes and slices that violate it.

    A group violates it if it lost significantly more than `allowed` of its rows. So does a class if
    it is predicted for that many more rows of other classes. Holm's method limits the error of all
    one-sided tests together to 5 %.
    """
    losses: list[_Loss] = []
    for group in groups:
        losses += _losses(group)
    if not losses:
        return None, ()
    significant = holm([loss.p(allowed) for loss in losses], 1 - CONFIDENCE)
    worse = [loss for loss, is_worse in zip(losses, significant, strict=True) if is_worse]
    worse.sort(key=lambda loss: (-loss.share, loss.from_others))
    rule = f"{GUARD}<={allowed:g}"
    limit = format_number(allowed * 100, "%", digits=3)
    if not worse:
        reason = (
            f"none of {len(groups)} classes and slices lost significantly more than {limit} of "
            "its rows"
        )
        return RuleResult(rule, True, reason), ()
    sentences = ", ".join(loss.text() for loss in worse[:MOST_NAMED])
    more = f" and {len(worse) - MOST_NAMED} more" if len(worse) > MOST_NAMED else ""
    names = dict.fromkeys(loss.name for loss in worse)
    return RuleResult(rule, False, f"{sentences}{more}; {limit} is allowed"), tuple(names)


@dataclass(frozen=True)
class _Loss:
    """Rows that a class or slice lost, or rows of other classes that a class gained."""

    group: RowGroup
    difference: Difference
    from_others: bool

    @property
    def name(self) -> str:
        return f"{self.group.grouping} {self.group.name}"

    @property
    def share(self) -> float:
        """As a share of the group's own rows."""
        return -self.difference.value * self.difference.rows / self.group.rows

    def p(self, allowed: float) -> float:
        """p-value of the hypothesis that the share is at most `allowed`."""
        if self.share <= allowed:
            return 1.0
        lost, gained = int(self.difference.lost or 0), int(self.difference.gained or 0)
        scaled = allowed * self.group.rows / self.difference.rows
        return share_loss_p(lost, gained, self.difference.rows, scaled)

    def text(self) -> str:
        difference, rows = self.difference, f"{self.group.rows:,} rows"
        if self.from_others:
            more = int(difference.lost or 0) - int(difference.gained or 0)
            return f"{self.name} ({rows}) is predicted for {more:,} more rows of other classes"
        before, after = format_number(difference.original), format_number(difference.candidate)
        return (
            f"{self.name} lost {format_number(self.share * 100, '%', digits=3)} of its {rows} "
            f"({difference.metric} {before} → {after})"
        )


def _losses(group: RowGroup) -> list[_Loss]:
    losses = [_Loss(group, d, False) for d in group.differences[:1] if d.lost is not None]
    specificity = group.difference("specificity")
    if specificity is not None:
        losses.append(_Loss(group, specificity, True))
    return losses
