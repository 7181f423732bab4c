"""Runtimes by name, and the only place where a name becomes a class."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from maas.domain.errors import InvalidInput
from maas.runtimes.base import Generator, Runtime

RUNTIMES = {
    "onnx": "maas.runtimes.onnx:OnnxRuntime",
}
GENERATORS = {
    "llama_cpp": "maas.runtimes.llama_cpp:LlamaCpp",
}
"""Those that write text in pieces."""
FROM_PATHS = frozenset(GENERATORS)
"""Those whose library opens the files itself."""


def runtime_names() -> list[str]:
    return [*RUNTIMES, *GENERATORS]


def create_runtime(name: str) -> Runtime:
    """A runtime that has nothing loaded yet; its library is imported here and not before."""
    runtime: Runtime = _create(RUNTIMES, name)
    return runtime


def create_generator(name: str) -> Generator:
    """As `create_runtime`, for text that comes in pieces."""
    generator: Generator = _create(GENERATORS, name)
    return generator


def _create(known: dict[str, str], name: str) -> Any:
    try:
        module, _, attribute = known[name].partition(":")
    except KeyError:
        raise InvalidInput(
            f"there is no runtime {name!r}; known are {', '.join(runtime_names())}",
            field="runtime",
        ) from None
    return getattr(import_module(module), attribute)()
