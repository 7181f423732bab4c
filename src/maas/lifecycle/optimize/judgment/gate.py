"""Gate: rules that a candidate must be shown to satisfy before it may serve.

A rule is `METRIC>=VALUE` or `METRIC<=VALUE`; several are joined by `and` or a comma.

- A value with a sign, or 0, is about the difference from the original: `accuracy>=-0.01`.
- With a percent sign, about the difference as a share of the original's value: `mae<=+5%`.
- Without a sign, about the candidate itself: `accuracy>=0.95`, `file_mb<=6`.

A rule about quality holds only if its one-sided 95 % bound says so: what was not seen to be worse
is not what was shown not to be worse. `class_loss<=0.1` sets the guard that every gate has: no
class and no slice may have lost significantly more than that share of its rows.
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
    Measurement,
    RowGroup,
    RuleResult,
    Verdict,
)

CLASS_LOSS = 0.1
MOST_RULES = 20
MOST_NAMED = 5
MOST_CHARACTERS = 1000
NAME = "class_loss"

HIGHER = (
    "accuracy", "balanced_accuracy", "precision", "precision_macro", "precision_weighted", "recall",
    "recall_macro", "recall_weighted", "f1", "f1_macro", "f1_weighted", "roc_auc", "roc_auc_macro",
    "roc_auc_weighted", "pr_auc", "pr_auc_macro", "pr_auc_weighted", "r2", "agreement",
)  # fmt: skip
LOWER = ("log_loss", "brier", "mae", "rmse", "perplexity")
COSTS: Mapping[str, Callable[[Measurement], float | None]] = {
    "file_mb": lambda m: m.file_bytes / 1e6,
    "memory_mb": lambda m: m.resident_bytes / 1e6,
    "p50_ms": lambda m: m.speeds[0].p50_ms.high,
    "p99_ms": lambda m: m.speeds[0].p99_ms.high if m.speeds[0].p99_ms else None,
    "rows_per_s": lambda m: m.speeds[-1].rows_per_s.low if m.unit == "row" else None,
    "tokens_per_s": lambda m: m.speeds[-1].rows_per_s.low if m.unit == "token" else None,
    "first_token_ms": lambda m: m.speeds[0].first_ms.high if m.speeds[0].first_ms else None,
    "speedup": lambda m: m.speeds[-1].rows_per_s_ratio.low,
}
"""The cautious end of what was measured: latency of the smallest batch, throughput of the largest,
`speedup` over the original."""
COSTS_HIGHER = ("rows_per_s", "tokens_per_s", "speedup")

_RULE = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(>=|<=)\s*([+\-−]?)(\d+\.?\d*|\.\d+)\s*(%?)\s*")


@dataclass(frozen=True)
class Rule:
    metric: str
    at_least: bool
    value: float
    kind: str
    """difference | relative | level"""
    text: str


@dataclass(frozen=True)
class Gate:
    """Rules that all must hold, and how much a single class may lose."""

    rules: tuple[Rule, ...]
    class_loss: float = CLASS_LOSS
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Raises InvalidInput that says what is expected instead."""
        if len(text) > MOST_CHARACTERS:
            raise InvalidInput(
                f"a gate has at most {MOST_CHARACTERS} characters; got {len(text)}", field="gate"
            )
        parts = [p.strip() for p in re.split(r",|\band\b", text)]
        if not any(parts):
            return cls((), text=text)
        if len(parts) > MOST_RULES:
            raise InvalidInput(
                f"a gate has at most {MOST_RULES} rules; got {len(parts)}", field="gate"
            )
        rules = [_parse_rule(part) for part in parts]
        losses = [r.value for r in rules if r.metric == NAME]
        kept = tuple(r for r in rules if r.metric != NAME)
        return cls(kept, min(losses, default=CLASS_LOSS), text)


