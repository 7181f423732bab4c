"""How likely a text is to llama.cpp.

Its server gives no probabilities of a prompt. So the text is written instead: a grammar leaves one
token at each place, and the engine tells of every token that it wrote how likely it was before the
grammar. That is the path on which answers are written, with the kept keys and values of the type
that the variant has.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from socket import AF_UNIX, socket
from typing import Any

import msgspec

from maas.domain.errors import InferenceFailed
from maas.domain.generation import Generation
from maas.runtimes.base import Scorer
from maas.runtimes.llama_cpp.engine import LlamaCpp
from maas.runtimes.text.stream_chunks import decode_chunk

AT_ONCE = 8
PATIENCE_S = 60.0


class LlamaScorer(LlamaCpp, Scorer):
    """`LlamaCpp` that reads a text while it loads, and scores texts."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.ids: list[int] = []
        self.never_ends = False
        self._text = text

    def _inside(self, parameters: Any) -> None:
        """Tokens are asked for at the engine's own door: it alone knows the file's tokenizer."""
        if not self._text:
            return
        connection = _UnixConnection(parameters.hostnames[0])
        headers = {"Authorization": f"Bearer {parameters.api_keys[0]}"}
        body = json.dumps({"content": self._text, "add_special": True})
        try:
            connection.request("POST", "/tokenize", body, headers)
            found = json.loads(connection.getresponse().read())
            self.ids = [int(number) for number in found["tokens"]]
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as wrong:
            raise InferenceFailed(f"the engine did not read the text: {wrong}") from None
        finally:
            connection.close()

    def _body(self, generation: Generation) -> dict[str, Any]:
        return super()._body(generation) | {"ignore_eos": self.never_ends}

    def scores(self, chunks: list[list[int]]) -> list[list[float]]:
        with ThreadPoolExecutor(max(1, min(AT_ONCE, self.slots))) as pool:
            return list(pool.map(self._score, chunks))

    def _score(self, ids: list[int]) -> list[float]:
        body = {
            "prompt": ids[:1],
            "grammar": "root ::= " + " ".join(f"<[{number}]>" for number in ids[1:]),
            "n_predict": len(ids) - 1,
            "n_probs": 1,
            "temperature": 0,
            "cache_prompt": False,
            "stream": False,
        }
        said: list[bytes] = []
        self._server.handle_completions(msgspec.json.encode(body), said.append)
        chunk = decode_chunk(said[-1]) if said else None
        if chunk is not None and chunk.error is not None:
            raise chunk.error.to_domain(self.context_length)
        told = chunk.choices[0].logprobs if chunk is not None and chunk.choices else None
        found = [entry.logprob for entry in (told.content or [])] if told is not None else []
        if len(found) != len(ids) - 1 or any(value is None for value in found):
            raise InferenceFailed(
                f"llama.cpp told how likely {len(found)} of {len(ids) - 1} tokens are"
            )
        return [float(value or 0.0) for value in found]


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket(AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self._path)
