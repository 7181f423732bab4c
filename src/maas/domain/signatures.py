"""The signatures of the usual kinds of model that take text, images or sound.

A runtime of such a kind and the protocols that lead to it meet in these names.
"""

from __future__ import annotations

from base64 import b64encode

from maas.domain.signature import Signature, TensorSpec

# Encoded as in JSON bodies. One pixel of gray, and a fifth of a second of silence.
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_SILENCE_BYTES = 1600 * 2


def text_generation() -> Signature:
    """A text to the one that follows it, written by a generator."""
    return Signature(
        inputs=(TensorSpec("prompt", "BYTES"),),
        outputs=(TensorSpec("text", "BYTES"),),
        example={"prompt": "Hello"},
    )


def embedding(size: int, nested: bool = False) -> Signature:
    """Text to a vector of `size` numbers; `nested` as in TensorSpec."""
    return Signature(
        inputs=(
            TensorSpec("text", "BYTES"),
            TensorSpec(
                "is_tokens",
                "BOOL",
                description="the text is token ids, decimal, with spaces between them",
                default=False,
            ),
        ),
        outputs=(
            TensorSpec("embedding", "FP32", (size,), nested=nested),
            TensorSpec("tokens", "INT32", description="how many the text has, as the model reads"),
        ),
        example={"text": "A small example."},
    )


def text_classification(top: int) -> Signature:
    """Text to its `top` likeliest labels."""
    return Signature(
        inputs=(TensorSpec("text", "BYTES"),),
        outputs=(
            TensorSpec("label", "BYTES", (top,), description="the likeliest first"),
            TensorSpec("score", "FP32", (top,)),
        ),
        example={"text": "A small example."},
    )


def transcription() -> Signature:
    """Encoded sound to text."""
    return Signature(
        inputs=(
            TensorSpec("audio", "BYTES", description="an encoded sound: WAV, FLAC, MP3, …"),
            TensorSpec("language", "BYTES", description="two letters; empty: heard", default=""),
            TensorSpec("prompt", "BYTES", description="what was said before", default=""),
            TensorSpec(
                "temperature",
                "FP32",
                description="from 0 to 1; 0: as low as it goes well",
                default=0.0,
            ),
            TensorSpec(
                "translate", "BOOL", description="write English, whatever is heard", default=False
            ),
            TensorSpec("word_timestamps", "BOOL", default=False),
        ),
        outputs=(
            TensorSpec("text", "BYTES"),
            TensorSpec("segments", "BYTES", description="with times and more, as JSON"),
            TensorSpec("language", "BYTES", description="two letters"),
            TensorSpec("duration", "FP32", units="s"),
        ),
        example={"audio": {"b64": _silence()}},
        # A sound at a time: it takes long, and others' in the same batch would wait for it.
        max_rows=1,
    )


def translation() -> Signature:
    return Signature(
        inputs=(TensorSpec("text", "BYTES"),),
        outputs=(TensorSpec("translation", "BYTES"),),
        example={"text": "Good morning."},
        max_rows=8,
    )


def image_classification(top: int = 5) -> Signature:
    """An encoded image to its `top` likeliest labels."""
    return Signature(
        inputs=(TensorSpec("image", "BYTES", description="an encoded image: JPEG or PNG"),),
        outputs=(
            TensorSpec("label", "BYTES", (top,), description="the likeliest first"),
            TensorSpec("score", "FP32", (top,)),
        ),
        example={"image": {"b64": _PIXEL}},
        max_rows=16,
    )


def _silence() -> str:
    """A WAV of 0.2 s at 8 kHz, 16 bits."""
    rate = 8000
    form = (16).to_bytes(4, "little") + b"\1\0\1\0" + rate.to_bytes(4, "little")
    form += (2 * rate).to_bytes(4, "little") + b"\2\0\x10\0"
    body = b"WAVEfmt " + form + b"data" + _SILENCE_BYTES.to_bytes(4, "little")
    body += bytes(_SILENCE_BYTES)
    return b64encode(b"RIFF" + len(body).to_bytes(4, "little") + body).decode()
