"""Sentence encoders: map texts to embedding vectors.

Files: tokenizer.json, and model.onnx (to one vector per token or per text), or config.json and
model.safetensors of a BERT (`bert.py`). Options of the variant, besides those of `tokens.py`:

    pooling     mean (default) | cls: how token vectors become the text's vector
    normalize   true (default) | false: whether vectors are scaled to length 1

Source of the pooling: Reimers and Gurevych, Sentence-BERT, 2019.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import InvalidInput
from maas.runtimes.base import Arrays, LoadRequest, Runtime
from maas.runtimes.encoders.bert import bert_graph
from maas.runtimes.encoders.tokens import Ids, TextTokenizer, TokenGraph, batches_of_similar_length
from maas.runtimes.onnx import open_session
from maas.runtimes.options import flag_of, one_of, parsed_json

_OUTPUTS = ("sentence_embedding", "last_hidden_state", "token_embeddings")


class SentenceEncoder(Runtime):
    """An encoder with its tokenizer."""

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput for files, options or a signature other than described above."""
        options = request.options
        self._pooling = one_of(options, "pooling", ("mean", "cls"))
        self._normalize = flag_of(options, "normalize", True)
        self._tokenizer = TextTokenizer(request.files, options)
        session = open_session(_model(request.files), request.threads)
        self._graph = TokenGraph(session, _OUTPUTS)
        self._size = self._encoded([[0]]).shape[1]
        spec = next((s for s in request.signature.outputs if s.name == "embedding"), None)
        if spec is None or spec.shape != (self._size,) or spec.datatype != "FP32":
            raise InvalidInput(f"the signature's output must be embedding FP32 [{self._size}]")

    def predict(self, inputs: Arrays) -> Arrays:
        texts: list[str] = inputs["text"].tolist()
        is_tokens = inputs.get("is_tokens")
        if is_tokens is None or not is_tokens.any():
            rows = self._tokenizer.encode(texts)
        else:
            rows = []
            for text, has_ids in zip(texts, is_tokens.tolist(), strict=True):
                rows += [self._tokenizer.parse(text)] if has_ids else self._tokenizer.encode([text])
        vectors = np.empty((len(rows), self._size), np.float32)
        for places in batches_of_similar_length(rows):
            vectors[places] = self._encoded([rows[place] for place in places])
            self.last_progress = time.monotonic()
        return {"embedding": vectors, "tokens": np.array([len(row) for row in rows], np.int32)}

    def _encoded(self, rows: list[Ids]) -> NDArray[np.float32]:
        """Vectors [n, size]."""
        vectors, mask = self._graph.run(rows)
        if vectors.ndim == 3:
            if self._pooling == "cls":
                vectors = vectors[:, 0]
            else:
                weights = mask[:, None, :].astype(np.float32)
                vectors = (weights @ vectors)[:, 0] / weights.sum(axis=2)
        if vectors.ndim != 2:
            raise InvalidInput(
                f"an encoder must return vectors, not {vectors.ndim - 1}-dimensional arrays"
            )
        if self._normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.maximum(lengths, 1e-12)
        return vectors


def _model(files: dict[str, bytes]) -> bytes:
    if "model.onnx" in files:
        return files["model.onnx"]
    if "model.safetensors" not in files:
        raise InvalidInput("the variant has neither model.onnx nor model.safetensors")
    from safetensors.numpy import load  # noqa: PLC0415 - only for this kind of file

    try:
        tensors: dict[str, Any] = load(files["model.safetensors"])
    except Exception as wrong:  # noqa: BLE001 - the library's own class is a bare Exception
        raise InvalidInput(f"model.safetensors cannot be read: {wrong}") from None
    return bert_graph(parsed_json(files, "config.json"), tensors)
