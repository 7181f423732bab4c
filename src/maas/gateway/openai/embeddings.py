"""`POST /v1/embeddings`: OpenAI's door to sentence encoders."""

from __future__ import annotations

import math
from array import array
from base64 import b64encode
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.models import Task
from maas.domain.signature import Signature
from maas.gateway.calls import Encoded, HttpCall, key_of
from maas.gateway.http.request import JSON, Request
from maas.gateway.openai.named_calls import NamedCalls, decoded, output, tokens_read
from maas.gateway.openai.request import named_model
from maas.gateway.openai.shapes import ModelName, TokenId, check_fields, said_in
from maas.gateway.text.json_body import typed
from maas.serving.wire.messages import Answers, Buffer, rows_of

OPERATION = "embeddings"
MAX_TEXTS = 2048

Text = Annotated[str, Meta(min_length=1)]
Tokens = Annotated[list[TokenId], Meta(min_length=1)]


class EmbeddingRequest(Struct):
    model: ModelName
    input: Text | Annotated[list[Text | TokenId | Tokens], Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, le=1 << 16)] | None = None


class EmbeddingsHandler:
    def __init__(self, calls: NamedCalls) -> None:
        self._calls = calls

    def handle(self, request: Request) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        name, body = named_model(request.body)
        calls = self._calls
        try:
            check_fields(body, EmbeddingRequest.__struct_fields__)
            asked = typed(EmbeddingRequest, said_in(body))
            values = inputs_of(asked)
            target = calls.target(asked.model, Task.EMBEDDING)
            rows = len(values["text"])
            found = decoded(target.signature, values, rows)
            call = EmbeddingsCall(request, target, calls.meter, found, calls.longest_s)
            call.asked = asked
            call.place, call.size = embedding_output(target.signature)
            call.check_dimensions()
            call.submit()
        except MaasError as error:
            calls.refused(request, OPERATION, name, error)


class EmbeddingsCall(HttpCall):
    __slots__ = ("asked", "place", "size")

    operation = OPERATION
    asked: EmbeddingRequest
    place: int
    size: int

    def check_dimensions(self) -> None:
        """Raises InvalidInput if only a part of a vector is wanted that has no such parts."""
        wanted = self.asked.dimensions
        if wanted is None or wanted == self.size:
            return
        nested = self.target.signature.outputs[self.place].nested
        if wanted > self.size or not nested:
            may = f"from 1 to {self.size}" if nested else f"{self.size} and no other number"
            raise InvalidInput(
                f"dimensions: this model gives {may}; got {wanted}", field="dimensions"
            )

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        tokens = tokens_read(self.target.signature, answers, first_row, self.rows)
        self.meter.read(key_of(self.request), OPERATION, self.target, tokens)
        column = answers.columns[self.place]
        data = rows_of(column, first_row, self.rows, answers.total_rows)
        dimensions = self.asked.dimensions
        is_text = self.asked.encoding_format == "base64"
        items: list[dict[str, Any]] = []
        for index, vector in enumerate(vectors_of(data, self.size)):
            if dimensions is not None and dimensions < self.size:
                vector = _shortened(vector, dimensions)
            said = b64encode(vector).decode() if is_text else vector.tolist()
            items.append({"object": "embedding", "index": index, "embedding": said})
        body = {
            "object": "list",
            "data": items,
            "model": self.asked.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return msgspec.json.encode(body), JSON, ()


def embedding_output(signature: Signature) -> tuple[int, int]:
    """Place and size of the vector that a model gives; raises InvalidInput if it gives none."""
    place = output(signature, "embedding")
    spec = signature.outputs[place]
    if spec.datatype != "FP32" or len(spec.shape) != 1 or spec.shape[0] < 1:
        raise InvalidInput("this deployment's embedding is no vector; call it with /predict",
                           field="model")  # fmt: skip
    return place, spec.shape[0]


def vectors_of(data: Buffer, size: int) -> list[array[float]]:
    """The rows of an FP32 column, which are little-endian, as is every machine that we run on."""
    width = 4 * size
    vectors = []
    for at in range(0, len(data), width):
        vector = array("f")
        vector.frombytes(data[at : at + width])
        vectors.append(vector)
    return vectors


def inputs_of(asked: EmbeddingRequest) -> dict[str, list[Any]]:
    """What the runtime gets: texts, or token ids as it reads them."""
    given: list[Any]
    if isinstance(asked.input, str) or all(isinstance(item, int) for item in asked.input):
        given = [asked.input]
    else:
        given = list(asked.input)
    kind = type(given[0])
    if any(type(item) is not kind for item in given):
        raise InvalidInput(
            "input: expected texts, or tokens, or lists of tokens, got a mixture", field="input"
        )
    if len(given) > MAX_TEXTS:
        raise InvalidInput(
            f"input: at most {MAX_TEXTS} texts at once, got {len(given)}", field="input"
        )
    if kind is str:
        return {"text": given}
    texts = [" ".join(map(str, tokens)) for tokens in given]
    return {"text": texts, "is_tokens": [True] * len(texts)}


def _shortened(vector: array[float], dimensions: int) -> array[float]:
    """The first numbers, scaled to length 1 (Kusupati et al., Matryoshka Representation Learning,
    2022)."""
    part = vector[:dimensions]
    length = math.sqrt(sum(x * x for x in part)) or 1.0
    return array("f", (x / length for x in part))
