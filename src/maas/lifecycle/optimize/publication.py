"""Results of an optimization for the server: accepted variants, and evidence for all variants.

This module does not import `optimize.py`, so that sending needs none of its libraries.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from maas.domain.errors import InvalidInput
from maas.domain.models import Evidence, File, Variant

CONTENT = "optimization.json"
ORIGINAL = "original.model"
"""Name in a job's folder of the file of the version's first variant."""
REPORT = "optimization.html"
FIGURES = "optimization-figures.json"
"""The complete `Optimization` as JSON."""


@dataclass(frozen=True)
class PreparedOptimization:
    """New variants of a version with their files, and the evidence about them."""

    model: str
    """MODEL:VERSION"""
    variants: tuple[Variant, ...]
    evidence: tuple[Evidence, ...]
    files: tuple[tuple[Path, File], ...]
    """Local path of each file of variants and evidence."""
    rejected: tuple[Variant, ...] = ()
    """Other variants in `evidence`. Their evidence is sent only if the version already has them."""
    summary: dict[str, Any] = field(default_factory=dict)
    """{model, objective, gate, chosen, chosen_reason, candidates: [{name, passed, …}], …}"""

    def save(self, directory: Path) -> None:
        """Copies everything to `directory`; `optimization.json` is written last."""
        directory.mkdir(parents=True, exist_ok=True)
        for path, file in self.files:
            target = directory / file.sha256
            if not target.is_file() or target.stat().st_size != file.size:
                staged = directory / f".{file.sha256}.new"
                shutil.copyfile(path, staged)
                staged.replace(target)
        content = {
            "model": self.model,
            "variants": _dicts(self.variants),
            "rejected": _dicts(self.rejected),
            "evidence": _dicts(self.evidence),
            "summary": self.summary,
        }
        temporary = directory / f".{CONTENT}.new"
        temporary.write_bytes(msgspec.json.encode(content))
        temporary.replace(directory / CONTENT)

    @classmethod
    def load(cls, directory: Path) -> PreparedOptimization:
        """Raises InvalidInput if there is no complete optimization in `directory`."""
        try:
            raw = msgspec.json.decode((directory / CONTENT).read_bytes())
        except (OSError, msgspec.DecodeError):
            raise InvalidInput(f"{directory} contains no finished optimization") from None
        variants = _variants(raw["variants"])
        evidence = tuple(Evidence.from_dict(e) for e in raw["evidence"])
        rejected = _variants(raw.get("rejected", ()))
        files: list[tuple[Path, File]] = []
        for file in _files(variants, evidence):
            files.append((directory / file.sha256, file))
        return cls(raw["model"], variants, evidence, tuple(files), rejected, raw["summary"])


def _variants(raw: Iterable[dict[str, Any]]) -> tuple[Variant, ...]:
    return tuple(Variant.from_dict(item) for item in raw)


def _files(variants: Iterable[Variant], evidence: Iterable[Evidence]) -> Iterator[File]:
    for variant in variants:
        yield from variant.files
    for item in evidence:
        if item.file:
            yield item.file


def _dicts(items: Iterable[Variant | Evidence]) -> list[dict[str, Any]]:
    return [item.to_dict() for item in items]
