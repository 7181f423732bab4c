"""Methods that make candidates of a language model, in the order in which they are tried."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maas.domain.machine import usable_cores
from maas.lifecycle.optimize.results import Candidate
from maas.lifecycle.optimize.subject import NotApplicable
from maas.lifecycle.optimize.text.requantize import requantize
from maas.runtimes.catalog import SCORERS

FILE = "model.gguf"
LEAN_OPTIONS: Mapping[str, Any] = {"cache_tokens": 4096, "slots": 16}
"""A quarter of the default KV cache, and half as many concurrent answers."""
LEAN_DESCRIPTION = (
    "a KV cache of 4,096 tokens and 16 concurrent answers, instead of 16,384 tokens and 32"
)
NO_INFORMATION = "from the original's rounded weights: the wider type adds no information"


@dataclass(frozen=True)
class TextCandidateMethod:
    """A method that makes one candidate, as its differences from the original or from `base`."""

    name: str
    """Name of the candidate, and of the variant that it may become."""
    description: str
    """One line for readers who do not know the name."""
    base: str = ""
    """Candidate that it starts from; empty: the original."""
    weights: str = ""
    """Type of all matrices except the embedding; empty: unchanged."""
    embedding: str = ""
    """Type of the embedding and of the output matrix; empty: unchanged."""
    options: Mapping[str, Any] = field(default_factory=dict)
    runtime: str = ""
    threads: int = 0

    def make(self, source: Candidate, folder: Path) -> Candidate:
        """The candidate with its file in `folder`. Raises NotApplicable if nothing changes."""
        if self.base and source.name != self.base:
            raise NotApplicable(f"it is based on {self.base}, which could not be made")
        name, path = next(iter(source.files.items()))
        how: dict[str, Any] = {"by": "the original's file with other engine options"}
        if self.weights or self.embedding:
            name = FILE
            how = requantize(path, folder / name, self.weights, self.embedding)
        else:
            _same_file(path, folder / name)
        if self.base:
            how["base"] = self.base
        how["description"] = self.description
        options = {**source.options, **self.options}
        if self.runtime and self.runtime != source.runtime:
            options.pop("cache_type", None)
        if options:
            how["options"] = options
        return Candidate(
            name=self.name,
            runtime=self.runtime or source.runtime,
            files={name: folder / name},
            options=options,
            how=how,
            threads=self.threads or source.threads,
        )


def text_candidate_methods(original: Candidate) -> tuple[TextCandidateMethod, ...]:
    """All methods for this original, simpler ones first."""
    threads = [n for n in (2, 4, 8) if n <= usable_cores()]
    return (*_engine_methods(original, threads), *_precision_methods(threads))


def _engine_methods(original: Candidate, threads: list[int]) -> Iterator[TextCandidateMethod]:
    """Methods that run the same file with other options or with another engine."""
    for n in threads:
        yield TextCandidateMethod(f"gguf-threads-{n}", f"the same file on {n} threads", threads=n)
    yield TextCandidateMethod("gguf-lean", LEAN_DESCRIPTION, options=LEAN_OPTIONS)
    yield TextCandidateMethod(
        "gguf-batch-512", "prompts processed in batches of 512 tokens", options={"batch": 512}
    )
    if original.runtime == "llama_cpp":
        for cache_type in ("q8_0", "q4_0"):
            yield TextCandidateMethod(
                f"gguf-kv-{cache_type}",
                f"a KV cache with type {cache_type.upper()}",
                options={"cache_type": cache_type},
            )
    for engine in SCORERS:
        if engine == original.runtime:
            continue
        description = f"the same file with the engine {engine}"
        yield TextCandidateMethod(f"gguf-{engine}", description, runtime=engine)
        for n in threads[-1:]:
            yield TextCandidateMethod(
                f"gguf-{engine}-threads-{n}",
                f"{description} on {n} threads",
                runtime=engine,
                threads=n,
            )


def _precision_methods(threads: list[int]) -> Iterator[TextCandidateMethod]:
    """Methods that store the weights with other types."""
    small = "matrices and the embedding as Q4_0"
    yield TextCandidateMethod("gguf-q4_0", "matrices as Q4_0", weights="Q4_0")
    yield TextCandidateMethod("gguf-q4_0-small", small, weights="Q4_0", embedding="Q4_0")
    yield TextCandidateMethod("gguf-q5_0", f"matrices as Q5_0, {NO_INFORMATION}", weights="Q5_0")
    yield TextCandidateMethod("gguf-q8_0", f"matrices as Q8_0, {NO_INFORMATION}", weights="Q8_0")
    for n in threads[-1:]:
        for weights in ("Q4_0", "Q8_0"):
            base = f"gguf-{weights.lower()}"
            description = f"matrices as {weights}, on {n} threads"
            yield TextCandidateMethod(f"{base}-threads-{n}", description, base, threads=n)
    yield TextCandidateMethod(
        "gguf-q4_0-small-lean",
        f"{small}; {LEAN_DESCRIPTION}",
        base="gguf-q4_0-small",
        options=LEAN_OPTIONS,
    )


def _same_file(path: Path, target: Path) -> None:
    """Links the file, or copies it where the file system has no hard links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
