"""Publish: files into the artifact store, looked at on the way; then one commit.

No model is loaded here. What is refused is what could run code or reach outside itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from maas.control.publishing.model_files import check_files
from maas.control.publishing.unsafe_files import refuse_unsafe
from maas.domain.errors import BodyTooLarge, Conflict, InvalidInput
from maas.domain.models import Evidence, File, Manifest, Variant, Version
from maas.domain.names import checked_sha256, shown
from maas.domain.signature import Signature
from maas.runtimes.catalog import runtime_libraries
from maas.runtimes.text.options import OWN_OPTIONS, checked_options
from maas.serving.wire.json_tensors import json_to_tensors
from maas.storage.artifacts import ArtifactStore
from maas.storage.versions import Versions

MAX_EVIDENCE_BYTES = 8 << 20
"""Of one version, as JSON: everybody who looks at the version reads all of it."""

MAX_VARIANTS = 64
"""Of one version."""


class Publisher:
    """Thread-safe; everything here blocks."""

    def __init__(
        self, versions: Versions, artifacts: ArtifactStore, cache_dir: Path, max_file_bytes: int
    ) -> None:
        self._versions = versions
        self._artifacts = artifacts
        self._cache_dir = cache_dir
        self.max_file_bytes = max_file_bytes

    def stored_size(self, sha256: str) -> int | None:
        return self._artifacts.size(checked_sha256(sha256))

    def store(self, sha256: str, chunks: Iterable[bytes]) -> int:
        """Stores a file under its digest; returns its size. Durable on return.

        Raises UnsafeArtifact for a file that carries a pickle, InvalidInput for another digest,
        BodyTooLarge, OutOfSpace; then nothing is stored.
        """
        return self._artifacts.put(sha256, refuse_unsafe(self._limited(chunks)))

    def publish(self, manifest: Manifest, created_by: str) -> tuple[Version, bool]:
        """The version, and whether it is new. Raises InvalidInput if a file is missing or the
        example does not fit, UnsafeArtifact."""
        check_example(manifest.signature)
        for variant in manifest.variants:
            self._check_variant(variant)
        return self._versions.publish(manifest, created_by)

    def add_variant(
        self, model: str, number: int, variant: Variant, created_by: str
    ) -> tuple[Version, bool]:
        """The version with one variant more, and whether it is new. Raises NotFound, Conflict if
        another variant has its name, InvalidInput, UnsafeArtifact."""
        version = self._versions.get(model, number)
        if len(version.variants) >= MAX_VARIANTS:
            raise Conflict(f"a version has at most {MAX_VARIANTS} variants")
        self._check_variant(variant)
        return self._versions.add_variant(model, number, variant, created_by)

    def add_evidence(self, model: str, number: int, evidence: Evidence) -> None:
        """Raises NotFound, or InvalidInput if its file or its variant is not there."""
        version = self._versions.get(model, number)
        if evidence.variant is not None:
            version.variant(evidence.variant)
        if evidence.file is not None:
            self._check_stored(evidence.file)
        there = sum(len(json.dumps(e.to_dict())) for e in self._versions.evidence(model, number))
        if there + len(json.dumps(evidence.to_dict())) > MAX_EVIDENCE_BYTES:
            raise Conflict(
                f"the evidence of {model}:{number} may have {MAX_EVIDENCE_BYTES} bytes together; "
                "put what is large into a file of the evidence"
            )
        self._versions.add_evidence(model, number, evidence)

    def _check_variant(self, variant: Variant) -> None:
        _check_runtime(variant)
        for file in variant.files:
            self._check_stored(file)
        check_files(variant, self._artifacts, self._cache_dir)

    def _check_stored(self, file: File) -> None:
        size = self._artifacts.size(file.sha256)
        if size is None:
            raise InvalidInput(
                f"file {file.name} is not in the artifact store; "
                f"send it with PUT /api/v1/files/{file.sha256} first",
                field="files",
            )
        if size != file.size:
            raise InvalidInput(
                f"file {file.name}: expected {file.size} bytes; the stored file has {size}",
                field="files.size",
            )

    def _limited(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > self.max_file_bytes:
                raise BodyTooLarge(
                    f"a file may have at most {self.max_file_bytes} bytes",
                    limit=self.max_file_bytes,
                )
            yield chunk


def _check_runtime(variant: Variant) -> None:
    known = runtime_libraries()
    if variant.runtime not in known:
        raise InvalidInput(
            f"variant {variant.name}: there is no runtime {shown(variant.runtime)}; "
            f"known are {', '.join(known)}",
            field="variants.runtime",
        )
    if variant.runtime in OWN_OPTIONS:
        try:
            checked_options(variant.runtime, variant.options)
        except InvalidInput as wrong:
            raise InvalidInput(
                f"variant {variant.name}: {wrong.message}", field="variants.options"
            ) from None


def check_example(signature: Signature) -> None:
    """A replica proves with the example that it answers, so there must be one that fits."""
    try:
        _, rows, _ = json_to_tensors(signature, signature.example)
    except InvalidInput as wrong:
        raise InvalidInput(
            f"the signature's example does not fit: {wrong.message}", field="signature.example"
        ) from None
    if rows != 1:
        raise InvalidInput(
            f"the signature's example must be one row; got {rows}", field="signature.example"
        )
