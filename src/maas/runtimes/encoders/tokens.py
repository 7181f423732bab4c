"""Tokenizes texts for encoders and classifiers, and runs their graphs.

Options of the variant:

    max_tokens  longest text, with its special tokens; default: from config.json or the tokenizer
    truncate    false (default): a longer text is an error; true: its end is cut off
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from maas.domain.errors import ContextLengthExceeded, InvalidInput
from maas.domain.names import shown
from maas.runtimes.onnx import inference_error
from maas.runtimes.options import flag_of, number_of, parsed_json

BATCH_TOKENS = 2048
"""Most tokens per run of the graph, with padding: more is not faster, and the memory of attention
grows with the square of the length."""
DEFAULT_MAX_TOKENS = 512

Ids = list[int]


class TextTokenizer:
    """The tokenizer of a model, with its longest text."""

    def __init__(self, files: dict[str, bytes], options: dict[str, Any]) -> None:
        """Raises InvalidInput for an invalid tokenizer.json or option."""
        try:
            self._tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
        except KeyError:
            raise InvalidInput("the variant lacks tokenizer.json", field="files") from None
        except Exception as wrong:  # noqa: BLE001 - the library raises Exception itself
            raise InvalidInput(f"tokenizer.json cannot be read: {wrong}") from None
        default = self._default_length(files)
        self._max_tokens = int(number_of(options, "max_tokens", default, 2, 1 << 20))
        self._truncate = flag_of(options, "truncate", False)
        # Files often configure truncation, or padding to one length; neither is for serving.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: list[str]) -> list[Ids]:
        """Token ids of each text. Raises ContextLengthExceeded."""
        encodings = self._tokenizer.encode_batch(texts)
        return [self._fitting(e.ids, text) for e, text in zip(encodings, texts, strict=True)]

    def parse(self, text: str) -> Ids:
        """Token ids from decimal numbers separated by spaces. Raises InvalidInput and
        ContextLengthExceeded."""
        size = self._tokenizer.get_vocab_size()
        try:
            ids = [int(part) for part in text.split()]
        except ValueError:
            raise InvalidInput(f"token ids must be whole numbers; got {shown(text)}") from None
        if not ids or not all(0 <= i < size for i in ids):
            raise InvalidInput(
                f"token ids must be from 0 to {size - 1}, at least one; got {shown(ids)}"
            )
        return self._fitting(ids, text)

    def _default_length(self, files: dict[str, bytes]) -> int:
        """The longest text that the model has positions for."""
        if "config.json" in files:
            config = parsed_json(files, "config.json")
            longest = config.get("max_position_embeddings")
            if isinstance(longest, int):
                # RoBERTa and its variants count positions from the padding id on.
                if "roberta" in str(config.get("model_type")):
                    longest -= int(config.get("pad_token_id") or 0) + 1
                return longest
        truncation = self._tokenizer.truncation
        return int(truncation["max_length"]) if truncation else DEFAULT_MAX_TOKENS

    def _fitting(self, ids: Ids, text: str) -> Ids:
        if len(ids) <= self._max_tokens:
            return ids
        if self._truncate:
            # The model expects the end-of-text token at the end.
            return [*ids[: self._max_tokens - 1], ids[-1]]
        raise ContextLengthExceeded(
            f"a text of this model has at most {self._max_tokens} tokens; {shown(text, 40)} "
            f"has {len(ids)}",
            max_tokens=self._max_tokens,
            tokens=len(ids),
        )


class TokenGraph:
    """A session with the inputs `input_ids` and, optionally, `attention_mask` and `token_type_ids`,
    INT64 [n, t]."""

    def __init__(self, session: ort.InferenceSession, outputs: tuple[str, ...]) -> None:
        """`outputs`: names of outputs by preference; if there is none of them, the graph's first
        output is used. Raises InvalidInput for a graph with other inputs."""
        self._session = session
        self._inputs = {node.name for node in session.get_inputs()}
        unknown = self._inputs - {"input_ids", "attention_mask", "token_type_ids"}
        if "input_ids" not in self._inputs or unknown:
            raise InvalidInput(
                "the graph must take input_ids, attention_mask and token_type_ids; this one takes "
                f"{', '.join(sorted(self._inputs))}"
            )
        names = [node.name for node in session.get_outputs()]
        self._output = next((name for name in outputs if name in names), names[0])

    def run(self, rows: list[Ids]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The output for rows padded to the longest, and the attention mask [n, t]."""
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
            mask[at, : len(row)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        try:
            (output,) = self._session.run(
                [self._output], {name: feed[name] for name in self._inputs}
            )
        except Exception as wrong:  # noqa: BLE001 - the library raises a dozen unrelated classes
            raise inference_error(wrong) from None
        return output.astype(np.float32, copy=False), mask


def batches_of_similar_length(rows: list[Ids]) -> list[list[int]]:
    """Indexes of the rows in batches of at most BATCH_TOKENS tokens with little padding."""
    groups: list[list[int]] = []
    for place in sorted(range(len(rows)), key=lambda at: len(rows[at]), reverse=True):
        if not groups or (len(groups[-1]) + 1) * len(rows[groups[-1][0]]) > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(place)
    return groups
