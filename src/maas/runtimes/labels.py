"""Classifiers' labels: the option `labels` of a variant, and outputs with the most likely ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import InvalidInput
from maas.runtimes.base import Arrays, LoadRequest


class ClassLabels:
    """The names of a model's classes, in the order of its scores."""

    def __init__(self, request: LoadRequest) -> None:
        """Reads the option `labels`. Raises InvalidInput if it is invalid, or the signature has
        other outputs than label BYTES [k] and score FP32 [k]."""
        names = request.options.get("labels")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvalidInput("option labels must be a list of names", field="labels")
        self._names: NDArray[Any] = np.array(names, object)
        shapes = {spec.name: spec.shape for spec in request.signature.outputs}
        label = shapes.get("label", ())
        if len(label) != 1 or label != shapes.get("score") or not 1 <= label[0] <= len(names):
            raise InvalidInput(
                "the signature's outputs must be label BYTES [k] and score FP32 [k], with k from 1 "
                f"to {len(names)}"
            )
        self._top = label[0]

    def __len__(self) -> int:
        return len(self._names)

    def check(self, scores: NDArray[np.float32]) -> None:
        """Raises InvalidInput if `scores` [n, classes] have another number of classes."""
        if scores.shape[1:] != (len(self),):
            raise InvalidInput(
                f"the model has scores of shape {list(scores.shape[1:])} per row and there are "
                f"{len(self)} labels",
                field="labels",
            )

    def best(self, scores: NDArray[np.float32]) -> Arrays:
        """`label` and `score` [n, k] for `scores` [n, classes], in descending order."""
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._top]
        return {
            "label": self._names[best],
            "score": np.take_along_axis(scores, best, 1).astype(np.float32),
        }


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares
