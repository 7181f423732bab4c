"""Requests and answers of OpenAI's audio protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from maas.protocols.bounds import Count, JsonObject, ModelName, Probability

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("segment", "word")


class SpeechForm(Struct):
    """Audio to transcribe."""

    # `gateway/openai/audio.py` reads these fields from a multipart form one by one.

    file: Annotated[
        str,
        Meta(
            description="WAV, FLAC, Ogg, MP3, AAC, M4A or WebM",
            extra_json_schema={"format": "binary"},
        ),
    ]
    model: ModelName
    language: Annotated[
        str | UnsetType, Meta(description="Two letters; detected if it is missing")
    ] = UNSET
    prompt: Annotated[
        str | UnsetType, Meta(description="The text before this one, or the spelling of words")
    ] = UNSET
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Probability | UnsetType = UNSET
    timestamp_granularities: list[Literal["segment", "word"]] | UnsetType = field(
        default=UNSET, name="timestamp_granularities[]"
    )


class AudioUsage(Struct):
    """The usage of models that count time and not tokens."""

    type: Literal["duration"]
    seconds: Count


class TranscribedWord(Struct):
    word: str
    start: float
    end: float


class Transcription(Struct, kw_only=True):
    """A transcript. `verbose_json` adds all fields but `text` and `usage`."""

    task: Literal["transcribe", "translate"] | UnsetType = UNSET
    language: Annotated[str | UnsetType, Meta(description="Two letters")] = UNSET
    duration: Annotated[float | UnsetType, Meta(description="Seconds")] = UNSET
    text: str
    usage: AudioUsage | UnsetType = UNSET
    words: list[TranscribedWord] | UnsetType = UNSET
    segments: list[JsonObject] | UnsetType = UNSET
