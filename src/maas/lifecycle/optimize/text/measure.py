"""Measure: what a language model costs, in turns with the original on the same machine.

As `optimize/measure.py` does it for rows: a sitting is one fresh process of each, turns alternate,
ratios are of turns beside each other, and an interval is where 99 % of repeats fall. A turn is one
wave of answers, all of the same number of tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import numpy as np

from maas.domain.signature import Signature
from maas.lifecycle.optimize.energy import Meter
from maas.lifecycle.optimize.measure import OtherWork, repeat_interval
from maas.lifecycle.optimize.text.process import TextProcess
from maas.lifecycle.optimize.words import Candidate, Estimate, Measurement, Speed

AT_ONCE = (1, 16)
ROUNDS = 2
TOKENS = 24
"""Of every answer."""


@dataclass(frozen=True)
class Turn:
    tokens_per_s: float
    answer_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    core_s_per_1000: float
    joules_per_1000: float


@dataclass
class Sitting:
    """Turns by number of answers at once, side by side; and what the processes needed."""

    original: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    candidate: dict[int, list[Turn]] = field(default_factory=lambda: defaultdict(list))
    original_bytes: int = 0
    candidate_bytes: int = 0
    cpu_s: float = 0.0


def measure_text(
    candidate: Candidate, original: Candidate, signature: Signature, sittings: int, seconds: float
) -> Measurement:
    """Tokens per second, time of answers and to their first token, memory and work."""
    meter, watch = Meter.find(), OtherWork()
    found = []
    for _ in range(sittings):
        with TextProcess(original, signature) as first, TextProcess(candidate, signature) as other:
            found.append(_sit(first, other, seconds, meter))
    notes = watch.notes(sum(s.cpu_s for s in found))
    largest = AT_ONCE[-1]
    files, files_before = (_bytes(c) for c in (candidate, original))
    resident = [float(s.candidate_bytes) for s in found]
    every = [turn for s in found for turn in s.candidate[largest]]
    work = [fmean(t.core_s_per_1000 for t in s.candidate[largest]) for s in found]
    return Measurement(
        candidate=candidate.name,
        speeds=tuple(_speed(at_once, found) for at_once in AT_ONCE),
        file_bytes=files,
        file_ratio=files / files_before,
        resident_bytes=int(median(resident)),
        resident_ratio=median(resident) / median(s.original_bytes for s in found),
        core_seconds_per_1000=repeat_interval(work),
        joules_per_1000=fmean(t.joules_per_1000 for t in every) if meter.zones else None,
        joules_why=meter.why,
        notes=tuple(notes),
        how={
            "sittings": sittings,
            "rounds": ROUNDS,
            "seconds_per_turn": seconds,
            "tokens_per_answer": TOKENS,
            "threads": candidate.threads,
            "original_threads": original.threads,
            "interval": "where 99 % of repeats fall, Student's t over sittings",
            "resident": "resident set of a fresh process after its first answers, median",
        },
        unit="token",
    )


def _sit(first: TextProcess, second: TextProcess, seconds: float, meter: Meter) -> Sitting:
    sitting = Sitting()
    for process in (first, second):
        for at_once in AT_ONCE:
            process.turn(at_once, TOKENS // 4, 0.0)
    states = [process.state() for process in (first, second)]
    sitting.original_bytes, sitting.candidate_bytes = (int(s["resident"]) for s in states)
    for number in range(ROUNDS):
        for at_once in AT_ONCE:
            order = [(first, sitting.original), (second, sitting.candidate)]
            for process, turns in order if number % 2 == 0 else order[::-1]:
                turns[at_once].append(_turn(process, at_once, seconds, meter))
    sitting.cpu_s = sum(p.state()["cpu"] for p in (first, second)) / 1e9
    return sitting


def _turn(process: TextProcess, at_once: int, seconds: float, meter: Meter) -> Turn:
    started = meter.read()
    got = process.turn(at_once, TOKENS, seconds)
    thousands = got["tokens"] / 1000
    return Turn(
        tokens_per_s=got["tokens"] / (got["wall"] / 1e9),
        answer_ms=tuple(d / 1e6 for d in got["durations"]),
        first_ms=tuple(d / 1e6 for d in got["firsts"]),
        core_s_per_1000=got["cpu"] / 1e9 / thousands,
        joules_per_1000=meter.joules_since(started) / thousands,
    )


def _speed(at_once: int, sittings: Sequence[Sitting]) -> Speed:
    """Each figure once per sitting, then their mean with its interval."""

    def both(figure: Callable[[Turn], float]) -> tuple[Estimate, Estimate]:
        mine = [[figure(t) for t in s.candidate[at_once]] for s in sittings]
        other = [[figure(t) for t in s.original[at_once]] for s in sittings]
        ratios = [
            median(a / b for a, b in zip(here, there, strict=True))
            for here, there in zip(mine, other, strict=True)
        ]
        return repeat_interval([median(m) for m in mine]), repeat_interval(ratios)

    p50, p50_ratio = both(lambda t: float(np.percentile(t.answer_ms, 50)))
    p99, p99_ratio = both(lambda t: float(np.percentile(t.answer_ms, 99)))
    first, first_ratio = both(lambda t: float(np.percentile(t.first_ms, 50)))
    rate, rate_ratio = both(lambda t: t.tokens_per_s)
    return Speed(
        batch=at_once,
        calls=sum(len(t.answer_ms) for s in sittings for t in s.candidate[at_once]),
        p50_ms=p50,
        p99_ms=p99,
        rows_per_s=rate,
        p50_ratio=p50_ratio,
        p99_ratio=p99_ratio,
        rows_per_s_ratio=rate_ratio,
        first_ms=first,
        first_ratio=first_ratio,
    )


def _bytes(candidate: Candidate) -> int:
    return sum(path.stat().st_size for path in candidate.files.values())
