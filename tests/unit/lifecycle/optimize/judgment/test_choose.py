"""The best for an objective among those that passed."""

from __future__ import annotations

import pytest

from maas.domain.errors import InvalidInput
from maas.lifecycle.optimize.judgment.choose import checked_objective, choose
from maas.lifecycle.optimize.results import CandidateResult, Estimate, Measurement, Speed, Verdict


def speed(batch: int, latency: Estimate, rate: Estimate) -> Speed:
    one = Estimate(1.0, 1.0, 1.0)
    return Speed(batch, 100, one, one, one, latency, one, rate)


def tried(
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


ORIGINAL = tried("original")


def test_the_fastest_that_passed_is_chosen() -> None:
    name, why = choose(
        "throughput",
        [
            ORIGINAL,
            tried("a", rate=(1.5, 1.4, 1.6)),
            tried("b", rate=(3.0, 2.9, 3.1)),
            tried("refused", rate=(9.0, 8.9, 9.1), passed=False),
        ],
    )
    assert name == "b"
    assert "of 2 that passed" in why


def test_of_those_that_cannot_be_told_apart_the_simpler_one_is_chosen() -> None:
    name, why = choose(
        "latency",
        [
            ORIGINAL,
            tried("simple", latency=(0.52, 0.48, 0.56)),
            tried("other", latency=(0.50, 0.47, 0.53)),
        ],
    )
    assert name == "simple"
    assert "other has 50 % (47 to 53 %)" in why


def test_who_is_little_known_is_not_chosen_for_that() -> None:
    known = tried("known", latency=(0.79, 0.77, 0.81))
    unsure = tried("unsure", latency=(1.1, 0.67, 1.8))
    assert choose("latency", [ORIGINAL, unsure, known])[0] == "known"
    # The other way round the best is only lucky, and the simple one certain.
    lucky = tried("lucky", latency=(0.6, 0.4, 0.9))
    assert choose("latency", [ORIGINAL, known, lucky])[0] == "known"


def test_a_noisy_candidate_does_not_keep_a_proven_one_out() -> None:
    proven = tried("proven", latency=(0.90, 0.89, 0.91))
    noisy = tried("noisy", latency=(0.85, 0.50, 1.40))
    for order in ([proven, noisy], [noisy, proven]):
        name, why = choose("latency", [ORIGINAL, *order])
        assert name == "proven"
        assert "90 % (89 to 91 %)" in why
    # Of those that are surely better, the best is the one with the best bound.
    sure = tried("sure", latency=(0.60, 0.59, 0.61))
    wide = tried("wide", latency=(0.55, 0.32, 0.95))
    assert choose("latency", [ORIGINAL, proven, sure, wide])[0] == "sure"


def test_what_cannot_be_told_from_the_original_does_not_replace_it() -> None:
    name, why = choose("latency", [ORIGINAL, tried("a", latency=(0.97, 0.90, 1.04))])
    assert name == "original"
    assert "cannot be told from the original" in why
    slower = choose("latency", [ORIGINAL, tried("a", latency=(1.2, 1.1, 1.3))])
    assert slower == ("original", "nothing that passed is better for latency: the original stays")


def test_if_none_passes_the_original_stays() -> None:
    name, why = choose("size", [ORIGINAL, tried("a", size=0.1, passed=False)])
    assert (name, why) == ("original", "no candidate passed the gate: the original stays")


def test_size_is_exact_and_memory_has_its_noise() -> None:
    both = [ORIGINAL, tried("a", size=0.251, memory=0.80), tried("b", size=0.25, memory=0.79)]
    assert choose("size", both)[0] == "b"
    assert choose("memory", both)[0] == "a"


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(InvalidInput, match="latency, throughput, size, memory"):
        checked_objective("speed")
