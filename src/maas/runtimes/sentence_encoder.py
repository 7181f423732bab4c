"""Sentence encoders: a text becomes a vector whose direction is its meaning.

Files: tokenizer.json, and model.onnx (`input_ids`, `attention_mask` and, if it wants them,
`token_type_ids` to one vector per token or per text), or config.json and model.safetensors of a
BERT (see `bert`). Options of the variant:

    pooling     mean (default) | cls: how a text's vector is made of its tokens'
    normalize   true (default): vectors have length 1
    max_tokens  longest text, with its special tokens; default: what the tokenizer or config says
    truncate    false (default): a longer text is an error; true: its end is not read

Source of the pooling: Reimers and Gurevych, Sentence-BERT, 2019.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from maas.domain.errors import ContextLengthExceeded, InferenceFailed, InvalidInput
from maas.domain.names import shown
from maas.runtimes.base import Arrays, LoadRequest
from maas.runtimes.bert import bert_graph
from maas.runtimes.onnx import failed, open_session
from maas.runtimes.options import number_of, one_of, parsed_json

TOKENS_AT_ONCE = 2048
"""In one call of the graph, padding included: more is no faster, and the attention of many long
texts takes memory with the square of their length."""
DEFAULT_MAX_TOKENS = 512

Ids = list[int]


class SentenceEncoder:
    last_progress = 0.0

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput for files that are no such encoder, or another signature."""
        files, options = request.files, request.options
        self._pooling = one_of(options, "pooling", ("mean", "cls"))
        self._normalize = _flag(options, "normalize", True)
        self._truncate = _flag(options, "truncate", False)
        try:
            self._tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
        except KeyError:
            raise InvalidInput("the variant lacks tokenizer.json", field="files") from None
        except Exception as wrong:  # noqa: BLE001 - the library raises Exception itself
            raise InvalidInput(f"tokenizer.json cannot be read: {wrong}") from None
        self._max_tokens = int(
            number_of(options, "max_tokens", self._usual_length(files), 1, 1 << 20)
        )
        # Files often say that texts are cut, or all padded to one length; neither is wanted here.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._session = open_session(_model(files), request.threads)
        self._inputs = {node.name for node in self._session.get_inputs()}
        unknown = self._inputs - {"input_ids", "attention_mask", "token_type_ids"}
        if "input_ids" not in self._inputs or unknown:
            raise InvalidInput(
                "an encoder's graph takes input_ids, attention_mask and token_type_ids; this one "
                f"takes {', '.join(sorted(self._inputs))}"
            )
        self._output = self._chosen_output()
        answer = self._encoded([[0]])
        wanted = next((s for s in request.signature.outputs if s.name == "embedding"), None)
        if wanted is None or wanted.shape != answer.shape[1:] or wanted.datatype != "FP32":
            raise InvalidInput(
                f"the signature's output must be embedding FP32 {list(answer.shape[1:])}"
            )

    def predict(self, inputs: Arrays) -> Arrays:
        texts: list[str] = inputs["text"].tolist()
        given = inputs.get("is_tokens")
        if given is None or not given.any():
            rows = [e.ids for e in self._tokenizer.encode_batch(texts)]
        else:
            rows = [
                self._ids(text) if is_tokens else self._tokenizer.encode(text).ids
                for text, is_tokens in zip(texts, given.tolist(), strict=True)
            ]
        rows = [self._fitting(row, text) for row, text in zip(rows, texts, strict=True)]
        out: NDArray[np.float32] | None = None
        for places in _alike([len(row) for row in rows]):
            vectors = self._encoded([rows[place] for place in places])
            if out is None:
                out = np.empty((len(rows), vectors.shape[1]), np.float32)
            out[places] = vectors
            self.last_progress = time.monotonic()
        if out is None:
            raise InferenceFailed("there is no text")
        return {"embedding": out, "tokens": np.array([len(row) for row in rows], np.int32)}

    def _usual_length(self, files: dict[str, bytes]) -> int:
        """The longest text that the model has positions for."""
        if "config.json" in files:
            config = parsed_json(files, "config.json")
            longest = config.get("max_position_embeddings")
            if isinstance(longest, int):
                is_bert = config.get("model_type") == "bert"
                return longest if is_bert else longest - int(config.get("pad_token_id") or 0) - 1
        said = self._tokenizer.truncation
        return int(said["max_length"]) if said else DEFAULT_MAX_TOKENS

    def _chosen_output(self) -> str:
        names = [node.name for node in self._session.get_outputs()]
        known = ("sentence_embedding", "last_hidden_state", "token_embeddings")
        return next((name for name in known if name in names), names[0])

    def _ids(self, text: str) -> Ids:
        """Token ids that the caller chose, as decimal numbers with spaces between them."""
        size = self._tokenizer.get_vocab_size()
        try:
            ids = [int(part) for part in text.split()]
        except ValueError:
            raise InvalidInput(f"token ids are whole numbers; got {shown(text)}") from None
        if not ids or not all(0 <= i < size for i in ids):
            raise InvalidInput(
                f"token ids are from 0 to {size - 1}, at least one; got {shown(ids)}"
            )
        return ids

    def _fitting(self, ids: Ids, text: str) -> Ids:
        if len(ids) <= self._max_tokens:
            return ids
        if self._truncate:
            # The last token is the one that ends a text, and the model expects it there.
            return [*ids[: self._max_tokens - 1], ids[-1]]
        raise ContextLengthExceeded(
            f"this model reads {self._max_tokens} tokens at once; the text {shown(text, 40)} "
            f"has {len(ids)}",
            max_tokens=self._max_tokens,
            tokens=len(ids),
        )

    def _encoded(self, rows: list[Ids]) -> NDArray[np.float32]:
        """[n, d] for token ids, padded to the longest."""
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        try:
            (found,) = self._session.run(
                [self._output], {name: feed[name] for name in self._inputs}
            )
        except Exception as wrong:  # noqa: BLE001 - the library raises a dozen unrelated classes
            raise failed(wrong) from None
        vectors: NDArray[np.float32] = found.astype(np.float32, copy=False)
        if vectors.ndim == 3:
            if self._pooling == "cls":
                vectors = vectors[:, 0]
            else:
                weights = mask[:, None, :].astype(np.float32)
                vectors = (weights @ vectors)[:, 0] / weights.sum(axis=2)
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


def _alike(lengths: list[int]) -> list[list[int]]:
    """The places of the rows in groups of about one length, so that little is padding."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > TOKENS_AT_ONCE:
            groups.append([])
        groups[-1].append(place)
    return groups


def _flag(options: dict[str, Any], name: str, default: bool) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"option {name} must be true or false; got {shown(value)}", field=name)
    return value
