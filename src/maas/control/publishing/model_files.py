"""Looks at the files of a version before it exists: headers within bounds, and nothing outside.

The libraries that load these files are not needed here, and none of them sees a file that was not
looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from maas.control.publishing.onnx_check import check_onnx
from maas.domain.errors import InvalidInput
from maas.domain.models import File, Variant
from maas.runtimes.formats.gguf import read_gguf
from maas.runtimes.formats.safetensors_header import read_safetensors
from maas.storage.artifacts import ArtifactStore

_BY_RUNTIME = {"onnx": ".onnx", "llama_cpp": ".gguf"}


def check_files(variant: Variant, artifacts: ArtifactStore, cache_dir: Path) -> None:
    """Raises InvalidInput or UnsafeArtifact for a file that its runtime must not be given."""
    if variant.runtime == "llama_cpp" and len(variant.files) != 1:
        raise InvalidInput(
            f"variant {variant.name}: the runtime llama_cpp takes one GGUF file, not "
            f"{len(variant.files)}",
            field="variants.files",
        )
    for file in variant.files:
        # What a runtime reads is looked at as such, whatever its name ends in.
        kind = _BY_RUNTIME.get(variant.runtime) or Path(file.name).suffix.lower()
        if kind == ".onnx":
            # The same copy that a replica on this machine will load.
            check_onnx(artifacts.fetch(file.sha256, cache_dir), file.name)
        elif kind == ".gguf":
            read_gguf(_Reading(artifacts, file), file.size, file.name)
        elif kind == ".safetensors":
            read_safetensors(_Reading(artifacts, file), file.size, file.name)


class _Reading:
    """The start of a stored file; what lies behind the header is never read."""

    def __init__(self, artifacts: ArtifactStore, file: File) -> None:
        self._pieces: Iterator[bytes] = artifacts.get(file.sha256)
        self._kept = b""

    def read(self, count: int, /) -> bytes:
        """Up to `count` bytes, fewer only at the end."""
        parts, have = [self._kept], len(self._kept)
        while have < count and (piece := next(self._pieces, b"")):
            parts.append(piece)
            have += len(piece)
        whole = b"".join(parts)
        self._kept = whole[count:]
        return whole[:count]
