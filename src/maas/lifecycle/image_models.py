"""Publication of an image classifier: an ONNX file that takes pixels, and its preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maas.domain import standard_signatures
from maas.domain.errors import InvalidInput
from maas.domain.models import File, Manifest, Task, Variant
from maas.lifecycle.measure import sha256_of
from maas.lifecycle.prepared_publication import PreparedPublication


@dataclass(frozen=True)
class ImageModel:
    """Name, labels and preprocessing of an image classifier."""

    name: str
    """Name of the model."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the scores."""
    options: dict[str, Any] = field(default_factory=dict)
    """Preprocessing of an image: `size`, `resize`, `mean`, `std` and other options of
    runtimes/media/image_classifier.py."""
    top: int = 5
    """Number of labels in a prediction."""
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON values such as license and source."""


def prepare_image_classifier(file: Path, model: ImageModel) -> PreparedPublication:
    """The publication of `file`, which maps FP32 [n, 3, size, size] to [n, classes].

    `client.publish_prepared` sends it. Raises InvalidInput if the file does not exist.
    """
    if not file.is_file():
        raise InvalidInput(f"there is no file {file}", field="model")
    stored = File("model.onnx", sha256_of(file), file.stat().st_size)
    options = {**model.options, "labels": list(model.labels)}
    manifest = Manifest(
        model=model.name,
        task=Task.IMAGE_CLASSIFICATION,
        signature=standard_signatures.image_classification(min(model.top, len(model.labels))),
        variants=(Variant("onnx", "image_classifier", (stored,), options),),
        description=model.description,
        metadata=model.metadata,
    )
    return PreparedPublication(manifest, ((file, stored),), ())
