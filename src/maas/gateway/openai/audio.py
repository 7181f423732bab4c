"""`POST /v1/audio/transcriptions` and `/v1/audio/translations`: OpenAI's doors to speech models."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.models import Task
from maas.domain.names import shown
from maas.gateway.calls import Encoded, HttpCall
from maas.gateway.http.forms import form_of
from maas.gateway.http.request import JSON, Request
from maas.gateway.openai.named_calls import NamedCalls, decoded, output
from maas.gateway.openai.subtitles import srt, vtt
from maas.serving.routing.live_target import LiveTarget
from maas.serving.wire.codec import flat_elements
from maas.serving.wire.messages import Answers

OPERATION = "transcriptions"
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("segment", "word")
_TEXT = b"text/plain; charset=utf-8"
_FIELDS = ("file", "model", "language", "prompt", "response_format", "temperature",
           "timestamp_granularities[]")  # fmt: skip
_SAYS_NOTHING = {"stream": "false", "chunking_strategy": "auto"}
"""Fields that may be there with the one value that changes nothing."""


class AudioHandler:
    def __init__(self, calls: NamedCalls) -> None:
        self._calls = calls

    def transcribe(self, request: Request) -> None:
        self._handle(request, translate=False)

    def translate(self, request: Request) -> None:
        self._handle(request, translate=True)

    def _handle(self, request: Request, translate: bool) -> None:
        """Raises MalformedBody; other failures are counted and answered."""
        form = Form(request)
        calls = self._calls
        try:
            form.check()
            target = calls.target(form.text("model"), Task.TRANSCRIPTION)
            found = decoded(target.signature, form.values(target, translate), 1)
            call = AudioCall(request, target, calls.meter, found, calls.longest_s)
            call.form, call.is_translation = form, translate
            call.submit()
        except MaasError as error:
            calls.refused(request, OPERATION, form.text("model"), error)


class Form:
    """The fields of a request."""

    def __init__(self, request: Request) -> None:
        """Raises MalformedBody."""
        self._parts = form_of(request)

    def check(self) -> None:
        """Raises InvalidInput for what is missing, unknown, or comes twice."""
        seen: set[str] = set()
        for part in self._parts:
            name = part.name
            usual = _SAYS_NOTHING.get(name)
            if name not in _FIELDS and (usual is None or part.data.decode("latin-1") != usual):
                raise InvalidInput(f"{shown(name)} is not supported here", field=name[:200])
            if name in seen and not name.endswith("[]"):
                raise InvalidInput(f"{name} comes twice", field=name)
            seen.add(name)
        for name in ("file", "model"):
            if name not in seen:
                raise InvalidInput(f"{name} is missing", field=name)
        if self.format not in FORMATS:
            raise InvalidInput(
                f"response_format: expected one of {', '.join(FORMATS)}, got {shown(self.format)}",
                field="response_format",
            )
        wanted = self._all("timestamp_granularities[]")
        if any(name not in GRANULARITIES for name in wanted):
            raise InvalidInput(
                f"timestamp_granularities: expected segment or word, got {shown(wanted)}",
                field="timestamp_granularities",
            )
        if wanted and self.format != "verbose_json":
            raise InvalidInput(
                "timestamp_granularities needs response_format verbose_json",
                field="timestamp_granularities",
            )

    @property
    def format(self) -> str:
        return self.text("response_format") or "json"

    @property
    def wants_words(self) -> bool:
        return "word" in self._all("timestamp_granularities[]")

    @property
    def wants_segments(self) -> bool:
        wanted = self._all("timestamp_granularities[]")
        return not wanted or "segment" in wanted

    def text(self, name: str) -> str:
        """The field, "" if it is not there."""
        return next(iter(self._all(name)), "")

    def values(self, target: LiveTarget, translate: bool) -> dict[str, list[Any]]:
        """What the runtime gets. Raises InvalidInput."""
        values: dict[str, list[Any]] = {
            "audio": [next(part.data for part in self._parts if part.name == "file")]
        }
        for name in ("language", "prompt"):
            if self.text(name):
                values[name] = [self.text(name)]
        if self.text("temperature"):
            values["temperature"] = [_number(self.text("temperature"))]
        if self.wants_words:
            values["word_timestamps"] = [True]
        if translate:
            if target.signature.input("translate") is None:
                raise InvalidInput(f"{target.deployment} cannot translate", field="model")
            values["translate"] = [True]
        return values

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
        said = self._answered(answers)
        kind = self.form.format
        if kind == "text":
            return f"{said['text']}\n".encode(), _TEXT, ()
        if kind == "json":
            body: dict[str, Any] = {"text": said["text"]} | _usage(said)
            return msgspec.json.encode(body), JSON, ()
        segments: list[dict[str, Any]] = msgspec.json.decode(said.get("segments", "[]"))
        if kind == "srt":
            return srt(segments).encode(), _TEXT, ()
        if kind == "vtt":
            return vtt(segments).encode(), _TEXT, ()
        return msgspec.json.encode(self._verbose(said, segments)), JSON, ()

    def _answered(self, answers: Answers) -> dict[str, Any]:
        """The one row by the outputs' names; it travels alone, as its rows have no common size."""
        signature = self.target.signature
        output(signature, "text")
        return {
            spec.name: flat_elements(spec.datatype, column.data)[0]
            for spec, column in zip(signature.outputs, answers.columns, strict=True)
        }

    def _verbose(self, said: dict[str, Any], segments: list[dict[str, Any]]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "task": "translate" if self.is_translation else "transcribe",
            "language": said.get("language", ""),
            "duration": said.get("duration", 0.0),
            "text": said["text"],
        } | _usage(said)
        if self.form.wants_words:
            body["words"] = [
                {"word": word["word"].strip(), "start": word["start"], "end": word["end"]}
                for segment in segments
                for word in segment.get("words") or ()
            ]
        if self.form.wants_segments:
            body["segments"] = [
                {name: value for name, value in segment.items() if name != "words"}
                for segment in segments
            ]
        return body


def _usage(said: dict[str, Any]) -> dict[str, Any]:
    """As models that count time and not tokens say it, if the runtime tells the time."""
    if "duration" not in said:
        return {}
    return {"usage": {"type": "duration", "seconds": math.ceil(said["duration"])}}


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InvalidInput(
            f"temperature: expected a number from 0 to 1, got {shown(text)}", field="temperature"
        )
    return value
