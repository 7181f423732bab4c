"""A publication before it is sent: manifest, files and evidence on the owner's machine.

It is separate from the conversion that creates it, so that sending needs no ML library.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec

from maas.domain.errors import InvalidInput
from maas.domain.models import Evidence, File, Manifest


@dataclass(frozen=True)
class PreparedPublication:
    """Everything that a server needs to store a new version."""

    manifest: Manifest
    files: tuple[tuple[Path, File], ...]
    """Each file of manifest and evidence with its path on this machine."""
    evidence: tuple[Evidence, ...]

    def save(self, directory: Path) -> None:
        """Copies everything to `directory`, which is complete when it has `publication.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        for path, file in self.files:
            if path.resolve() != (directory / file.name).resolve():
                shutil.copyfile(path, directory / file.name)
        content = {
            "manifest": self.manifest.to_dict(),
            "evidence": [e.to_dict() for e in self.evidence],
        }
        temporary = directory / "publication.json.new"
        temporary.write_bytes(msgspec.json.encode(content))
        temporary.replace(directory / "publication.json")

    @classmethod
    def load(cls, directory: Path) -> PreparedPublication:
        """The publication in `directory`. Raises InvalidInput if it is missing or incomplete."""
        try:
            raw = msgspec.json.decode((directory / "publication.json").read_bytes())
        except (OSError, msgspec.DecodeError):
            raise InvalidInput(f"{directory} has no finished build to publish") from None
        manifest = Manifest.from_dict(raw["manifest"])
        evidence = tuple(Evidence.from_dict(e) for e in raw["evidence"])
        files = [*manifest.files(), *(e.file for e in evidence if e.file)]
        return cls(manifest, tuple((directory / f.name, f) for f in files), evidence)
