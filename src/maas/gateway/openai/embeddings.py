"""`POST /v1/embeddings`: OpenAI's protocol for sentence encoders."""

from __future__ import annotations

import math
from array import array
from base64 import b64encode
from typing import Any

import msgspec

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.models import Task
from maas.domain.signature import Signature
from maas.gateway.calls import Encoded, HttpCall, key_of
from maas.gateway.http.request import JSON, Request
from maas.gateway.openai.fields import check_fields, without_nulls
from maas.gateway.openai.tensors import input_columns, output_index, prompt_tokens_of
from maas.gateway.text.json_body import model_and_fields, to_struct
from maas.gateway.text.task_service import TaskService
from maas.protocols.embeddings import (
    MAX_TEXTS,
    Embedding,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
)
from maas.serving.wire.messages import Answers, Buffer, rows_of

OPERATION = "embeddings"


class EmbeddingsHandler:
    def __init__(self, service: TaskService) -> None:
        self._service = service

    def handle(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        name, body = model_and_fields(request.body)
        service = self._service
        try:
            check_fields(body, EmbeddingRequest.__struct_fields__)
            embedding_request = to_struct(EmbeddingRequest, without_nulls(body))
            values = inputs_of(embedding_request)
            target = service.target(embedding_request.model, Task.EMBEDDING)
            columns = input_columns(target.signature, values, len(values["text"]))
            call = EmbeddingsCall(request, target, service.context, columns)
            call.embedding_request = embedding_request
            call.output, call.size = embedding_output(target.signature)
            call.check_dimensions()
            call.submit()
        except MaasError as error:
            service.refuse(request, OPERATION, name, error)


class EmbeddingsCall(HttpCall):
    __slots__ = ("embedding_request", "output", "size")

    operation = OPERATION
    embedding_request: EmbeddingRequest
    output: int
    """Index of the output with the vector."""
    size: int
    """Dimensions of the vector."""

    def check_dimensions(self) -> None:
        """Raises InvalidInput if the model's vectors cannot be cut to the requested dimensions."""
        dimensions = self.embedding_request.dimensions
        if dimensions is None or dimensions == self.size:
            return
        nested = self.target.signature.outputs[self.output].nested
        if dimensions > self.size or not nested:
            supported = f"from 1 to {self.size}" if nested else f"{self.size} only"
            raise InvalidInput(
                f"dimensions: expected {supported} for this model, got {dimensions}",
                field="dimensions",
            )

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        tokens = prompt_tokens_of(self.target.signature, answers, first_row, self.rows)
        self.context.meter.processed_prompts(key_of(self.request), OPERATION, self.target, tokens)
        column = answers.columns[self.output]
        data = rows_of(column, first_row, self.rows, answers.total_rows)
        dimensions = self.embedding_request.dimensions
        is_text = self.embedding_request.encoding_format == "base64"
        items = []
        for index, vector in enumerate(vectors_of(data, self.size)):
            if dimensions is not None and dimensions < self.size:
                vector = _shortened(vector, dimensions)
            embedding = b64encode(vector).decode() if is_text else vector.tolist()
            items.append(Embedding("embedding", index, embedding))
        usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
        body = EmbeddingList("list", items, self.embedding_request.model, usage)
        return msgspec.json.encode(body), JSON, ()


def embedding_output(signature: Signature) -> tuple[int, int]:
    """Index and size of the output with the vector.

    Raises InvalidInput if the signature has no FP32 vector named `embedding`.
    """
    index = output_index(signature, "embedding")
    spec = signature.outputs[index]
    if spec.datatype != "FP32" or len(spec.shape) != 1 or spec.shape[0] < 1:
        raise InvalidInput("this deployment's embedding is no vector; call it with /predict",
                           field="model")  # fmt: skip
    return index, spec.shape[0]


def vectors_of(data: Buffer, size: int) -> list[array[float]]:
    """The rows of an FP32 column, which is little-endian like every supported machine."""
    width = 4 * size
    vectors = []
    for start in range(0, len(data), width):
        vector = array("f")
        vector.frombytes(data[start : start + width])
        vectors.append(vector)
    return vectors


def inputs_of(request: EmbeddingRequest) -> dict[str, list[Any]]:
    """Inputs of the runtime: texts, or token ids as text.

    Raises InvalidInput for too many texts, or a mixture of texts and tokens.
    """
    is_one = isinstance(request.input, str) or all(isinstance(item, int) for item in request.input)
    items: list[Any] = [request.input] if is_one else list(request.input)
    kind = type(items[0])
    if any(type(item) is not kind for item in items):
        raise InvalidInput(
            "input: expected texts, or tokens, or lists of tokens, got a mixture", field="input"
        )
    if len(items) > MAX_TEXTS:
        raise InvalidInput(
            f"input: expected at most {MAX_TEXTS} texts, got {len(items)}", field="input"
        )
    if kind is str:
        return {"text": items}
    texts = [" ".join(map(str, tokens)) for tokens in items]
    return {"text": texts, "is_tokens": [True] * len(texts)}


def _shortened(vector: array[float], dimensions: int) -> array[float]:
    """The first dimensions, scaled to length 1 (Kusupati et al., Matryoshka Representation
    Learning, 2022)."""
    part = vector[:dimensions]
    length = math.sqrt(sum(x * x for x in part)) or 1.0
    return array("f", (x / length for x in part))
