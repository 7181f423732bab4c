"""A publication that waits to be sent: manifest, files and evidence on their owner's side.

Apart from the conversion that makes one, so that sending needs none of its libraries.
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
    """Everything that a server needs to have a new version."""

    manifest: Manifest
    files: tuple[tuple[Path, File], ...]
    """Where each file of manifest and evidence is on this machine."""
    evidence: tuple[Evidence, ...]

    def save(self, directory: Path) -> None:
        """Copies everything to `directory`, complete when `publication.json` is there."""
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
        """Raises InvalidInput if there is no complete publication in `directory`."""
        try:
            raw = msgspec.json.decode((directory / "publication.json").read_bytes())
        except (OSError, msgspec.DecodeError):
            raise InvalidInput(f"{directory} has no finished build to publish") from None
        manifest = Manifest.from_dict(raw["manifest"])
        evidence = tuple(Evidence.from_dict(e) for e in raw["evidence"])
        files = [*manifest.files(), *(e.file for e in evidence if e.file)]
        return cls(manifest, tuple((directory / f.name, f) for f in files), evidence)
