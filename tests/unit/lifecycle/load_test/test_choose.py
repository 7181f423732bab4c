"""Candidates of the engine choice, reuse of earlier measurements, and the choice itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.domain.models import Evidence, File, Manifest, Task, Variant, Version
from maas.lifecycle.load_test.choose import (
    EngineCandidate,
    EngineTrial,
    best,
    candidates,
    evidence_of,
    previous_trial,
    thread_counts,
    usual_load,
)
from maas.lifecycle.load_test.results import LevelResult, Percentiles
from tests.support.fakes.generations import TEXT_TO_TEXT

FILE = File("m.gguf", "a" * 64, 10)
BASE = Variant("gguf", "llama_cpp", (FILE,), {"slots": 4})
LIBRARIES = {"llama_cpp": "xllamacpp 1", "openvino": "openvino-genai 2", "onnx": "onnxruntime 3"}
MACHINE = {"processor": "p", "cores": 2, "memory_bytes": 1, "system": "s"}


def version(*added: Variant) -> Version:
    manifest = Manifest("writer", Task.TEXT_GENERATION, TEXT_TO_TEXT, (BASE,))
    return Version("writer", 1, manifest, 0.0, added=added)


def level(
    at_once: int, ms: float, tokens: float, errors: dict[str, int] | None = None, requests: int = 9
) -> LevelResult:
    return LevelResult(at_once, None, requests, errors or {}, 1.0, 9.0, Percentiles(ms, ms),
                   tokens_per_s=tokens)  # fmt: skip


def trial(name: str, *levels: LevelResult, threads: int = 1, failed: str = "") -> EngineTrial:
    return EngineTrial(EngineCandidate(replace(BASE, name=name), threads, "x 1"), levels, failed)


def test_every_installed_engine_for_the_files_is_a_candidate() -> None:
    engines = candidates(version(), BASE, LIBRARIES, (1, 2))
    assert [(c.variant.runtime, c.variant.name, c.threads, c.is_new) for c in engines] == [
        ("llama_cpp", "gguf", 1, False), ("llama_cpp", "gguf", 2, False),
        ("openvino", "gguf-openvino", 1, True), ("openvino", "gguf-openvino", 2, True),
    ]  # fmt: skip
    assert all(c.variant.files == BASE.files for c in engines)
    assert all(c.variant.options == {"slots": 4} for c in engines)


def test_an_engine_that_is_not_installed_is_no_candidate() -> None:
    engines = candidates(version(), BASE, LIBRARIES | {"openvino": None}, (1,))
    assert [(c.variant.runtime, c.threads) for c in engines] == [("llama_cpp", 1)]
    assert candidates(version(), BASE, {}, (1, 2)) == []


def test_an_existing_variant_with_the_files_is_used() -> None:
    there = Variant("ov", "openvino", (FILE,), {"x": 1})
    engines = candidates(version(there), BASE, LIBRARIES, (1,))
    assert [(c.variant, c.is_new) for c in engines] == [(BASE, False), (there, False)]
    other = Variant("gguf-openvino", "openvino", (replace(FILE, sha256="b" * 64),))
    engines = candidates(version(other), BASE, LIBRARIES, (1,))
    assert (engines[1].variant.name, engines[1].is_new) == ("gguf-openvino-2", True)


def test_thread_counts() -> None:
    assert thread_counts(1, Task.TEXT_GENERATION) == (1,)
    assert thread_counts(8, Task.TEXT_GENERATION) == (4, 8)
    assert thread_counts(8, Task.REGRESSION) == (1, 8)


def test_latency_is_judged_at_one_client_and_throughput_at_many() -> None:
    quick = trial("quick", level(1, 100, 90), level(32, 5000, 170))
    wide = trial("wide", level(1, 200, 45), level(32, 4000, 380))
    winner = best([quick, wide], "latency")
    assert winner is quick
    assert best([quick, wide], "throughput") is wide
    with pytest.raises(InvalidInput, match="latency or throughput"):
        best([quick], "size")


def test_candidates_with_failures_lose() -> None:
    good = trial("good", level(1, 100, 90), level(32, 1, 100))
    failing = trial("failing", level(1, 50, 90), level(32, 1, 500, {"overloaded": 1}))
    dead = trial("dead", failed="no")
    silent = trial("silent", replace(level(1, 1, 1, {"x": 3}, 0), latency_ms=None))
    assert best([failing, good, dead], "throughput") is good
    assert best([failing, dead], "throughput") is failing
    assert best([failing, good], "latency") is failing
    assert best([dead, silent], "latency") is None


def test_evidence_counts_for_the_same_machine_load_and_library_only() -> None:
    load = usual_load(Task.TEXT_GENERATION)
    candidate = candidates(version(), BASE, LIBRARIES, (1, 2))[0]
    trial = EngineTrial(candidate, (level(1, 100, 90), level(32, 5, 6)))
    stored = Evidence.from_dict(evidence_of(trial, load, {"machine": MACHINE}).to_dict())
    assert stored.variant == "gguf" and stored.kind == "latency"
    again = previous_trial([stored], candidate, load, MACHINE)
    assert again == replace(trial, is_known=True)
    newer = replace(stored, created_at=1.0, values={**stored.values, "levels": []})
    assert previous_trial([stored, newer], candidate, load, MACHINE) == again

    def none(**changed: Any) -> bool:
        arguments: dict[str, Any] = {
            "candidate": candidate,
            "load": load,
            "machine": MACHINE,
        } | changed
        return (
            previous_trial(
                [stored], arguments["candidate"], arguments["load"], arguments["machine"]
            )
            is None
        )

    assert none(candidate=replace(candidate, threads=2))
    assert none(candidate=replace(candidate, library="xllamacpp 2"))
    assert none(candidate=replace(candidate, variant=replace(BASE, name="other")))
    assert none(load=usual_load(Task.TEXT_GENERATION, seconds=3))
    assert none(machine=MACHINE | {"cores": 64})


def test_a_failure_is_stored_and_measured_again() -> None:
    load = usual_load(Task.TEXT_GENERATION)
    candidate = candidates(version(), BASE, LIBRARIES, (1, 2))[0]
    stored = evidence_of(EngineTrial(candidate, failed="no memory"), load, {"machine": MACHINE})
    assert stored.values == {"threads": 1, "failed": "no memory"}
    assert previous_trial([stored], candidate, load, MACHINE) is None
