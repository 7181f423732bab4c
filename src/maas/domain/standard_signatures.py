"""Standard signatures of models for text, images and audio.

Runtimes and protocol handlers rely on the names of these inputs and outputs.
"""

from __future__ import annotations

from base64 import b64encode

from maas.domain.signature import Signature, TensorSpec

# Base64 as in a JSON body: a PNG with one gray pixel.
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_SILENCE_BYTES = 1600 * 2


def text_generation() -> Signature:
    """A prompt to the text that continues it."""
    return Signature(
        inputs=(TensorSpec("prompt", "BYTES"),),
        outputs=(TensorSpec("text", "BYTES"),),
        example={"prompt": "Hello"},
    )


def embedding(size: int, nested: bool = False) -> Signature:
    """Text to a vector of `size` numbers. `nested` is as in TensorSpec."""
    return Signature(
        inputs=(
            TensorSpec("text", "BYTES"),
            TensorSpec(
                "is_tokens",
                "BOOL",
                description="whether the text is decimal token ids, separated by spaces",
                default=False,
            ),
        ),
        outputs=(
            TensorSpec("embedding", "FP32", (size,), nested=nested),
            TensorSpec("tokens", "INT32", description="number of tokens in the text"),
        ),
        example={"text": "A small example."},
    )


def text_classification(top: int) -> Signature:
    """Text to its `top` most likely labels."""
    return Signature(
        inputs=(TensorSpec("text", "BYTES"),),
        outputs=(
            TensorSpec("label", "BYTES", (top,), description="most likely first"),
            TensorSpec("score", "FP32", (top,)),
        ),
        example={"text": "A small example."},
    )


def transcription() -> Signature:
    """Encoded audio to text."""
    return Signature(
        inputs=(
            TensorSpec("audio", "BYTES", description="encoded audio: WAV, FLAC, MP3, …"),
            TensorSpec(
                "language",
                "BYTES",
                description="two letters (ISO 639-1); empty: detected",
                default="",
            ),
            TensorSpec("prompt", "BYTES", description="transcript of the audio before", default=""),
            TensorSpec(
                "temperature",
                "FP32",
                description="from 0 to 1; 0: rises only when the output is poor",
                default=0.0,
            ),
            TensorSpec("translate", "BOOL", description="translate to English", default=False),
            TensorSpec("word_timestamps", "BOOL", default=False),
        ),
        outputs=(
            TensorSpec("text", "BYTES"),
            TensorSpec("segments", "BYTES", description="segments with their times, as JSON"),
            TensorSpec("language", "BYTES", description="two letters (ISO 639-1)"),
            TensorSpec("duration", "FP32", units="s"),
        ),
        # A fixed temperature: silence gives poor output at every temperature, and 0 would try all.
        example={"audio": {"b64": _silence()}, "temperature": 0.1},
        # One recording per batch: it takes long, and other requests in the batch would wait.
        max_rows=1,
    )


def translation() -> Signature:
    """Text to its translation."""
    return Signature(
        inputs=(TensorSpec("text", "BYTES"),),
        outputs=(TensorSpec("translation", "BYTES"),),
        example={"text": "Good morning."},
        max_rows=8,
    )


def image_classification(top: int = 5) -> Signature:
    """An encoded image to its `top` most likely labels."""
    return Signature(
        inputs=(TensorSpec("image", "BYTES", description="encoded image: JPEG or PNG"),),
        outputs=(
            TensorSpec("label", "BYTES", (top,), description="most likely first"),
            TensorSpec("score", "FP32", (top,)),
        ),
        example={"image": {"b64": _PIXEL}},
        max_rows=16,
    )


def _silence() -> str:
    """A fifth of a second of silence: WAV at 8 kHz with 16 bits, base64."""
    rate = 8000
    form = (16).to_bytes(4, "little") + b"\1\0\1\0" + rate.to_bytes(4, "little")
    form += (2 * rate).to_bytes(4, "little") + b"\2\0\x10\0"
    body = b"WAVEfmt " + form + b"data" + _SILENCE_BYTES.to_bytes(4, "little")
    body += bytes(_SILENCE_BYTES)
    return b64encode(b"RIFF" + len(body).to_bytes(4, "little") + body).decode()
