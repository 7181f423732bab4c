"""Image classifiers: map JPEG and PNG images to the most likely labels.

Files: model.onnx, FP32 [n, 3, size, size] (or [n, size, size, 3]) to [n, classes]. Options of the
variant:

    labels      names of the classes, in order; required
    size        side of the model's square input, in pixels; default 224
    resize      length of the image's shorter side before its center is cropped; default: size
    mean, std   subtracted, and divided by, per channel, for values from 0 to 1; default 0 and 1
    scale       probabilities (default: softmax) | none: the model's output is the score
    max_pixels  largest image, in pixels; default 50 million
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.runtimes.base import Arrays, LoadRequest, Runtime
from maas.runtimes.labels import ClassLabels, softmax
from maas.runtimes.onnx import inference_error, open_session
from maas.runtimes.options import number_of, one_of

FORMATS = ("JPEG", "PNG")
MAX_SIDE = 65_500
"""Pixels, the limit of JPEG; bounds a long side even if the other is short."""
# The library warns at its own limit and fails at twice that; the limit here is in `decoded`.
Image.MAX_IMAGE_PIXELS = None
_WIDE_GRAY = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class ImageClassifier(Runtime):
    """A classifier with the preprocessing of its images."""

    takes_bytes = True

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput for files, options or a signature other than described above."""
        options = request.options
        self._labels = ClassLabels(request)
        self._size = int(number_of(options, "size", 224, 8, 4096))
        self._resize = int(number_of(options, "resize", self._size, self._size, 8192))
        self._max_pixels = int(number_of(options, "max_pixels", 50e6, 64, 1e9))
        self._mean, self._std = _channels(options, "mean", 0.0), _channels(options, "std", 1.0)
        self._is_softmax = one_of(options, "scale", ("probabilities", "none")) != "none"
        if "model.onnx" not in request.files:
            raise InvalidInput("the variant lacks model.onnx", field="files")
        self._session = open_session(request.files["model.onnx"], request.threads)
        (node, *more) = self._session.get_inputs()
        if more or len(node.shape) != 4:
            raise InvalidInput("an image classifier must have one input of four dimensions")
        self._input = node.name
        self._channels_last = node.shape[3] == 3
        self._labels.check(self._scores(np.zeros((1, self._size, self._size, 3), np.float32)))

    def predict(self, inputs: Arrays) -> Arrays:
        pixels = np.stack([self._pixels(data) for data in inputs["image"]])
        return self._labels.best(self._scores(pixels))

    def _pixels(self, data: bytes) -> NDArray[np.float32]:
        """Normalized pixels [size, size, 3]."""
        image = decoded(data, self._max_pixels)
        width, height = image.size
        scale = self._resize / min(width, height)
        # Only the part that remains is scaled: the center square in pixels of the image.
        side = self._size / scale
        left, top = (width - side) / 2, (height - side) / 2
        square = image.resize(
            (self._size, self._size),
            Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
            reducing_gap=3.0,
        )
        values = np.asarray(square, np.float32) / 255.0
        normal: NDArray[np.float32] = (values - self._mean) / self._std
        return normal

    def _scores(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        batch = pixels if self._channels_last else pixels.transpose(0, 3, 1, 2)
        try:
            output = self._session.run(None, {self._input: np.ascontiguousarray(batch)})[0]
        except Exception as wrong:  # noqa: BLE001 - the library raises a dozen unrelated classes
            raise inference_error(wrong) from None
        scores: NDArray[np.float32] = output.astype(np.float32, copy=False)
        return softmax(scores) if self._is_softmax else scores


def decoded(data: bytes, max_pixels: int) -> Image.Image:
    """An upright RGB image. Raises InvalidInput; if it is too large, before it is decoded."""
    try:
        with warnings.catch_warnings():
            # The library warns of damaged metadata and of its own limit.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > max_pixels or max(width, height) > MAX_SIDE:
                raise InvalidInput(
                    f"the image has {width} × {height} pixels; at most {max_pixels} are allowed, "
                    f"and {MAX_SIDE} on a side"
                )
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise InvalidInput(f"this is not an image in a supported format: {_FORMAT_NAMES}") from None
    except (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError) as wrong:
        # The library raises all of these for damaged files.
        raise InvalidInput(f"the image cannot be decoded: {wrong}") from None


_FORMAT_NAMES = " and ".join(FORMATS)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_GRAY:
        # 16 bits per pixel; a plain conversion would clip to white.
        wide = np.asarray(image, np.float32) / 257.0
        image = Image.fromarray(np.clip(wide, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _channels(options: dict[str, Any], name: str, default: float) -> NDArray[np.float32]:
    """The option `name`, a number for each of the three channels. Raises InvalidInput."""
    value = options.get(name, default)
    values = value if isinstance(value, list) else [value] * 3
    lowest = 1e-6 if default else -1e3
    if len(values) != 3 or not all(_is_number(v) and lowest <= v <= 1e3 for v in values):
        raise InvalidInput(
            f"option {name} must be a number, or three, from {lowest:g} to 1000; got "
            f"{shown(value)}",
            field=name,
        )
    return np.array(values, np.float32)
