"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`: OpenAI's protocol for speech."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.models import Task
from maas.domain.names import shown
from maas.gateway.calls import Encoded, HttpCall
from maas.gateway.http.forms import form_of
from maas.gateway.http.request import JSON, Request
from maas.gateway.openai.subtitles import srt, vtt
from maas.gateway.openai.tensors import input_columns, output_index
from maas.gateway.text.task_service import TaskService
from maas.protocols.audio import (
    FORMATS,
    GRANULARITIES,
    AudioUsage,
    SpeechForm,
    TranscribedWord,
    Transcription,
)
from maas.serving.routing.live_target import LiveTarget
from maas.serving.wire.json_tensors import flat_elements
from maas.serving.wire.messages import Answers

OPERATION = "transcriptions"
_TEXT = b"text/plain; charset=utf-8"
_FIELDS = frozenset(SpeechForm.__struct_encode_fields__)
_ONLY_VALUE = {"stream": "false", "chunking_strategy": "auto"}
"""Fields that may have one value, which is the protocol's default."""


class AudioHandler:
    def __init__(self, service: TaskService) -> None:
        self._service = service

    def transcribe(self, request: Request) -> None:
        self._handle(request, translate=False)

    def translate(self, request: Request) -> None:
        self._handle(request, translate=True)

    def _handle(self, request: Request, translate: bool) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        form = Form(request)
        service = self._service
        try:
            form.check()
            target = service.target(form.text("model"), Task.TRANSCRIPTION)
            columns = input_columns(target.signature, form.values(target, translate), 1)
            call = AudioCall(request, target, service.context, columns)
            call.form, call.is_translation = form, translate
            call.submit()
        except MaasError as error:
            service.refuse(request, OPERATION, form.text("model"), error)


class Form:
    """The fields of a request."""

    def __init__(self, request: Request) -> None:
        """Raises MalformedBody."""
        self._parts = form_of(request)

    def check(self) -> None:
        """Raises InvalidInput for a missing, unknown or repeated field, or an invalid value."""
        names: set[str] = set()
        for part in self._parts:
            name = part.name
            only_value = _ONLY_VALUE.get(name)
            if name not in _FIELDS and (
                only_value is None or part.data.decode("latin-1") != only_value
            ):
                raise InvalidInput(f"{shown(name)} is not supported here", field=name[:200])
            if name in names and not name.endswith("[]"):
                raise InvalidInput(f"{name}: expected once, got it several times", field=name)
            names.add(name)
        for name in ("file", "model"):
            if name not in names:
                raise InvalidInput(f"{name} is missing", field=name)
        if self.format not in FORMATS:
            raise InvalidInput(
                f"response_format: expected one of {', '.join(FORMATS)}, got {shown(self.format)}",
                field="response_format",
            )
        if any(name not in GRANULARITIES for name in self._granularities):
            raise InvalidInput(
                "timestamp_granularities: expected segment or word, got "
                f"{shown(self._granularities)}",
                field="timestamp_granularities",
            )
        if self._granularities and self.format != "verbose_json":
            raise InvalidInput(
                "timestamp_granularities needs response_format verbose_json",
                field="timestamp_granularities",
            )

    @property
    def format(self) -> str:
        return self.text("response_format") or "json"

    @property
    def has_words(self) -> bool:
        """Whether the answer has the times of words."""
        return "word" in self._granularities

    @property
    def has_segments(self) -> bool:
        """Whether the answer has segments."""
        return not self._granularities or "segment" in self._granularities

    def text(self, name: str) -> str:
        """The field's text, empty if it is missing."""
        return next(iter(self._all(name)), "")

    def values(self, target: LiveTarget, translate: bool) -> dict[str, list[Any]]:
        """Inputs of the runtime. Raises InvalidInput."""
        values: dict[str, list[Any]] = {
            "audio": [next(part.data for part in self._parts if part.name == "file")]
        }
        for name in ("language", "prompt"):
            if self.text(name):
                values[name] = [self.text(name)]
        if self.text("temperature"):
            values["temperature"] = [_temperature(self.text("temperature"))]
        if self.has_words:
            values["word_timestamps"] = [True]
        if translate:
            if target.signature.input("translate") is None:
                raise InvalidInput(f"{target.deployment} cannot translate", field="model")
            values["translate"] = [True]
        return values

    @property
    def _granularities(self) -> list[str]:
        return self._all("timestamp_granularities[]")

    def _all(self, name: str) -> list[str]:
        try:
            return [part.data.decode() for part in self._parts if part.name == name]
        except UnicodeDecodeError:
            raise InvalidInput(f"{name} is not UTF-8", field=name) from None


class AudioCall(HttpCall):
    __slots__ = ("form", "is_translation")

    operation = OPERATION
    form: Form
    is_translation: bool

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        outputs = self._outputs(answers)
        format_ = self.form.format
        if format_ == "text":
            return f"{outputs['text']}\n".encode(), _TEXT, ()
        if format_ == "json":
            transcript = Transcription(text=outputs["text"], usage=_usage(outputs))
            return msgspec.json.encode(transcript), JSON, ()
        segments: list[dict[str, Any]] = msgspec.json.decode(outputs.get("segments", "[]"))
        if format_ == "srt":
            return srt(segments).encode(), _TEXT, ()
        if format_ == "vtt":
            return vtt(segments).encode(), _TEXT, ()
        return msgspec.json.encode(self._verbose(outputs, segments)), JSON, ()

    def _outputs(self, answers: Answers) -> dict[str, Any]:
        """The single row by output name. It is not batched, because its size is not fixed."""
        signature = self.target.signature
        output_index(signature, "text")
        return {
            spec.name: flat_elements(spec.datatype, column.data)[0]
            for spec, column in zip(signature.outputs, answers.columns, strict=True)
        }

    def _verbose(self, outputs: dict[str, Any], segments: list[dict[str, Any]]) -> Transcription:
        transcript = Transcription(
            task="translate" if self.is_translation else "transcribe",
            language=outputs.get("language", ""),
            duration=outputs.get("duration", 0.0),
            text=outputs["text"],
            usage=_usage(outputs),
        )
        if self.form.has_words:
            transcript.words = _words(segments)
        if self.form.has_segments:
            transcript.segments = [_without_words(segment) for segment in segments]
        return transcript


def _words(segments: list[dict[str, Any]]) -> list[TranscribedWord]:
    words = []
    for segment in segments:
        for word in segment.get("words") or ():
            words.append(TranscribedWord(word["word"].strip(), word["start"], word["end"]))
    return words


def _without_words(segment: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in segment.items() if name != "words"}


def _usage(outputs: dict[str, Any]) -> AudioUsage | UnsetType:
    """The duration in whole seconds, if the runtime measures it."""
    if "duration" not in outputs:
        return UNSET
    return AudioUsage("duration", math.ceil(outputs["duration"]))


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InvalidInput(
            f"temperature: expected a number from 0 to 1, got {shown(text)}", field="temperature"
        )
    return value
