"""`POST /v1/rerank` and `/rerank` in the shape of Jina and Cohere: documents ordered by relevance.

A document's relevance is the cosine between its embedding and the query's, so any deployment of
the task `embedding` can rerank. A model that processes query and document together judges better;
no runtime serves such models yet.
"""

from __future__ import annotations

import math
import operator
import secrets
from array import array

import msgspec
from msgspec import UNSET

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.models import Task
from maas.gateway.calls import Encoded, HttpCall, key_of
from maas.gateway.http.request import JSON, Request
from maas.gateway.openai.embeddings import embedding_output, vectors_of
from maas.gateway.openai.fields import check_fields
from maas.gateway.openai.tensors import input_columns, prompt_tokens_of
from maas.gateway.text.json_body import model_and_fields, to_struct
from maas.gateway.text.task_service import TaskService
from maas.protocols.rerank import (
    Document,
    RerankRequest,
    RerankResult,
    RerankResults,
    RerankUsage,
)
from maas.serving.wire.messages import Answers, rows_of

OPERATION = "rerank"
MAX_NUMBERS = 1 << 19
"""Numbers in all vectors together: comparing them blocks the event loop for about 30 ms."""


class RerankHandler:
    def __init__(self, service: TaskService) -> None:
        self._service = service

    def handle(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        name, body = model_and_fields(request.body)
        service = self._service
        try:
            check_fields(body, RerankRequest.__struct_fields__)
            rerank_request = to_struct(RerankRequest, body)
            texts = [_text_of(document) for document in rerank_request.documents]
            target = service.target(rerank_request.model, Task.EMBEDDING)
            rows = 1 + len(texts)
            columns = input_columns(
                target.signature, {"text": [rerank_request.query, *texts]}, rows
            )
            call = RerankCall(request, target, service.context, columns)
            call.rerank_request, call.texts = rerank_request, texts
            call.output, call.size = embedding_output(target.signature)
            if call.size * rows > MAX_NUMBERS:
                raise InvalidInput(
                    f"documents: expected at most {MAX_NUMBERS // call.size - 1} for this model, "
                    f"got {len(texts)}",
                    field="documents",
                )
            call.submit()
        except MaasError as error:
            service.refuse(request, OPERATION, name, error)


class RerankCall(HttpCall):
    __slots__ = ("output", "rerank_request", "size", "texts")

    operation = OPERATION
    rerank_request: RerankRequest
    texts: list[str]
    output: int
    """Index of the output with the vector."""
    size: int
    """Dimensions of the vector."""

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        tokens = prompt_tokens_of(self.target.signature, answers, first_row, self.rows)
        self.context.meter.processed_prompts(key_of(self.request), OPERATION, self.target, tokens)
        column = answers.columns[self.output]
        data = rows_of(column, first_row, self.rows, answers.total_rows)
        query, *documents = vectors_of(data, self.size)
        scores = _cosines(query, documents)
        best = sorted(range(len(scores)), key=lambda index: -scores[index])
        results = []
        for index in best[: self.rerank_request.top_n]:
            document = (
                Document(self.texts[index]) if self.rerank_request.return_documents else UNSET
            )
            results.append(RerankResult(index, scores[index], document))
        answer_id = f"rerank-{secrets.token_hex(12)}"
        body = RerankResults(answer_id, self.rerank_request.model, results, RerankUsage(tokens))
        return msgspec.json.encode(body), JSON, ()


def _text_of(document: str | Document) -> str:
    return document if isinstance(document, str) else document.text


def _cosines(query: array[float], documents: list[array[float]]) -> list[float]:
    """The cosine of each document with the query; 0 for a vector of length 0."""
    length = math.sqrt(_dot(query, query))
    cosines = []
    for document in documents:
        product = length * math.sqrt(_dot(document, document))
        cosines.append(_dot(query, document) / product if product else 0.0)
    return cosines


def _dot(a: array[float], b: array[float]) -> float:
    return float(sum(map(operator.mul, a, b)))
