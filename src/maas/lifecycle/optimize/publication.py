"""What an optimization has for the server: variants that passed, and the evidence of all.

Apart from the engine, so that sending needs none of its libraries.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from maas.domain.errors import InvalidInput
from maas.domain.models import Evidence, File, Variant

CONTENT = "optimization.json"
ORIGINAL = "original.model"
"""The file of the version's first variant, in a job's folder."""
REPORT = "optimization.html"
FIGURES = "optimization-figures.json"
"""Every word of the Optimization, for programs."""


@dataclass(frozen=True)
class PreparedOptimization:
    """New variants of a version, each with its files, and evidence that names them."""

    model: str
    """MODEL:VERSION"""
    variants: tuple[Variant, ...]
    evidence: tuple[Evidence, ...]
    files: tuple[tuple[Path, File], ...]
    """Where each file of variants and evidence is on this machine."""
    refused: tuple[Variant, ...] = ()
    """Others that `evidence` names. It counts only for those that the version has already."""
    summary: dict[str, Any] = field(default_factory=dict)
    """{model, objective, gate, chosen, chosen_reason, candidates: [{name, passed, …}], …}"""

    def save(self, directory: Path) -> None:
        """Copies everything to `directory`, complete when `optimization.json` is there."""
        directory.mkdir(parents=True, exist_ok=True)
        for path, file in self.files:
            place = directory / file.sha256
            if not place.is_file() or place.stat().st_size != file.size:
                staged = directory / f".{file.sha256}.new"
                shutil.copyfile(path, staged)
                staged.replace(place)
        content = {
            "model": self.model,
            "variants": [v.to_dict() for v in self.variants],
            "refused": [v.to_dict() for v in self.refused],
            "evidence": [e.to_dict() for e in self.evidence],
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
            raise InvalidInput(f"{directory} has no finished optimization") from None
        variants = tuple(Variant.from_dict(v) for v in raw["variants"])
        evidence = tuple(Evidence.from_dict(e) for e in raw["evidence"])
        files = [
            *(f for v in variants for f in v.files),
            *(e.file for e in evidence if e.file),
        ]
        placed = tuple((directory / f.sha256, f) for f in files)
        refused = tuple(Variant.from_dict(v) for v in raw.get("refused", ()))
        return cls(raw["model"], variants, evidence, placed, refused, raw["summary"])
