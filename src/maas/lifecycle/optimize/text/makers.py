"""What is tried on a language model, in this order, simpler candidates first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maas.lifecycle.optimize.subject import NotApplicable
from maas.lifecycle.optimize.text.requantize import requantize
from maas.lifecycle.optimize.words import Candidate
from maas.runtimes.scores import SCORERS

FILE = "model.gguf"
LEAN: Mapping[str, Any] = {"cache_tokens": 4096, "slots": 16}
"""A quarter of the usual memory for what was read, and half as many answers at once."""
NO_INFORMATION = "of the original's rounded weights: the wider type adds no information"


@dataclass(frozen=True)
class Maker:
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


def text_makers(original: Candidate) -> tuple[Maker, ...]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    several = [n for n in (2, 4, 8) if n <= (cores or 1)]
    llama = original.runtime == "llama_cpp"
    lean = "4,096 tokens for all answers together and 16 at once, not 16,384 and 32"
    return (
        *(Maker(f"gguf-threads-{n}", f"the same file on {n} threads", threads=n) for n in several),
        Maker("gguf-lean", lean, options=LEAN),
        Maker("gguf-batch-512", "512 tokens of a prompt at a time", options={"batch": 512}),
        *(
            Maker(
                f"gguf-kv-{kept}",
                f"keys and values kept as {kept.upper()}",
                options={"cache_type": kept},
            )
            for kept in ("q8_0", "q4_0")
            if llama
        ),
        *(
            Maker(
                f"gguf-{engine}{end}",
                f"the same file, written by {engine}{on}",
                runtime=engine,
                threads=threads,
            )
            for engine in SCORERS
            if engine != original.runtime
            for end, on, threads in (
                ("", "", 0),
                *((f"-threads-{n}", f" on {n} threads", n) for n in several[-1:]),
            )
        ),
        Maker("gguf-q4_0", "matrices as Q4_0", weights="Q4_0"),
        Maker(
            "gguf-q4_0-small",
            "matrices and the embedding as Q4_0",
            weights="Q4_0",
            embedding="Q4_0",
        ),
        Maker("gguf-q5_0", f"matrices as Q5_0, {NO_INFORMATION}", weights="Q5_0"),
        Maker("gguf-q8_0", f"matrices as Q8_0, {NO_INFORMATION}", weights="Q8_0"),
        *(
            Maker(
                f"gguf-q4_0-threads-{n}",
                f"matrices as Q4_0, on {n} threads",
                of="gguf-q4_0",
                threads=n,
            )
            for n in several[-1:]
        ),
        Maker(
            "gguf-q4_0-small-lean",
            f"matrices and the embedding as Q4_0; {lean}",
            of="gguf-q4_0-small",
            options=LEAN,
        ),
    )


def _same(path: Path, target: Path) -> None:
    """The same bytes on the disk, where it can have two names for them."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
