"""Text classifiers: map texts to the most likely labels.

Files: tokenizer.json and model.onnx, to FP32 [n, classes]. Options of the variant, in addition
to those of `tokens.py`:

    labels      names of the classes, in order; required
    scale       probabilities (default: softmax) | independent (sigmoid of each) | none
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import InvalidInput
from maas.runtimes.base import Arrays, LoadRequest, Runtime
from maas.runtimes.encoders.tokens import Ids, TextTokenizer, TokenGraph, batches_of_similar_length
from maas.runtimes.labels import ClassLabels, softmax
from maas.runtimes.onnx import open_session
from maas.runtimes.options import one_of


class TextClassifier(Runtime):
    """A classifier with its tokenizer."""

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput for files, options or a signature other than described above."""
        self._labels = ClassLabels(request)
        self._scale = one_of(request.options, "scale", ("probabilities", "independent", "none"))
        self._tokenizer = TextTokenizer(request.files, request.options)
        if "model.onnx" not in request.files:
            raise InvalidInput("the variant lacks model.onnx", field="files")
        session = open_session(request.files["model.onnx"], request.threads)
        self._graph = TokenGraph(session, ("logits",))
        self._labels.check(self._scores([[0]]))

    def predict(self, inputs: Arrays) -> Arrays:
        rows = self._tokenizer.encode(inputs["text"].tolist())
        scores = np.empty((len(rows), len(self._labels)), np.float32)
        for places in batches_of_similar_length(rows):
            scores[places] = self._scores([rows[place] for place in places])
            self.last_progress = time.monotonic()
        return self._labels.best(scores)

    def _scores(self, rows: list[Ids]) -> NDArray[np.float32]:
        scores, _ = self._graph.run(rows)
        if self._scale == "probabilities":
            return softmax(scores)
        if self._scale == "independent":
            each: NDArray[np.float32] = np.reciprocal(1 + np.exp(-scores))
            return each
        return scores
