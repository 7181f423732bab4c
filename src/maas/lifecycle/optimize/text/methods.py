"""What is tried on a language model, in this order, simpler candidates first."""

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
LEAN: Mapping[str, Any] = {"cache_tokens": 4096, "slots": 16}
"""A quarter of the usual memory for what was read, and half as many answers at once."""
LEAN_SAID = "4,096 tokens for all answers together and 16 at once, not 16,384 and 32"
NO_INFORMATION = "of the original's rounded weights: the wider type adds no information"


@dataclass(frozen=True)
class TextCandidateMethod:
    """One candidate, as it differs from the original or from the candidate `of`."""

    name: str
    what: str
    """In a line, for who reads the report."""
    of: str = ""
    weights: str = ""
    """The type of all matrices but the embedding; empty: the file stays as it is."""
    embedding: str = ""
    """The type of the embedding, and of the output matrix; empty: as it is."""
    options: Mapping[str, Any] = field(default_factory=dict)
    runtime: str = ""
    threads: int = 0

    def make(self, source: Candidate, folder: Path) -> Candidate:
        """In `folder`. Raises NotApplicable if there is nothing to change."""
        if self.of and source.name != self.of:
            raise NotApplicable(f"it is made of {self.of}, which could not be made")
        name, path = next(iter(source.files.items()))
        how: dict[str, Any] = {"by": "the same file, loaded otherwise"}
        if self.weights or self.embedding:
            name = FILE
            how = requantize(path, folder / name, self.weights, self.embedding)
        else:
            _same(path, folder / name)
        how |= {"of": self.of} if self.of else {}
        how |= {"what": self.what}
        options = {**source.options, **self.options}
        if self.runtime and self.runtime != source.runtime:
            options = {k: v for k, v in options.items() if k != "cache_type"}
        how |= {"options": options} if options else {}
        return Candidate(
            name=self.name,
            runtime=self.runtime or source.runtime,
            files={name: folder / name},
            options=options,
            how=how,
            threads=self.threads or source.threads,
        )


def text_makers(original: Candidate) -> tuple[TextCandidateMethod, ...]:
    cores = usable_cores()
    several = [n for n in (2, 4, 8) if n <= cores]
    return (*_loaded_otherwise(original, several), *_of_other_types(several))


def _loaded_otherwise(original: Candidate, several: list[int]) -> Iterator[TextCandidateMethod]:
    for n in several:
        yield TextCandidateMethod(f"gguf-threads-{n}", f"the same file on {n} threads", threads=n)
    yield TextCandidateMethod("gguf-lean", LEAN_SAID, options=LEAN)
    yield TextCandidateMethod(
        "gguf-batch-512", "512 tokens of a prompt at a time", options={"batch": 512}
    )
    if original.runtime == "llama_cpp":
        for kept in ("q8_0", "q4_0"):
            what = f"keys and values kept as {kept.upper()}"
            yield TextCandidateMethod(f"gguf-kv-{kept}", what, options={"cache_type": kept})
    for engine in SCORERS:
        if engine == original.runtime:
            continue
        what = f"the same file, written by {engine}"
        yield TextCandidateMethod(f"gguf-{engine}", what, runtime=engine)
        for n in several[-1:]:
            name = f"gguf-{engine}-threads-{n}"
            yield TextCandidateMethod(name, f"{what} on {n} threads", runtime=engine, threads=n)


def _of_other_types(several: list[int]) -> Iterator[TextCandidateMethod]:
    whole = "matrices and the embedding as Q4_0"
    yield TextCandidateMethod("gguf-q4_0", "matrices as Q4_0", weights="Q4_0")
    yield TextCandidateMethod("gguf-q4_0-small", whole, weights="Q4_0", embedding="Q4_0")
    yield TextCandidateMethod("gguf-q5_0", f"matrices as Q5_0, {NO_INFORMATION}", weights="Q5_0")
    yield TextCandidateMethod("gguf-q8_0", f"matrices as Q8_0, {NO_INFORMATION}", weights="Q8_0")
    for n in several[-1:]:
        for kind in ("Q4_0", "Q8_0"):
            of = f"gguf-{kind.lower()}"
            yield TextCandidateMethod(
                f"{of}-threads-{n}", f"matrices as {kind}, on {n} threads", of, threads=n
            )
    what = f"{whole}; {LEAN_SAID}"
    yield TextCandidateMethod("gguf-q4_0-small-lean", what, of="gguf-q4_0-small", options=LEAN)


def _same(path: Path, target: Path) -> None:
    """The same bytes on the disk, where it can have two names for them."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
