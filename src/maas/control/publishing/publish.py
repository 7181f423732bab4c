"""Publishing: validated files in the artifact store, then one database transaction.

Loads no model. Refuses files that could run code or that refer to data outside themselves.
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
"""Largest evidence of a version, as JSON. The API returns all of it with the version."""

MAX_VARIANTS = 64
"""Most variants of a version."""


class Publisher:
    """Stores files, versions, variants and evidence. Thread-safe; all methods block."""

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
        """Stores a file under its digest; returns its size in bytes. Durable on return.

        Raises UnsafeArtifact for a file that contains a pickle, InvalidInput for another digest,
        BodyTooLarge, OutOfSpace. Nothing is stored then.
        """
        return self._artifacts.put(sha256, refuse_unsafe(self._limited(chunks)))

    def publish(self, manifest: Manifest, created_by: str) -> tuple[Version, bool]:
        """The version, and whether it is new.

        Raises InvalidInput if a file is missing or the example does not fit, UnsafeArtifact.
        """
        check_example(manifest.signature)
        for variant in manifest.variants:
            self._check_variant(variant)
        return self._versions.publish(manifest, created_by)

    def add_variant(
        self, model: str, number: int, variant: Variant, created_by: str
    ) -> tuple[Version, bool]:
        """The version with this variant, and whether the variant is new.

        Raises NotFound, Conflict if another variant has its name, InvalidInput, UnsafeArtifact.
        """
        version = self._versions.get(model, number)
        if len(version.variants) >= MAX_VARIANTS:
            raise Conflict(f"a version has at most {MAX_VARIANTS} variants")
        self._check_variant(variant)
        return self._versions.add_variant(model, number, variant, created_by)

    def add_evidence(self, model: str, number: int, evidence: Evidence) -> None:
        """Raises NotFound, InvalidInput for an unknown file or variant, Conflict for too much."""
        version = self._versions.get(model, number)
        if evidence.variant is not None:
            version.variant(evidence.variant)
        if evidence.file is not None:
            self._check_stored(evidence.file)
        items = [*self._versions.evidence(model, number), evidence]
        if sum(len(json.dumps(item.to_dict())) for item in items) > MAX_EVIDENCE_BYTES:
            raise Conflict(
                f"the evidence of {model}:{number} must have at most {MAX_EVIDENCE_BYTES} bytes in "
                "total; put large values into a file of the evidence"
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
                f"upload it with PUT /api/v1/files/{file.sha256} first",
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
                    f"a file must have at most {self.max_file_bytes} bytes",
                    limit=self.max_file_bytes,
                )
            yield chunk


def _check_runtime(variant: Variant) -> None:
    names = runtime_libraries()
    if variant.runtime not in names:
        raise InvalidInput(
            f"variant {variant.name}: unknown runtime {shown(variant.runtime)}; "
            f"expected one of {', '.join(names)}",
            field="variants.runtime",
        )
    if variant.runtime in OWN_OPTIONS:
        try:
            checked_options(variant.runtime, variant.options)
        except InvalidInput as error:
            raise InvalidInput(
                f"variant {variant.name}: {error.message}", field="variants.options"
            ) from None


def check_example(signature: Signature) -> None:
    """Raises InvalidInput unless the example is one valid row; replicas answer it to get ready."""
    try:
        _, rows, _ = json_to_tensors(signature, signature.example)
    except InvalidInput as error:
        raise InvalidInput(
            f"the signature's example is invalid: {error.message}", field="signature.example"
        ) from None
    if rows != 1:
        raise InvalidInput(
            f"the signature's example must be one row; got {rows}", field="signature.example"
        )
