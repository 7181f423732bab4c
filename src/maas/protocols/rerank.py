"""Requests and answers of reranking, in the shape of Jina and Cohere."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from maas.protocols.bounds import Count, ModelName
from maas.protocols.embeddings import Text

MAX_DOCUMENTS = 1024


class Document(Struct):
    text: Text


class RerankRequest(Struct):
    """Documents to order by how well they match the query."""

    model: Annotated[ModelName, Meta(description="Name of a deployment that embeds")]
    query: Text
    documents: Annotated[
        list[Text | Document],
        Meta(min_length=1, max_length=MAX_DOCUMENTS, description=f"At most {MAX_DOCUMENTS}"),
    ]
    top_n: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    return_documents: bool = True


class RerankResult(Struct):
    index: Annotated[Count, Meta(description="Position of the document in the request")]
    relevance_score: Annotated[float, Meta(description="Cosine of the two embeddings, -1 to 1")]
    document: Document | UnsetType = UNSET


class RerankUsage(Struct):
    total_tokens: Count


class RerankResults(Struct):
    """The documents, best first."""

    id: str
    model: ModelName
    results: list[RerankResult]
    usage: RerankUsage
