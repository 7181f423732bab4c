"""Requests and answers of OpenAI's embeddings protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from maas.protocols.bounds import Count, ModelName, TokenId

MAX_TEXTS = 2048

Text = Annotated[str, Meta(min_length=1)]
Tokens = Annotated[list[TokenId], Meta(min_length=1)]


class EmbeddingRequest(Struct):
    """Texts to embed."""

    model: ModelName
    input: Annotated[
        Text | Annotated[list[Text | TokenId | Tokens], Meta(min_length=1)],
        Meta(description=f"A text, at most {MAX_TEXTS} texts, token ids, or lists of token ids"),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=1 << 16,
                description="Fewer than the model's dimensions only for a Matryoshka model",
            ),
        ]
        | None
    ) = None


class Embedding(Struct):
    object: Literal["embedding"]
    index: Count
    embedding: Annotated[list[float] | str, Meta(description="As base64: float32, little-endian")]


class EmbeddingUsage(Struct):
    prompt_tokens: Count
    total_tokens: Count


class EmbeddingList(Struct):
    """A vector per text, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: ModelName
    usage: EmbeddingUsage