def _parse_rule(text: str) -> Rule:
    found = _RULE.fullmatch(text)
    if found is None:
        raise InvalidInput(
            "a rule is METRIC>=VALUE or METRIC<=VALUE, as in accuracy>=-0.01 (at most 1 point "
            f"worse than the original), accuracy>=0.95 or mae<=+5%; got {shown(text)}",
            field="gate",
        )
    metric, operator, sign, digits, percent = found.groups()
    value = float(digits) * (-1 if sign in ("-", "−") else 1) / (100 if percent else 1)
    rule = re.sub(r"\s", "", text)
    known = (*HIGHER, *LOWER, *COSTS, NAME)
    if metric not in known:
        raise InvalidInput(
            f"a rule names one of {', '.join(known)}; got {shown(metric)}", field="gate"
        )
    wanted = ">=" if metric in (*HIGHER, *COSTS_HIGHER) else "<="
    if operator != wanted:
        better = "higher" if wanted == ">=" else "lower"
        raise InvalidInput(
            f"{metric} is better where it is {better}: expected {metric}{wanted}VALUE; "
            f"got {shown(rule)}",
            field="gate",
        )
    kind = "relative" if percent else "difference" if sign or value == 0 else "level"
    plain = kind == "level" and not (metric == NAME and value > 1)
    if (metric in COSTS or metric == NAME) and not plain:
        raise InvalidInput(
            f"{metric} takes a number above 0 without a sign or percent"
            f"{', at most 1' if metric == NAME else ''}; got {shown(rule)}",
            field="gate",
        )
    return Rule(metric, operator == ">=", value, kind, rule)


def judge(gate: Gate, comparison: Comparison, measurement: Measurement | None = None) -> Verdict:
    """Whether the gate lets this candidate through, with a sentence for every rule."""
    results = [_judge_rule(rule, comparison, measurement) for rule in gate.rules]
    guarded, worse = _guard(gate.class_loss, comparison.groups)
    if guarded is not None:
        results.append(guarded)
    return Verdict(
        candidate=comparison.candidate,
        gate=gate.text,
        passed=all(r.passed for r in results),
        results=tuple(results),
        worse_groups=worse,
    )


def _judge_rule(rule: Rule, comparison: Comparison, measurement: Measurement | None) -> RuleResult:
    if rule.metric in COSTS:
        return _judge_cost(rule, measurement)
    found = comparison.difference(rule.metric)
    if found is None:
        told = [d.metric for d in comparison.differences]
        told += ["agreement"] if comparison.agreement else []
        why = f"{rule.metric} is not known; known are {', '.join(told) or 'none'}"
        return RuleResult(rule.text, False, why)
    seen, bound = _looked_at(rule, found)
    if bound is None or seen is None:
        why = f"{rule.metric}: the original's value is 0 or less, so no share of it can be given"
        return RuleResult(rule.text, False, why)
    direction = 1 if rule.at_least else -1
    if direction * (bound - rule.value) >= -1e-12:
        return RuleResult(rule.text, True, _told(rule, seen, bound))
    if direction * (seen - rule.value) < -1e-12:
        why = f"{_told(rule, seen, bound)}, which breaks {rule.text}"
        return RuleResult(rule.text, False, why)
    needed = _rows_needed(rule, found, seen, bound)
    more = f"; needs about {needed:,}" if needed else ""
    why = f"{_told(rule, seen, bound)}: {rule.text} cannot be shown with {found.rows:,} rows{more}"
    return RuleResult(rule.text, False, why, needed)


def _looked_at(rule: Rule, found: Difference) -> tuple[float | None, float | None]:
    """What was seen, and its cautious bound, of what the rule is about."""
    if rule.kind == "difference":
        return found.value, found.bound
    if rule.kind == "level":
        return found.candidate, found.level
    return (found.value / found.original if found.original else None), found.relative


def _told(rule: Rule, seen: float, bound: float) -> str:
    end = "at least" if rule.at_least else "at most"
    sure = f"{CONFIDENCE * 100:.0f} % sure to be {end}"
    if rule.kind == "level":
        return f"{rule.metric} is {format_number(seen)}, {sure} {format_number(bound)}"
    scale, unit = (100, " %") if rule.kind == "relative" else (1, "")
    return (
        f"{rule.metric} changed by {format_change(seen * scale)}{unit}, {sure} "
        f"{format_change(bound * scale)}{unit}"
    )


