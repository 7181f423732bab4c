"""Sentence encoders: a text becomes a vector whose direction is its meaning.

Files: tokenizer.json, and model.onnx (to one vector per token or per text), or config.json and
model.safetensors of a BERT (see `bert`). Options of the variant, besides those of `tokens`:

    pooling     mean (default) | cls: how a text's vector is made of its tokens'
    normalize   true (default): vectors have length 1

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
from maas.runtimes.encoders.tokens import Ids, TextReader, TokenGraph, alike
from maas.runtimes.onnx import open_session
from maas.runtimes.options import flag_of, one_of, parsed_json

_OUTPUTS = ("sentence_embedding", "last_hidden_state", "token_embeddings")


class SentenceEncoder(Runtime):
    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput for files that are no such encoder, or another signature."""
        options = request.options
        self._pooling = one_of(options, "pooling", ("mean", "cls"))
        self._normalize = flag_of(options, "normalize", True)
        self._reader = TextReader(request.files, options)
        session = open_session(_model(request.files), request.threads)
        self._graph = TokenGraph(session, _OUTPUTS)
        self._size = self._encoded([[0]]).shape[1]
        wanted = next((s for s in request.signature.outputs if s.name == "embedding"), None)
        if wanted is None or wanted.shape != (self._size,) or wanted.datatype != "FP32":
            raise InvalidInput(f"the signature's output must be embedding FP32 [{self._size}]")

    def predict(self, inputs: Arrays) -> Arrays:
        texts: list[str] = inputs["text"].tolist()
        chosen = inputs.get("is_tokens")
        if chosen is None or not chosen.any():
            rows = self._reader.read(texts)
        else:
            rows = [
                self._reader.chosen(text) if is_tokens else self._reader.read([text])[0]
                for text, is_tokens in zip(texts, chosen.tolist(), strict=True)
            ]
        vectors = np.empty((len(rows), self._size), np.float32)
        for places in alike(rows):
            vectors[places] = self._encoded([rows[place] for place in places])
            self.last_progress = time.monotonic()
        return {"embedding": vectors, "tokens": np.array([len(row) for row in rows], np.int32)}

    def _encoded(self, rows: list[Ids]) -> NDArray[np.float32]:
        """[n, size]"""
        vectors, mask = self._graph.run(rows)
        if vectors.ndim == 3:
            if self._pooling == "cls":
                vectors = vectors[:, 0]
            else:
                weights = mask[:, None, :].astype(np.float32)
                vectors = (weights @ vectors)[:, 0] / weights.sum(axis=2)
        if vectors.ndim != 2:
            raise InvalidInput(
                f"an encoder gives vectors, not {vectors.ndim - 1}-dimensional arrays"
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
