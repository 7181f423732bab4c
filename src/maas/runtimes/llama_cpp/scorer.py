"""Log-probabilities of a text under a model, with llama.cpp.

Its server gives no probabilities of prompt tokens. So the text is generated instead: a grammar
allows exactly one token at each position, and the engine reports the probability of every generated
token before the grammar. This is the code path of answers, with the variant's type of KV cache.
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

CONCURRENCY = 8
TIMEOUT_S = 60.0


class LlamaScorer(LlamaCpp, Scorer):
    """`LlamaCpp` that tokenizes a text while it loads, and scores texts."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self.ids: list[int] = []
        self.never_ends = False
        self._text = text

    def _before_socket_closes(self, parameters: Any) -> None:
        """Has the engine tokenize the text over HTTP; xllamacpp has no function for it."""
        if not self._text:
            return
        connection = _UnixConnection(parameters.hostnames[0])
        headers = {"Authorization": f"Bearer {parameters.api_keys[0]}"}
        body = json.dumps({"content": self._text, "add_special": True})
        try:
            connection.request("POST", "/tokenize", body, headers)
            answer = json.loads(connection.getresponse().read())
            self.ids = [int(number) for number in answer["tokens"]]
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as wrong:
            raise InferenceFailed(f"the engine did not tokenize the text: {wrong}") from None
        finally:
            connection.close()

    def _body(self, generation: Generation) -> dict[str, Any]:
        return super()._body(generation) | {"ignore_eos": self.never_ends}

    def scores(self, chunks: list[list[int]]) -> list[list[float]]:
        with ThreadPoolExecutor(max(1, min(CONCURRENCY, self.slots))) as pool:
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
        answers: list[bytes] = []
        self._server.handle_completions(msgspec.json.encode(body), answers.append)
        chunk = decode_chunk(answers[-1] if answers else b"{}")
        if chunk.error is not None:
            raise chunk.error.to_domain(self.context_length)
        logprobs = chunk.choices[0].logprobs if chunk.choices else None
        entries = (logprobs.content if logprobs is not None else None) or []
        values = [entry.logprob for entry in entries if entry.logprob is not None]
        if len(values) != len(ids) - 1:
            raise InferenceFailed(
                f"llama.cpp gave the probabilities of {len(values)} of {len(ids) - 1} tokens"
            )
        return values


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket(AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)
