"""Language models: scores, comparison, conversion of weights, and a complete optimization."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas.domain.errors import InvalidInput
from maas.domain.models import Variant
from maas.lifecycle.optimize.judgment.gate import Gate, judge
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun, RunFigures, measurement_of
from maas.lifecycle.optimize.optimize import OptimizationOutcome, OptimizationRequest, optimize
from maas.lifecycle.optimize.prepare import prepare_optimization
from maas.lifecycle.optimize.results import Candidate
from maas.lifecycle.optimize.subject import NotApplicable
from maas.lifecycle.optimize.text import kind as text_kind
from maas.lifecycle.optimize.text import methods as text_methods
from maas.lifecycle.optimize.text.compare import TextOutputs, agreement, compare_text
from maas.lifecycle.optimize.text.measure import _figures, _Turn, measure_text_pair
from maas.lifecycle.optimize.text.process import TextProcess
from maas.lifecycle.optimize.text.profile import profile_text
from maas.lifecycle.optimize.text.requantize import requantize
from maas.lifecycle.optimize.text.subject import TextSubject
from maas.runtimes.formats.gguf import check_gguf
from tests.support.fakes.generations import TEXT_TO_TEXT
from tests.support.models.tiny_gguf import in_transformers, tiny_gguf

pytest.importorskip("xllamacpp", reason="needs the extra llm")

TEXT = "The quick brown fox jumps over the lazy dog. " * 20
"""900 tokens of one byte each: nine chunks."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("g") / "tiny.gguf")


def candidate(path: Path, name: str = "gguf", **more: Any) -> Candidate:
    return Candidate(name, "llama_cpp", {path.name: path}, **more)


def subject(path: Path) -> TextSubject:
    return TextSubject(candidate(path), TEXT_TO_TEXT, TEXT, "a text", ("Hello", "Why?"))


def file_bytes(candidate: Candidate) -> int:
    return sum(path.stat().st_size for path in candidate.files.values())


def unmeasured_run(candidate: Candidate, original: Candidate, *_: object) -> PairedRun:
    """A run whose ratios follow from the file sizes."""
    ratio = file_bytes(candidate) / file_bytes(original)
    figures = (RunFigures(n, 9, *(ratio,) * 8) for n in (1, 16))
    return PairedRun(tuple(figures), 10**8, 10**8, ratio, 0.0, (1.0, 1.0), 0.0)


