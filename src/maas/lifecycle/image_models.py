"""Publish an image classifier: an ONNX file that takes pixels, and how images become those."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maas.domain import signatures
from maas.domain.errors import InvalidInput
from maas.domain.models import File, Manifest, Task, Variant
from maas.lifecycle.measure import sha256_of
from maas.lifecycle.publication import PreparedPublication


@dataclass(frozen=True)
class ImageModel:
    name: str
    """Of the model."""
    labels: tuple[str, ...]
    """Of the classes, in the order of the scores."""
    options: dict[str, Any] = field(default_factory=dict)
    """How an image becomes pixels: `size`, `resize`, `mean`, `std` and more, as
    runtimes/media/image_classifier.py names them."""
    top: int = 5
    """How many labels an answer has."""
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON values: license, source."""


def prepare_image_classifier(file: Path, model: ImageModel) -> PreparedPublication:
    """The publication of `file`, FP32 [n, 3, size, size] to [n, classes]; `client.publish_prepared`
    sends it. Raises InvalidInput if there is no such file."""
    if not file.is_file():
        raise InvalidInput(f"there is no file {file}", field="model")
    stored = File("model.onnx", sha256_of(file), file.stat().st_size)
    options = {**model.options, "labels": list(model.labels)}
    manifest = Manifest(
        model=model.name,
        task=Task.IMAGE_CLASSIFICATION,
        signature=signatures.image_classification(min(model.top, len(model.labels))),
        variants=(Variant("onnx", "image_classifier", (stored,), options),),
        description=model.description,
        metadata=model.metadata,
    )
    return PreparedPublication(manifest, ((file, stored),), ())