def _rows_needed(rule: Rule, found: Difference, seen: float, bound: float) -> int | None:
    """About how many rows would do. Of counts by the bound itself; otherwise because the distance
    of a bound falls with the root of the rows."""
    tail = 1 - CONFIDENCE
    if found.lost is not None and found.gained is not None and rule.kind == "difference":
        return rows_to_show(found.lost, found.gained, found.rows, rule.value, tail)
    if found.lost is not None and found.candidate is not None and rule.kind == "level":
        wrong = round((1 - found.candidate) * found.rows)
        return rows_to_show(wrong, 0, found.rows, rule.value - 1, tail)
    if seen == rule.value:
        return None
    return _rounded(found.rows * ((bound - seen) / (rule.value - seen)) ** 2)


def _rounded(rows: float) -> int:
    """Two digits are all that such a guess is worth."""
    scale = 10 ** max(0, len(str(int(rows))) - 2)
    return int(-(-rows // scale) * scale)


def _judge_cost(rule: Rule, measurement: Measurement | None) -> RuleResult:
    cautious = COSTS[rule.metric](measurement) if measurement is not None else None
    if cautious is None:
        why = "; it needs 100 answers in each run" if rule.metric == "p99_ms" else ""
        return RuleResult(rule.text, False, f"{rule.metric} was not measured{why}")
    held = cautious >= rule.value if rule.at_least else cautious <= rule.value
    told = (
        f"{rule.metric} is {'at least' if rule.at_least else 'at most'} {format_number(cautious)}"
    )
    return RuleResult(rule.text, held, told if held else f"{told}, which breaks {rule.text}")


def _guard(allowed: float, groups: Sequence[RowGroup]) -> tuple[RuleResult | None, tuple[str, ...]]:
    """Refuses what lost significantly more than `allowed` of the rows of any class or slice, and
    what takes more than that for a class that they are not of.

    One-sided tests of all of them together keep their error to 5 % by Holm's method.
    """
    losses = [loss for group in groups for loss in _losses(group)]
    if not losses:
        return None, ()
    fallen = holm([loss.p(allowed) for loss in losses], 1 - CONFIDENCE)
    worse = [loss for loss, fell in zip(losses, fallen, strict=True) if fell]
    worse.sort(key=lambda loss: (-loss.share, loss.takes_in))
    rule = f"{NAME}<={allowed:g}"
    if not worse:
        why = (
            f"none of {len(groups)} classes and slices lost significantly more than "
            f"{format_number(allowed * 100, digits=3)} % of its rows"
        )
        return RuleResult(rule, True, why), ()
    named = [loss.told() for loss in worse[:MOST_NAMED]]
    more = f" and {len(worse) - MOST_NAMED} more" if len(worse) > MOST_NAMED else ""
    why = f"{', '.join(named)}{more}; {format_number(allowed * 100, digits=3)} % is allowed"
    names = dict.fromkeys(f"{loss.group.kind} {loss.group.name}" for loss in worse)
    return RuleResult(rule, False, why), tuple(names)


@dataclass(frozen=True)
class _Loss:
    """What a class or a slice lost of its own rows, or a class took in of others' rows."""

    group: RowGroup
    found: Difference
    takes_in: bool

    @property
    def share(self) -> float:
        """In shares of the group's own rows."""
        return -self.found.value * self.found.rows / self.group.rows

    def p(self, allowed: float) -> float:
        if self.share <= allowed:
            return 1.0
        lost, gained = int(self.found.lost or 0), int(self.found.gained or 0)
        scaled = allowed * self.group.rows / self.found.rows
        return share_loss_p(lost, gained, self.found.rows, scaled)

    def told(self) -> str:
        name = f"{self.group.kind} {self.group.name}"
        if self.takes_in:
            more = int(self.found.lost or 0) - int(self.found.gained or 0)
            return f"{more:,} more rows of others are taken for {name} ({self.group.rows:,} rows)"
        return (
            f"{name} lost {format_number(self.share * 100, digits=3)} % of its "
            f"{self.group.rows:,} rows ({self.found.metric} {format_number(self.found.original)} → "
            f"{format_number(self.found.candidate)})"
        )


def _losses(group: RowGroup) -> list[_Loss]:
    own = [_Loss(group, d, False) for d in group.differences[:1] if d.lost is not None]
    others = group.difference("specificity")
    return own + ([_Loss(group, others, True)] if others is not None else [])
