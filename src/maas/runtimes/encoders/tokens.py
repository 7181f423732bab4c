"""Texts as token ids for models that read whole texts: encoders and classifiers.

Options of the variant:

    max_tokens  longest text, with its special tokens; default: what config or tokenizer says
    truncate    false (default): a longer text is an error; true: its end is not read
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from maas.domain.errors import ContextLengthExceeded, InvalidInput
from maas.domain.names import shown
from maas.runtimes.onnx import failed
from maas.runtimes.options import flag_of, number_of, parsed_json

TOKENS_AT_ONCE = 2048
"""In one call of the graph, padding included: more is no faster, and the attention of many long
texts takes memory with the square of their length."""
DEFAULT_MAX_TOKENS = 512

Ids = list[int]


class TextReader:
    def __init__(self, files: dict[str, bytes], options: dict[str, Any]) -> None:
        """Raises InvalidInput for a tokenizer or options that are none."""
        try:
            self._tokenizer = Tokenizer.from_buffer(files["tokenizer.json"])
        except KeyError:
            raise InvalidInput("the variant lacks tokenizer.json", field="files") from None
        except Exception as wrong:  # noqa: BLE001 - the library raises Exception itself
            raise InvalidInput(f"tokenizer.json cannot be read: {wrong}") from None
        usual = self._usual_length(files)
        self._max_tokens = int(number_of(options, "max_tokens", usual, 2, 1 << 20))
        self._truncate = flag_of(options, "truncate", False)
        # Files often say that texts are cut, or all padded to one length; neither is wanted here.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def read(self, texts: list[str]) -> list[Ids]:
        """Raises ContextLengthExceeded."""
        found = self._tokenizer.encode_batch(texts)
        return [self._fitting(e.ids, text) for e, text in zip(found, texts, strict=True)]

    def chosen(self, text: str) -> Ids:
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
        return self._fitting(ids, text)

    def _usual_length(self, files: dict[str, bytes]) -> int:
        """The longest text that the model has positions for."""
        if "config.json" in files:
            config = parsed_json(files, "config.json")
            longest = config.get("max_position_embeddings")
            if isinstance(longest, int):
                # RoBERTa and its kin begin to count after the padding's id.
                is_later = "roberta" in str(config.get("model_type"))
                return longest - int(config.get("pad_token_id") or 0) - 1 if is_later else longest
        said = self._tokenizer.truncation
        return int(said["max_length"]) if said else DEFAULT_MAX_TOKENS

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


class TokenGraph:
    """A session that takes `input_ids`, and if it wants them `attention_mask` and
    `token_type_ids`, INT64 [n, t]."""

    def __init__(self, session: ort.InferenceSession, outputs: tuple[str, ...]) -> None:
        """`outputs`: names to look for; the first that is there counts, or else the graph's
        first. Raises InvalidInput for a graph with other inputs."""
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
        """What it says for rows that are padded to the longest, and where tokens are [n, t]."""
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
        return found.astype(np.float32, copy=False), mask


def alike(rows: list[Ids]) -> list[list[int]]:
    """The places of the rows in groups of about one length, so that little is padding."""
    groups: list[list[int]] = []
    for place in sorted(range(len(rows)), key=lambda at: len(rows[at]), reverse=True):
        if not groups or (len(groups[-1]) + 1) * len(rows[groups[-1][0]]) > TOKENS_AT_ONCE:
            groups.append([])
        groups[-1].append(place)
    return groups
