"""Choice of the best candidate for an objective among those that passed."""

from __future__ import annotations

import pytest

from maas.domain.errors import InvalidInput
from maas.lifecycle.optimize.judgment.choose import checked_objective, choose
from maas.lifecycle.optimize.results import CandidateResult, Estimate, Measurement, Speed, Verdict


def speed(batch: int, latency: Estimate, rate: Estimate) -> Speed:
    one = Estimate(1.0, 1.0, 1.0)
    return Speed(batch, 100, one, one, one, latency, one, rate)


def result(
    name: str,
    *,
    latency: tuple[float, float, float] = (1.0, 0.95, 1.05),
    rate: tuple[float, float, float] = (1.0, 0.95, 1.05),
    size: float = 1.0,
    memory: float = 1.0,
    passed: bool = True,
) -> CandidateResult:
    measurement = Measurement(
        candidate=name,
        speeds=(
            speed(1, Estimate(*latency), Estimate(1, 1, 1)),
            speed(32, Estimate(1, 1, 1), Estimate(*rate)),
        ),
        file_bytes=int(1000 * size),
        file_ratio=size,
        resident_bytes=int(1e8 * memory),
        resident_ratio=memory,
        core_seconds_per_1000=Estimate(1, 1, 1),
        joules_per_1000=None,
        energy_note="",
    )
    verdict = Verdict(name, "", passed, ())
    return CandidateResult(name, "onnx", {}, measurement=measurement, verdict=verdict)


ORIGINAL = result("original")


def test_the_fastest_that_passed_is_chosen() -> None:
    name, reason = choose(
        "throughput",
        [
            ORIGINAL,
            result("a", rate=(1.5, 1.4, 1.6)),
            result("b", rate=(3.0, 2.9, 3.1)),
            result("rejected", rate=(9.0, 8.9, 9.1), passed=False),
        ],
    )
    assert name == "b"
    assert "of 2 that passed" in reason


def test_the_simpler_of_two_similar_candidates_is_chosen() -> None:
    name, reason = choose(
        "latency",
        [
            ORIGINAL,
            result("simple", latency=(0.52, 0.48, 0.56)),
            result("other", latency=(0.50, 0.47, 0.53)),
        ],
    )
    assert name == "simple"
    assert "other has 50 % (47 to 53 %)" in reason


def test_a_wide_interval_does_not_help_a_candidate() -> None:
    certain = result("certain", latency=(0.79, 0.77, 0.81))
    unsure = result("unsure", latency=(1.1, 0.67, 1.8))
    assert choose("latency", [ORIGINAL, unsure, certain])[0] == "certain"
    # A better value with a wide interval may be luck.
    lucky = result("lucky", latency=(0.6, 0.4, 0.9))
    assert choose("latency", [ORIGINAL, certain, lucky])[0] == "certain"


def test_a_noisy_candidate_does_not_exclude_a_proven_one() -> None:
    proven = result("proven", latency=(0.90, 0.89, 0.91))
    noisy = result("noisy", latency=(0.85, 0.50, 1.40))
    for order in ([proven, noisy], [noisy, proven]):
        name, reason = choose("latency", [ORIGINAL, *order])
        assert name == "proven"
        assert "90 % (89 to 91 %)" in reason
    # Of candidates that are significantly better, the best has the best bound.
    sure = result("sure", latency=(0.60, 0.59, 0.61))
    wide = result("wide", latency=(0.55, 0.32, 0.95))
    assert choose("latency", [ORIGINAL, proven, sure, wide])[0] == "sure"


def test_an_insignificant_improvement_does_not_replace_the_original() -> None:
    name, reason = choose("latency", [ORIGINAL, result("a", latency=(0.97, 0.90, 1.04))])
    assert name == "original"
    assert "not significantly better than the original" in reason
    slower = choose("latency", [ORIGINAL, result("a", latency=(1.2, 1.1, 1.3))])
    assert slower == (
        "original",
        "no candidate that passed is better for latency, so the original stays",
    )


def test_without_an_accepted_candidate_the_original_stays() -> None:
    name, reason = choose("size", [ORIGINAL, result("a", size=0.1, passed=False)])
    assert (name, reason) == ("original", "no candidate passed the gate, so the original stays")


def test_size_is_exact_and_memory_has_its_noise() -> None:
    both = [ORIGINAL, result("a", size=0.251, memory=0.80), result("b", size=0.25, memory=0.79)]
    assert choose("size", both)[0] == "b"
    assert choose("memory", both)[0] == "a"


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(InvalidInput, match="latency, throughput, size, memory"):
        checked_objective("speed")
