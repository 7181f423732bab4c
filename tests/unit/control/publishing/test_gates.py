"""A deployment's gate over the stored evidence of a variant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from maas.control.publishing.gates import check_gate
from maas.domain.errors import Conflict, InvalidInput
from maas.domain.models import Evidence, File, Variant, Version, best_variant
from maas.lifecycle.optimize.results import Comparison, Difference, to_json
from tests.integration.storage.examples import digest_of, manifest

SMALL = Variant("small", "onnx", (File("model.onnx", digest_of(b"b"), 1),))
VERSION = Version("digits", 1, manifest(), 0.0, added=(SMALL,))
ORIGINAL = VERSION.manifest.variants[0]
NOT_WORSE = Difference("accuracy", 0.95, 0.95, 0.0, -0.004, 0.004, -0.003, 0.93, -0.0031, 900, "m")


def compared(difference: Difference, variant: str = "small", at: float = 1.0) -> Evidence:
    comparison = Comparison(variant, difference.rows, (difference,))
    return Evidence("comparison", to_json(comparison), {}, variant, created_at=at)


def test_a_variant_whose_evidence_satisfies_the_gate_passes() -> None:
    check_gate("accuracy>=-0.01", VERSION, SMALL, [compared(NOT_WORSE)])
    check_gate("accuracy>=0.9", VERSION, SMALL, [compared(NOT_WORSE)])


def test_a_variant_whose_evidence_does_not_is_refused_with_the_reason() -> None:
    unsure = replace(NOT_WORSE, bound=-0.02, low=-0.03)
    with pytest.raises(Conflict, match=r"digits:1/small does not pass .*accuracy changed by"):
        check_gate("accuracy>=-0.01", VERSION, SMALL, [compared(unsure)])


def test_the_newest_evidence_counts() -> None:
    unsure = replace(NOT_WORSE, bound=-0.02, low=-0.03)
    old_and_new = [compared(NOT_WORSE, at=2.0), compared(unsure, at=1.0)]
    check_gate("accuracy>=-0.01", VERSION, SMALL, old_and_new)
    with pytest.raises(Conflict):
        check_gate("accuracy>=-0.01", VERSION, SMALL, [compared(NOT_WORSE), compared(unsure, at=3)])


def test_a_variant_without_evidence_is_refused() -> None:
    others = [compared(NOT_WORSE, "onnx"), Evidence("metrics", {"accuracy": 1.0}, {}, "small")]
    with pytest.raises(Conflict, match="never compared with the original; `maas optimize digits:1"):
        check_gate("accuracy>=-0.01", VERSION, SMALL, others)


def test_the_original_passes_rules_about_differences_only() -> None:
    check_gate("accuracy>=-0.01", VERSION, ORIGINAL, [])
    check_gate("mae<=+5%", VERSION, ORIGINAL, [])
    for rule in ("accuracy>=0.99", "accuracy>=+0.01", "file_mb<=1"):
        with pytest.raises(Conflict, match="never compared"):
            check_gate(rule, VERSION, ORIGINAL, [])


def test_a_variant_with_invalid_evidence_is_refused() -> None:
    wrong = Evidence("comparison", {"candidate": 3}, {}, "small")
    with pytest.raises(Conflict, match="cannot be read"):
        check_gate("accuracy>=-0.01", VERSION, SMALL, [wrong])


def test_an_invalid_gate_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a rule"):
        check_gate("beautiful", VERSION, SMALL, [])


def test_auto_is_the_best_variant_of_the_newest_optimization() -> None:
    def chosen(name: str, at: float) -> Evidence:
        return Evidence("optimization", {"chosen": name, "threads": 2}, {}, created_at=at)

    evidence = [chosen("small", 2.0), chosen("onnx", 1.0)]
    assert best_variant(VERSION, evidence) == (SMALL, 2)
    with pytest.raises(Conflict, match="`maas optimize digits:1` finds one"):
        best_variant(VERSION, [])
    with pytest.raises(InvalidInput, match="has no variant 'gone'"):
        best_variant(VERSION, [chosen("gone", 1.0)])
