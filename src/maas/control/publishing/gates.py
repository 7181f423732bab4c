"""Which variant may serve: what `auto` means, and a deployment's gate over stored evidence."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from maas.domain.errors import Conflict, InvalidInput
from maas.domain.models import Evidence, Variant, Version


def check_gate(gate: str, version: Version, variant: Variant, evidence: Sequence[Evidence]) -> None:
    """Raises InvalidInput for a gate that cannot be read, Conflict with the reason if what is known
    of the variant does not satisfy it.

    The version's first variant is what others are compared with, so it needs evidence only where
    a rule is about more than a difference.
    """
    gates: Any = import_module("maas.lifecycle.optimize.judgment.gate")  # brings NumPy
    words: Any = import_module("maas.lifecycle.optimize.results")
    parsed = gates.Gate.parse(gate)
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
    measured = _newest(evidence, "measurement", variant.name)
    try:
        verdict = gates.judge(
            parsed,
            words.from_json(comparison.values, words.Comparison),
            None if measured is None else words.from_json(measured.values, words.Measurement),
        )
    except InvalidInput as wrong:
        raise Conflict(f"the evidence of {name} cannot be read: {wrong.message}") from None
    if not verdict.passed:
        raise Conflict(f"{name} does not pass the gate {gate!r}: {verdict.reason}", field="gate")


def _compares(rule: Any) -> bool:
    """Whether the original satisfies the rule by being itself."""
    if rule.basis not in ("difference", "relative"):
        return False
    return bool(rule.value <= 0 if rule.at_least else rule.value >= 0)


def _newest(evidence: Sequence[Evidence], kind: str, variant: str) -> Evidence | None:
    found = [e for e in evidence if e.kind == kind and e.variant == variant]
    return max(found, key=lambda e: e.created_at, default=None)
