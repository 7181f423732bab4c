"""`POST /v1/rerank` and `/rerank` in the shape of Jina and Cohere: which documents fit a query.

Here a document is as relevant as the cosine between its embedding and the query's, so any
deployment of the task `embedding` can rerank. A model that reads query and document together
judges better; there is no runtime for those yet.
"""

from __future__ import annotations

import math
import operator
import secrets
from array import array
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.models import Task
from maas.gateway.calls import Encoded, HttpCall, key_of
from maas.gateway.http.request import JSON, Request
from maas.gateway.openai.embeddings import Text, embedding_output, vectors_of
from maas.gateway.openai.named_calls import NamedCalls, decoded, tokens_read
from maas.gateway.openai.request import named_model
from maas.gateway.openai.shapes import ModelName, check_fields
from maas.gateway.text.json_body import typed
from maas.serving.wire.messages import Answers, rows_of

OPERATION = "rerank"
MAX_DOCUMENTS = 1024
MAX_NUMBERS = 1 << 19
"""Of all vectors together: while they are compared, some 30 ms, nobody else is served."""
_KNOWN = ("model", "query", "documents", "top_n", "return_documents")


class Document(Struct):
    text: Text


class RerankRequest(Struct):
    model: ModelName
    query: Text
    documents: Annotated[list[Text | Document], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    return_documents: bool = True


class RerankHandler:
    def __init__(self, calls: NamedCalls) -> None:
        self._calls = calls

    def handle(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        name, body = named_model(request.body)
        calls = self._calls
        try:
            check_fields(body, _KNOWN)
            asked = typed(RerankRequest, body)
            texts = [d if isinstance(d, str) else d.text for d in asked.documents]
            target = calls.target(asked.model, Task.EMBEDDING)
            rows = 1 + len(texts)
            found = decoded(target.signature, {"text": [asked.query, *texts]}, rows)
            call = RerankCall(request, target, calls.meter, found, calls.longest_s)
            call.asked, call.texts = asked, texts
            call.place, call.size = embedding_output(target.signature)
            if call.size * rows > MAX_NUMBERS:
                raise InvalidInput(
                    f"documents: at most {MAX_NUMBERS // call.size - 1} for this model",
                    field="documents",
                )
            call.submit()
        except MaasError as error:
            calls.refused(request, OPERATION, name, error)


class RerankCall(HttpCall):
    __slots__ = ("asked", "place", "size", "texts")

    operation = OPERATION
    asked: RerankRequest
    texts: list[str]
    place: int
    size: int

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        tokens = tokens_read(self.target.signature, answers, first_row, self.rows)
        self.meter.read(key_of(self.request), OPERATION, self.target, tokens)
        column = answers.columns[self.place]
        data = rows_of(column, first_row, self.rows, answers.total_rows)
        query, *documents = vectors_of(data, self.size)
        scores = _cosines(query, documents)
        best = sorted(range(len(scores)), key=lambda at: -scores[at])[: self.asked.top_n]
        results: list[dict[str, Any]] = []
        for at in best:
            result: dict[str, Any] = {"index": at, "relevance_score": scores[at]}
            if self.asked.return_documents:
                result["document"] = {"text": self.texts[at]}
            results.append(result)
        body = {
            "id": f"rerank-{secrets.token_hex(12)}",
            "model": self.asked.model,
            "results": results,
            "usage": {"total_tokens": tokens},
        }
        return msgspec.json.encode(body), JSON, ()


def _cosines(query: array[float], documents: list[array[float]]) -> list[float]:
    length = math.sqrt(_dot(query, query))
    found = []
    for document in documents:
        both = length * math.sqrt(_dot(document, document))
        found.append(_dot(query, document) / both if both else 0.0)
    return found


def _dot(a: array[float], b: array[float]) -> float:
    return float(sum(map(operator.mul, a, b)))
