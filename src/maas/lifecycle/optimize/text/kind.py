"""Optimization of language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from maas.domain.errors import InvalidInput
from maas.domain.machine import library_versions
from maas.domain.models import Task
from maas.lifecycle.optimize.measurement.paired_runs import PairedRun, measurement_of
from maas.lifecycle.optimize.model_kind import CandidateFolder
from maas.lifecycle.optimize.results import Candidate, Comparison, Measurement
from maas.lifecycle.optimize.text.compare import TextOutputs, compare_text
from maas.lifecycle.optimize.text.measure import ANSWER_TOKENS as MEASURED_TOKENS
from maas.lifecycle.optimize.text.measure import RESIDENT, measure_text_pair
from maas.lifecycle.optimize.text.methods import TextCandidateMethod, text_candidate_methods
from maas.lifecycle.optimize.text.process import TextProcess
from maas.lifecycle.optimize.text.profile import profile_text
from maas.lifecycle.optimize.text.requantize import SKIPPED_TYPES
from maas.lifecycle.optimize.text.subject import TextSubject

T = TypeVar("T")

CHUNK_TOKENS = 96
MOST_CHUNKS = 64
LEAST_CHUNKS = 8
ANSWER_TOKENS = 16


@dataclass(frozen=True)
class TextKind:
    """Models that generate text (`ModelKind`)."""

    subject: TextSubject
    seed: int
    seconds: float
    """Minimum duration of a turn of the measurement."""

    @property
    def original(self) -> Candidate:
        return self.subject.original

    @property
    def task(self) -> Task:
        return Task.TEXT_GENERATION

    @property
    def how(self) -> Mapping[str, Any]:
        return self.subject.how

    def methods(self) -> tuple[TextCandidateMethod, ...]:
        return text_candidate_methods(self.subject.original)

    def skipped(self) -> dict[str, str]:
        return dict(SKIPPED_TYPES)

    def make(self, method: TextCandidateMethod, folder: CandidateFolder) -> Candidate:
        source = folder.finished.get(method.base, self.original)
        candidate = method.make(source, folder.path)
        # Proves that the file loads and answers.
        with TextProcess(candidate, self.subject.signature) as process:
            process.answers(["Hello"], 2)
        return candidate

    def compare(self, candidate: Candidate) -> Comparison:
        original = self._original_outputs
        outputs = original if candidate is self.original else self.outputs_of(candidate)
        how = {"data_digest": self.subject.digest, "chunk_tokens": CHUNK_TOKENS}
        return compare_text(candidate.name, original, outputs, seed=self.seed, how=how)

    def measure_pair(self, candidate: Candidate, number: int) -> PairedRun:
        signature = self.subject.signature
        return measure_text_pair(candidate, self.original, signature, self.seconds, number)

    def measurement(self, candidate: Candidate, runs: Sequence[PairedRun]) -> Measurement:
        how = {
            "seconds_per_turn": self.seconds,
            "tokens_per_answer": MEASURED_TOKENS,
            "resident": RESIDENT,
        }
        return measurement_of(candidate, self.original, runs, unit="token", how=how)

    def profile(self, candidate: Candidate, measurement: Measurement) -> dict[str, Any]:
        return profile_text(candidate, measurement).to_dict()

    def fingerprint_inputs(self) -> dict[str, Any]:
        return {"text": self.subject.digest, "options": dict(self.original.options)}

    def libraries(self) -> dict[str, str]:
        return library_versions("openmaas", "xllamacpp", "openvino-genai", "gguf", "numpy")

    @cached_property
    def _original_outputs(self) -> TextOutputs:
        return self.outputs_of(self.original)

    @cached_property
    def _chunks(self) -> list[list[int]]:
        """The text as chunks of the original's tokens."""
        with TextProcess(self.original, self.subject.signature, self.subject.text) as process:
            ids = process.ids()
        starts = range(0, len(ids) - CHUNK_TOKENS + 1, CHUNK_TOKENS)
        chunks = [ids[start : start + CHUNK_TOKENS] for start in starts][:MOST_CHUNKS]
        if len(chunks) < LEAST_CHUNKS:
            raise InvalidInput(
                f"the text to compare on must have at least {LEAST_CHUNKS * CHUNK_TOKENS} tokens; "
                f"{self.subject.name} has {len(ids)}",
                field="text",
            )
        return chunks

    def outputs_of(self, candidate: Candidate) -> TextOutputs:
        """Scores of the text's chunks, and answers to the prompts.

        Two processes compute half of the chunks and prompts each, as no time is measured.
        """
        chunks, prompts = self._chunks, list(self.subject.prompts)

        def half(number: int) -> TextOutputs:
            with TextProcess(candidate, self.subject.signature, timed=False) as process:
                scores = process.scores(chunks[number::2])
                return TextOutputs(scores, process.answers(prompts[number::2], ANSWER_TOKENS))

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(half, range(2))
        scores = _interleaved(first.scores, second.scores)
        return TextOutputs(scores, _interleaved(first.answers, second.answers))


def _interleaved(first: list[T], second: list[T]) -> list[T]:
    """Items in the order first[0], second[0], first[1], …"""
    items = first + second
    items[::2], items[1::2] = first, second
    return items
