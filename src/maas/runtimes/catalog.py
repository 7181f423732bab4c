"""Runtimes by name, and the only place where a name becomes a class."""

from __future__ import annotations

from importlib import import_module

from maas.domain.errors import InvalidInput
from maas.runtimes.base import Runtime

RUNTIMES = {
    "onnx": "maas.runtimes.onnx:OnnxRuntime",
    "sentence_encoder": "maas.runtimes.sentence_encoder:SentenceEncoder",
    "whisper": "maas.runtimes.whisper:WhisperRuntime",
    "translator": "maas.runtimes.translator:TranslatorRuntime",
    "image_classifier": "maas.runtimes.image_classifier:ImageClassifier",
}


def create_runtime(name: str) -> Runtime:
    """A runtime that has nothing loaded yet; its library is imported here and not before."""
    try:
        module, _, attribute = RUNTIMES[name].partition(":")
    except KeyError:
        raise InvalidInput(
            f"there is no runtime {name!r}; known are {', '.join(RUNTIMES)}", field="runtime"
        ) from None
    runtime: Runtime = getattr(import_module(module), attribute)()
    return runtime
