"""Check of a deployment's gate: a rule that the stored evidence of a variant must satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maas.domain.errors import Conflict, InvalidInput
from maas.domain.models import Evidence, Variant, Version

if TYPE_CHECKING:
    from maas.lifecycle.optimize.judgment.gate import Rule


def check_gate(gate: str, version: Version, variant: Variant, evidence: Sequence[Evidence]) -> None:
    """Raises InvalidInput for an invalid gate, Conflict with the reason if the evidence of the
    variant does not satisfy it.

    The version's first variant is the original that others are compared with, so it needs evidence
    only for rules that are about more than a difference.
    """
    # Imported with the first gate: NumPy would slow down every start of control.
    from maas.lifecycle.optimize.judgment.gate import Gate, judge  # noqa: PLC0415
    from maas.lifecycle.optimize.results import (  # noqa: PLC0415
        Comparison,
        Measurement,
        from_json,
    )

    parsed = Gate.parse(gate)
    is_original = variant == version.manifest.variants[0]
    if not parsed.rules or (is_original and all(_compares(r) for r in parsed.rules)):
        return
    name = f"{version.model}:{version.number}/{variant.name}"
    comparison = _newest(evidence, "comparison", variant.name)
    if comparison is None:
        raise Conflict(
            f"{name} has no evidence that satisfies the gate {gate!r}: it was never compared with "
            f"the original; `maas optimize {version.model}:{version.number} --gate '{gate}'` does",
            field="gate",
        )
    cost = _newest(evidence, "measurement", variant.name)
    try:
        measurement = None if cost is None else from_json(cost.values, Measurement)
        verdict = judge(parsed, from_json(comparison.values, Comparison), measurement)
    except InvalidInput as error:
        raise Conflict(f"the evidence of {name} cannot be read: {error.message}") from None
    if not verdict.passed:
        raise Conflict(f"{name} does not pass the gate {gate!r}: {verdict.reason}", field="gate")


def _compares(rule: Rule) -> bool:
    """Whether the original satisfies the rule by definition, with a difference of 0."""
    if rule.basis not in ("difference", "relative"):
        return False
    return rule.value <= 0 if rule.at_least else rule.value >= 0


def _newest(evidence: Sequence[Evidence], kind: str, variant: str) -> Evidence | None:
    matches = [e for e in evidence if e.kind == kind and e.variant == variant]
    return max(matches, key=lambda e: e.created_at, default=None)
