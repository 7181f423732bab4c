"""Engines that also tell how likely a given text is, for those that compare variants.

No server needs this: a scorer is the engine of a runtime with two questions more.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from maas.domain.errors import InvalidInput
from maas.runtimes.base import Generator
from maas.runtimes.catalog import missing_extra

SCORERS = {
    "llama_cpp": "maas.runtimes.llama_cpp.scorer:LlamaScorer",
    "openvino": "maas.runtimes.openvino.scorer:OpenVinoScorer",
}


class Scorer(Generator, Protocol):
    """Made with a text, which it reads when it loads."""

    ids: list[int]
    """The tokens of the text, with those that the model puts around every text."""
    never_ends: bool
    """Set: answers have as many tokens as were asked for, because nothing ends them earlier."""

    def scores(self, chunks: list[list[int]]) -> list[list[float]]:
        """For chunks of token ids: the natural logarithms of the probabilities of all but the first
        token of each, given those before it in the chunk. Raises InferenceFailed."""


def create_scorer(runtime: str, text: str = "") -> Scorer:
    """Nothing is loaded yet. Raises InvalidInput for a runtime that does not tell."""
    try:
        module, _, attribute = SCORERS[runtime].partition(":")
    except KeyError:
        raise InvalidInput(
            f"{runtime} does not tell how likely a text is; {' and '.join(SCORERS)} do",
            field="runtime",
        ) from None
    try:
        scorer: Scorer = getattr(import_module(module), attribute)(text)
    except ModuleNotFoundError:
        raise missing_extra(runtime) from None
    return scorer
