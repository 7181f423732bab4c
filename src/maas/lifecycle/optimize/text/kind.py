"""Language models as a kind that can be optimized: how candidates are made, compared, measured."""

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
from maas.lifecycle.optimize.text.measure import RESIDENT, TOKENS, sit_text
from maas.lifecycle.optimize.text.methods import TextCandidateMethod, text_makers
from maas.lifecycle.optimize.text.process import TextProcess
from maas.lifecycle.optimize.text.profile import profile_text
from maas.lifecycle.optimize.text.requantize import TYPES_LEFT_OUT
from maas.lifecycle.optimize.text.subject import TextSubject

T = TypeVar("T")

CHUNK_TOKENS = 96
MOST_CHUNKS = 64
LEAST_CHUNKS = 8
ANSWER_TOKENS = 16


@dataclass(frozen=True)
class TextKind:
    subject: TextSubject
    seed: int
    seconds: float
    """Of a turn of the measurement, at least."""

    @property
    def original(self) -> Candidate:
        return self.subject.original

    @property
    def task(self) -> Task:
        return Task.TEXT_GENERATION

    @property
    def how(self) -> Mapping[str, Any]:
        return self.subject.how

    def makers(self) -> tuple[TextCandidateMethod, ...]:
        return text_makers(self.subject.original)

    def skipped(self) -> dict[str, str]:
        return dict(TYPES_LEFT_OUT)

    def make(self, maker: TextCandidateMethod, place: CandidateFolder) -> Candidate:
        source = place.made.get(maker.of, self.original)
        candidate = maker.make(source, place.folder)
        with TextProcess(candidate, self.subject.signature) as process:
            process.answers(["Hello"], 2)
        return candidate

    def compare(self, candidate: Candidate) -> Comparison:
        found = self._truth if candidate is self.original else self.said(candidate)
        how = {"data_digest": self.subject.digest, "chunk_tokens": CHUNK_TOKENS}
        return compare_text(candidate.name, self._truth, found, seed=self.seed, how=how)

    def sit(self, candidate: Candidate, number: int) -> PairedRun:
        signature = self.subject.signature
        return sit_text(candidate, self.original, signature, self.seconds, number)

    def measurement(self, candidate: Candidate, runs: Sequence[PairedRun]) -> Measurement:
        how = {
            "seconds_per_turn": self.seconds,
            "tokens_per_answer": TOKENS,
            "resident": RESIDENT,
        }
        return measurement_of(candidate, self.original, runs, unit="token", how=how)

    def profile(self, candidate: Candidate, measurement: Measurement) -> dict[str, Any]:
        return profile_text(candidate, measurement).to_dict()

    def told(self) -> dict[str, Any]:
        return {"text": self.subject.digest, "options": dict(self.original.options)}

    def libraries(self) -> dict[str, str]:
        return library_versions("openmaas", "xllamacpp", "openvino-genai", "gguf", "numpy")

    @cached_property
    def _truth(self) -> TextOutputs:
        return self.said(self.original)

    @cached_property
    def _chunks(self) -> list[list[int]]:
        """The text as the original's own tokens."""
        with TextProcess(self.original, self.subject.signature, self.subject.text) as process:
            ids = process.ids()
        starts = range(0, len(ids) - CHUNK_TOKENS + 1, CHUNK_TOKENS)
        chunks = [ids[at : at + CHUNK_TOKENS] for at in starts][:MOST_CHUNKS]
        if len(chunks) < LEAST_CHUNKS:
            raise InvalidInput(
                f"a text of at least {LEAST_CHUNKS * CHUNK_TOKENS} tokens is needed to "
                f"compare on; {self.subject.name} has {len(ids)}",
                field="text",
            )
        return chunks

    def said(self, candidate: Candidate) -> TextOutputs:
        """What it makes of the text and the prompts. By two processes, for no clock runs: each has
        half of the chunks and of the prompts."""
        chunks, prompts = self._chunks, list(self.subject.prompts)

        def half(number: int) -> TextOutputs:
            with TextProcess(candidate, self.subject.signature, timed=False) as process:
                scores = process.scores(chunks[number::2])
                return TextOutputs(scores, process.answers(prompts[number::2], ANSWER_TOKENS))

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(half, range(2))
        return TextOutputs(
            _in_turn(first.scores, second.scores), _in_turn(first.answers, second.answers)
        )


def _in_turn(first: list[T], second: list[T]) -> list[T]:
    """What was dealt to two, in its order again."""
    found = first + second
    found[::2], found[1::2] = first, second
    return found