def test_llama_cpp_scores_a_text_as_transformers_does(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tiny_gguf(tmp_path / "exact.gguf", "F32")
    with TextProcess(candidate(path), TEXT_TO_TEXT, TEXT) as process:
        ids = process.ids()
        assert ids == list(TEXT.encode())
        ids = ids[:48]
        (scores,) = process.scores([ids])
    with torch.no_grad():
        log_probabilities = (
            in_transformers(path)(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        )
    expected = log_probabilities[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()
    assert len(set(np.round(expected, 2))) > 10, (
        "a model with constant probabilities proves nothing"
    )
    assert np.abs(np.array(scores) - expected).max() < 0.02  # the KV cache has 16 bits
    assert math.exp(-np.mean(scores)) == pytest.approx(math.exp(-expected.mean()), rel=5e-3)


def test_two_processes_return_the_outputs_of_one(tmp_path: Path) -> None:
    # FP32 weights: sums in 16 bits depend on which chunks are processed concurrently, and with
    # 8-bit activations the difference was up to 0.24 on a busy machine.
    exact = tiny_gguf(tmp_path / "exact.gguf", "F32")
    kind = text_kind.TextKind(subject(exact), 0, 0.001)
    outputs = kind.outputs_of(kind.original)
    with TextProcess(candidate(exact), TEXT_TO_TEXT, TEXT) as process:
        ids = process.ids()
        chunks = [ids[at : at + 96] for at in range(0, 9 * 96, 96)]
        assert np.allclose(outputs.scores, process.scores(chunks), atol=0.02)
        assert outputs.answers == process.answers(["Hello", "Why?"], 16)
    assert len({round(sum(scores), 2) for scores in outputs.scores}) > 4, "the order matters"


def optimized(
    path: Path, workdir: Path, *names: str, gate: str = "perplexity<=+5%"
) -> OptimizationOutcome:
    request = OptimizationRequest(
        model="tiny:1", objective="size", gate=gate, candidates=names, runs=2
    )
    return optimize(subject(path), request, workdir)


def test_an_optimization_makes_variants_of_a_gguf_file(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_kind, "measure_text_pair", unmeasured_run)
    names = ("gguf-kv-q8_0", "gguf-q4_0-small", "sabotaged")
    regular_methods = text_methods.text_candidate_methods

    def with_sabotage(original: Candidate) -> tuple[Any, ...]:
        class Shuffled(text_methods.TextCandidateMethod):
            def make(self, source: Candidate, folder: Path) -> Candidate:
                other = tiny_gguf(folder / "model.gguf", seed=1)
                return Candidate(self.name, "llama_cpp", {other.name: other})

        return (*regular_methods(original), Shuffled("sabotaged", "other weights"))

    monkeypatch.setattr(text_kind, "text_candidate_methods", with_sabotage)
    outcome = optimized(tiny, tmp_path, *names)
    by_name = {r.name: r for r in outcome.optimization.results}
    cached = by_name["gguf-kv-q8_0"]
    assert cached.passed and cached.comparison and cached.comparison.rows == 9
    assert "perplexity changed by" in by_name["sabotaged"].reason
    assert not by_name["sabotaged"].passed
    small = by_name["gguf-q4_0-small"].measurement
    assert small and small.file_ratio < 0.8
    original = outcome.optimization.original.comparison
    assert original and original.agreement and original.agreement.value == 0
    assert set(outcome.optimization.best) == {"latency", "throughput", "size", "memory"}

    prepared = prepare_optimization(outcome, tmp_path)
    variants = {v.name: v for v in prepared.variants}
    same = variants["gguf-kv-q8_0"]
    assert same.options == {"cache_type": "q8_0"}
    assert same.files[0].name == "tiny.gguf" and same.files[0].size == tiny.stat().st_size
    assert Variant.from_dict(same.to_dict()) == same
    page = (tmp_path / "optimization.html").read_text()
    assert "Perplexity" in page and "tokens/s, 16" in page and "chunks of text" in page
    metrics = prepared.summary["candidates"][1]["metrics"]
    assert {"perplexity", "agreement", "tokens_per_s_at_16", "first_ms_at_1"} <= metrics.keys()
    assert json.dumps(prepared.summary)

    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError("finished steps must not be repeated")

    monkeypatch.setattr(text_kind, "TextProcess", unexpected)
    again = optimized(tiny, tmp_path, *names)
    assert again.optimization.results == outcome.optimization.results


def test_a_short_text_is_refused(tiny: Path, tmp_path: Path) -> None:
    short = TextSubject(candidate(tiny), TEXT_TO_TEXT, "Too short.", "a note", ("Hello",))
    with pytest.raises(InvalidInput, match=r"at least 768 tokens; a note has 10"):
        optimize(
            short, OptimizationRequest("tiny:1", candidates=("gguf-kv-q8_0",), runs=2), tmp_path
        )


def test_rates_and_latencies_are_measured_in_paired_runs(tiny: Path) -> None:
    other = candidate(tiny, "lean", options={"cache_tokens": 4096, "slots": 4})
    runs = [measure_text_pair(other, candidate(tiny), TEXT_TO_TEXT, 0.001, n) for n in range(2)]
    measurement = measurement_of(other, candidate(tiny), runs, unit="token", how={})
    one, many = measurement.speeds
    assert (one.batch, many.batch, measurement.unit) == (1, 16, "token")
    assert one.calls == 6 and many.calls == 32
    assert one.first_ms and 0 < one.first_ms.value <= one.p50_ms.value
    assert many.first_ms and many.first_ms.value <= many.p50_ms.value
    assert one.p99_ms is one.p99_ratio is many.p99_ms is None, "p99 of 3 answers is the slowest one"
    assert measurement.resident_ratio < 1 and measurement.core_seconds_per_1000.value > 0
    # Two runs have wide intervals; this only checks that the gate uses both figures.
    verdict = judge(
        Gate.parse("tokens_per_s>=0.000001, first_token_ms<=0.000001"),
        equal_comparison(),
        measurement,
    )
    assert [result.passed for result in verdict.results] == [True, False]
    verdict = judge(Gate.parse("rows_per_s>=1"), equal_comparison(), measurement)
    assert not verdict.passed and "rows_per_s was not measured" in verdict.reason
    verdict = judge(Gate.parse("p99_ms<=1000000"), equal_comparison(), measurement)
    assert (
        not verdict.passed
        and "p99_ms was not measured: p99 is reported only for runs with at least 100"
        in verdict.reason
    )


@pytest.mark.parametrize(("answers", "reported"), [(99, False), (100, True)])
def test_p99_is_reported_for_at_least_100_requests(answers: int, reported: bool) -> None:
    turn = _Turn(1.0, tuple(range(1, answers + 1)), (1.0,), 1.0, 0.0)
    figures = _figures(1, turn, turn)
    assert (figures.p99_ms is not None) == (figures.p99_ratio is not None) == reported
    assert figures.p50_ms == (answers + 1) / 2
    assert _figures(1, turn, replace(turn, answer_ms=(1.0,))).p99_ratio is None


def equal_comparison() -> Any:
    outputs = TextOutputs([[-1.0, -2.0]] * 8, [[b"a", b"b"]])
    return compare_text("x", outputs, outputs, seed=0, how={})


def test_perplexity_is_paired_over_chunks_with_a_cautious_bound() -> None:
    random = np.random.default_rng(0)
    text = [list(-random.exponential(3, 50)) for _ in range(30)]

    def worse(by: float) -> Any:
        other = [[s - by + random.normal(0, 0.05) for s in chunk] for chunk in text]
        return compare_text(
            "x", TextOutputs(text, [[b"a"]]), TextOutputs(other, [[b"a"]]), seed=0, how={}
        )

    difference = worse(math.log(1.02)).difference("perplexity")
    assert difference.original == pytest.approx(math.exp(-np.mean(text)))
    assert difference.value / difference.original == pytest.approx(0.02, abs=0.005)
    assert (
        difference.low < difference.value < difference.high and difference.bound > difference.value
    )
    assert difference.relative < 0.03, "chunks differ much more than pairs"
    assert not judge(Gate.parse("perplexity<=+1%"), worse(math.log(1.02))).passed
    assert judge(Gate.parse("perplexity<=+5%"), worse(math.log(1.02))).passed
    level = f"perplexity<={difference.original:.6f}"
    assert not judge(Gate.parse(level), worse(0.0)).passed


def test_agreement_stops_at_the_first_different_token() -> None:
    assert agreement([b"a", b"b", b"c"], [b"a", b"b", b"c"]) == 1
    assert agreement([b"a", b"b", b"c"], [b"a", b"x", b"c"]) == 1 / 4
    assert agreement([b"a"], [b"a", b"b"]) == 1 / 2, "the end is different"
    assert agreement([], []) == 1


def test_requantize_converts_matrices_only(tiny: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    target = tmp_path / "small.gguf"
    how = requantize(tiny, target, "Q4_0", "")
    assert how["changed"] == {"Q8_0 to Q4_0": 14}
    before, after = check_gguf(tiny), check_gguf(target)
    assert (after.parameters, after.keys) == (before.parameters, before.keys)
    assert [(t.name, t.rank) for t in after.layers] == [(t.name, t.rank) for t in before.layers]
    types = {t.name: t.type for t in after.layers}
    assert types["token_embd.weight"] == "Q8_0" and types["blk.1.ffn_down.weight"] == "Q4_0"
    assert types["output_norm.weight"] == "F32"
    files = [{t.name: t for t in gguf.GGUFReader(path).tensors} for path in (tiny, target)]
    for name in types:
        a, b = (gguf.quants.dequantize(f[name].data, f[name].tensor_type) for f in files)
        reach = np.abs(a).max()
        assert a.shape == b.shape and np.abs(a - b).max() <= reach / 7
    with pytest.raises(NotApplicable, match="already have type Q4_0"):
        requantize(target, tmp_path / "same.gguf", "Q4_0", "")


def test_the_profile_lists_tensors_by_share(tiny: Path) -> None:
    result = profile_text(candidate(tiny))
    inner = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    assert result.parameters == 257 * 64 + inner + 5 * 64
    assert result.multiply_adds == 257 * 64 + inner, "the embedding is the output, too"
    assert result.how["per"] == "tokens"
    assert sum(line["share"] for line in result.largest) == pytest.approx(1)
    assert result.largest[0]["name"] in ("blk.*.ffn_gate.weight × 2", "token_embd.weight")
