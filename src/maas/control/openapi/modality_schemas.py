"""Schemas of the doors to embeddings, speech and rerank, as far as they are taken."""

from __future__ import annotations

from typing import Any

from maas.control.openapi.api_schemas import (
    ANYTHING,
    FLAG,
    NAME,
    NUMBER,
    TEXT,
    Schema,
    many,
    ref,
    says,
    thing,
    whole,
)

_BYTES: Schema = {"type": "string", "format": "binary"}
_MODEL = says(NAME, "The deployment")
_FORMATS: Schema = {"type": "string", "enum": ["json", "text", "srt", "verbose_json", "vtt"]}
_TASKS: Schema = {"type": "string", "enum": ["transcribe", "translate"]}

MODALITY_SCHEMAS: dict[str, Schema] = {
    "EmbeddingRequest": thing(
        "Texts that shall become vectors",
        ("encoding_format", "dimensions"),
        model=_MODEL,
        input={"anyOf": [TEXT, many({})], "description": "A text, at most 2048 texts, tokens, or "
               "lists of tokens"},
        encoding_format={"type": "string", "enum": ["float", "base64"]},
        dimensions=whole(1, 1 << 16, "Fewer than the model has only of a Matryoshka model"),
    ),
    "EmbeddingList": thing(
        "A vector per text, in their order",
        object={"type": "string", "enum": ["list"]},
        data=many(thing(
            "", object={"type": "string", "enum": ["embedding"]}, index=whole(),
            embedding={"anyOf": [many(NUMBER), TEXT], "description": "As base64: float32, "
                       "little-endian"},
        )),
        model=NAME,
        usage=thing("", prompt_tokens=whole(), total_tokens=whole()),
    ),
    "RerankRequest": thing(
        "Which of these documents fit the query",
        ("top_n", "return_documents"),
        model=says(NAME, "A deployment that embeds"),
        query=TEXT,
        documents=says(many({"anyOf": [TEXT, thing("", text=TEXT)]}), "At most 1024"),
        top_n=whole(1, 1 << 31),
        return_documents=FLAG,
    ),
    "RerankResults": thing(
        "The documents, the best first",
        id=TEXT,
        model=NAME,
        results=many(thing(
            "", ("document",), index=whole(), document=thing("", text=TEXT),
            relevance_score=says(NUMBER, "The cosine of the embeddings, -1 to 1"),
        )),
        usage=thing("", total_tokens=whole()),
    ),
    "SpeechForm": thing(
        "A sound, and how it shall be written down",
        ("language", "prompt", "response_format", "temperature", "timestamp_granularities[]"),
        file=says(_BYTES, "WAV, FLAC, Ogg, MP3, AAC, M4A or WebM"),
        model=_MODEL,
        language=says(TEXT, "Two letters; heard unless said"),
        prompt=says(TEXT, "What was said before, or how words are written"),
        response_format=_FORMATS,
        temperature={"type": "number", "minimum": 0, "maximum": 1},
        **{"timestamp_granularities[]": many({"type": "string", "enum": ["word", "segment"]})},
    ),
    "Transcription": thing(
        "What was said; more of it as `verbose_json`",
        ("usage", "task", "language", "duration", "segments", "words"),
        text=TEXT,
        usage=thing("", type=TEXT, seconds=whole()),
        task=_TASKS,
        language=says(TEXT, "Two letters"),
        duration=says(NUMBER, "Seconds"),
        segments=many(ANYTHING),
        words=many(thing("", word=TEXT, start=NUMBER, end=NUMBER)),
    ),
    "PredictForm": says(
        {"type": "object", "additionalProperties": True},
        "A field per input of the signature: a file or text for BYTES, JSON for others; a name "
        "that comes several times is a list of rows",
    ),
}  # fmt: skip

MODALITY_ANSWERS: dict[str, tuple[tuple[int, str], ...]] = {
    "openai_embeddings": ((200, "EmbeddingList"),),
    "rerank": ((200, "RerankResults"),),
    "rerank_plain": ((200, "RerankResults"),),
    "openai_transcriptions": ((200, "Transcription"),),
    "openai_translations": ((200, "Transcription"),),
}
_OPENAI, _RERANK = "OpenAI", "rerank"
MODALITY_OPERATIONS: tuple[tuple[str, str, str, str, str, str, str], ...] = (
    ("/v1/embeddings", "post", "openai_embeddings", _OPENAI, "call", "Vectors of texts",
     "EmbeddingRequest"),
    ("/v1/audio/transcriptions", "post", "openai_transcriptions", _OPENAI, "call",
     "Write down what is said", "SpeechForm"),
    ("/v1/audio/translations", "post", "openai_translations", _OPENAI, "call",
     "Write down in English what is said", "SpeechForm"),
    ("/v1/rerank", "post", "rerank", _RERANK, "call", "Order documents by how they fit a query",
     "RerankRequest"),
    ("/rerank", "post", "rerank_plain", _RERANK, "call", "The same", "RerankRequest"),
)  # fmt: skip
"""Path, method, operation, tag, scope, summary, schema of the body."""
FORMS = frozenset({"SpeechForm", "PredictForm"})
"""Bodies that are multipart/form-data."""


def file_content() -> dict[str, Any]:
    """What `/predict` takes besides JSON."""
    types = ("image/*", "audio/*", "text/plain", "application/octet-stream")
    bare: dict[str, Any] = {name: {"schema": _BYTES} for name in types}
    return {"multipart/form-data": {"schema": ref("PredictForm")}} | bare


def text_content() -> dict[str, Any]:
    """Transcripts as text, SRT and WebVTT."""
    return {"text/plain": {"schema": TEXT}}
