"""Models, their immutable versions, and the servable variants of a version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from maas.domain.errors import Conflict, InvalidInput
from maas.domain.names import FILE_NAME, checked_name, checked_sha256, shown
from maas.domain.signature import Signature

UPSTREAM = "upstream"
"""The runtime for external engines, whose variants need no files."""
AUTO = "auto"
"""Stands for the variant that an optimization marked best; no variant has this name."""


class Task(StrEnum):
    """Purpose of a model; decides which metrics, plots and protocols apply."""

    REGRESSION = "regression"
    BINARY = "binary-classification"
    MULTICLASS = "multiclass-classification"
    TEXT_GENERATION = "text-generation"
    EMBEDDING = "embedding"
    TRANSCRIPTION = "transcription"
    TRANSLATION = "translation"
    IMAGE_CLASSIFICATION = "image-classification"
    TEXT_CLASSIFICATION = "text-classification"
    OTHER = "other"


@dataclass(frozen=True)
class File:
    """One file of a version; its SHA-256 is its key in the artifact store."""

    name: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not FILE_NAME.fullmatch(self.name):
            raise InvalidInput(
                "a file name must be 1 to 128 letters, digits, '.', '_' or '-', starting with a "
                f"letter or digit; got {shown(self.name)}",
                field="files.name",
            )
        checked_sha256(self.sha256)
        if self.size < 0:
            raise InvalidInput(
                f"a file's size must be at least 0; got {self.size}", field="files.size"
            )

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "sha256": self.sha256, "size": self.size}


@dataclass(frozen=True)
class Variant:
    """One servable form of a version: a runtime and the files that it loads."""

    name: str
    runtime: str
    files: tuple[File, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_name(self.name, "variant")
        if self.name == AUTO:
            raise InvalidInput(
                f"a variant must not be named {AUTO!r}, which stands for the best variant",
                field="variant",
            )
        if not self.files and self.runtime != UPSTREAM:
            raise InvalidInput(f"variant {self.name} has no files", field="variants.files")

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "runtime": self.runtime,
            "files": [f.to_dict() for f in self.files],
            "options": self.options,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Variant:
        return cls(
            name=str(raw["name"]),
            runtime=str(raw["runtime"]),
            files=tuple(
                File(str(f["name"]), str(f["sha256"]), int(f["size"])) for f in raw["files"]
            ),
            options=dict(raw.get("options") or {}),
        )


@dataclass(frozen=True)
class Manifest:
    """Content of a version; versions with equal manifests are the same version."""

    model: str
    task: Task
    signature: Signature
    variants: tuple[Variant, ...]
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Provenance: data digest, seed, libraries, hyperparameters. JSON values only."""

    def __post_init__(self) -> None:
        checked_name(self.model, "model")
        if not self.variants:
            raise InvalidInput("a version needs at least one variant", field="variants")
        names = [v.name for v in self.variants]
        if len(set(names)) != len(names):
            raise InvalidInput(f"two variants have the same name: {', '.join(names)}")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of this manifest, hexadecimal."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def files(self) -> tuple[File, ...]:
        return tuple(f for v in self.variants for f in v.files)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "task": str(self.task),
            "signature": self.signature.to_dict(),
            "variants": [v.to_dict() for v in self.variants],
            "description": self.description,
            "metadata": self.metadata,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Manifest:
        """Raises InvalidInput that names the missing or invalid field."""
        try:
            return cls(
                model=str(raw["model"]),
                task=Task(raw.get("task", Task.OTHER)),
                signature=Signature.from_dict(raw["signature"]),
                variants=tuple(Variant.from_dict(v) for v in raw["variants"]),
                description=str(raw.get("description", "")),
                metadata=dict(raw.get("metadata") or {}),
            )
        except KeyError as missing:
            raise InvalidInput(
                f"the manifest has no field {missing}", field=str(missing.args[0])
            ) from None
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the manifest is invalid: {error}") from None


@dataclass(frozen=True)
class Version:
    """A numbered, immutable publication of a model."""

    model: str
    number: int
    manifest: Manifest
    created_at: float
    """Seconds since the epoch, UTC."""
    created_by: str = ""
    added: tuple[Variant, ...] = ()
    """Variants that were added after publication; the manifest never changes."""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The manifest's variants, the first of which is the original, then the added ones."""
        return (*self.manifest.variants, *self.added)

    def variant(self, name: str | None = None) -> Variant:
        """The named variant, or the first one. Raises InvalidInput for an unknown name."""
        if name is None:
            return self.manifest.variants[0]
        for variant in self.variants:
            if variant.name == name:
                return variant
        names = ", ".join(v.name for v in self.variants)
        raise InvalidInput(
            f"{self.model}:{self.number} has no variant {shown(name)}; it has {names}",
            field="variant",
        )


@dataclass(frozen=True)
class Evidence:
    """A measurement of a version, with how it was obtained."""

    kind: str
    """metrics | parity | training | explanation | report; from an optimization also
    optimization, comparison (with the first variant) and measurement (cost)"""
    values: dict[str, Any]
    how: dict[str, Any]
    """What is needed to repeat it: data digest, sample size, machine, command, seed."""
    variant: str | None = None
    file: File | None = None
    """A document with the measurement, for example the HTML report."""
    created_at: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "values": self.values,
            "how": self.how,
            "variant": self.variant,
            "file": self.file.to_dict() if self.file else None,
            "created_at": self.created_at,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Evidence:
        """Raises InvalidInput that names the missing or invalid field."""
        try:
            return cls(
                kind=checked_name(str(raw["kind"]), "kind"),
                values=dict(raw["values"]),
                how=dict(raw["how"]),
                variant=raw.get("variant"),
                file=_file(raw.get("file")),
                created_at=float(raw.get("created_at", 0.0)),
            )
        except KeyError as missing:
            raise InvalidInput(f"the evidence has no field {missing}") from None
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the evidence is invalid: {error}") from None


def _file(raw: dict[str, Any] | None) -> File | None:
    return File(str(raw["name"]), str(raw["sha256"]), int(raw["size"])) if raw else None


def best_variant(version: Version, evidence: Iterable[Evidence]) -> tuple[Variant, int | None]:
    """The variant that the newest optimization marked best for its objective, and the number of
    threads that it was measured with. Raises Conflict without an optimization."""
    optimizations = [e for e in evidence if e.kind == "optimization" and "chosen" in e.values]
    if not optimizations:
        raise Conflict(
            f"{version.model}:{version.number} has no variant that is marked best; "
            f"`maas optimize {version.model}:{version.number}` finds one",
            field="variant",
        )
    newest = max(optimizations, key=lambda e: e.created_at)
    threads = newest.values.get("threads")
    variant = version.variant(str(newest.values["chosen"]))
    return variant, threads if isinstance(threads, int) else None
