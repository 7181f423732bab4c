"""Validation of model files before their version is stored.

Checks that headers are within bounds and that no file refers to data outside itself. It does not
use the libraries that load these files, and none of them gets a file that was not checked.
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
    """Raises InvalidInput or UnsafeArtifact for a file that its runtime must not load."""
    if variant.runtime == "llama_cpp" and len(variant.files) != 1:
        raise InvalidInput(
            f"variant {variant.name}: the runtime llama_cpp expects one GGUF file; got "
            f"{len(variant.files)}",
            field="variants.files",
        )
    for file in variant.files:
        # The runtime decides the format where it reads only one, whatever the file's suffix.
        kind = _BY_RUNTIME.get(variant.runtime) or Path(file.name).suffix.lower()
        if kind == ".onnx":
            # The same copy that a replica on this machine will load.
            check_onnx(artifacts.fetch(file.sha256, cache_dir), file.name)
        elif kind == ".gguf":
            read_gguf(_StoredFile(artifacts, file), file.size, file.name)
        elif kind == ".safetensors":
            read_safetensors(_StoredFile(artifacts, file), file.size, file.name)


class _StoredFile:
    """Sequential reader of a stored file, so that only the header is transferred."""

    def __init__(self, artifacts: ArtifactStore, file: File) -> None:
        self._chunks: Iterator[bytes] = artifacts.get(file.sha256)
        self._rest = b""

    def read(self, count: int, /) -> bytes:
        """The next `count` bytes; fewer only at the end."""
        parts, size = [self._rest], len(self._rest)
        while size < count and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            size += len(chunk)
        data = b"".join(parts)
        self._rest = data[count:]
        return data[:count]
