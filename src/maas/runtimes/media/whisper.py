"""Speech recognition with Whisper models in CTranslate2's format, with faster-whisper.

Files: model.bin, config.json, tokenizer.json, and vocabulary.txt or vocabulary.json (and
preprocessor_config.json for the newest models). Options of the variant:

    max_seconds   longest audio; default 600
    beam_size     1 to 10; default 5
    compute_type  default | int8 | float32 | …: data type of the weights in memory

Source: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from faster_whisper import WhisperModel

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.names import shown
from maas.runtimes.base import Arrays, LoadRequest, Runtime
from maas.runtimes.media.audio import samples_of
from maas.runtimes.options import number_of, one_of, parsed_json, texts

RATE = 16_000
"""Hertz, the sample rate of all Whisper models."""
SHORTEST_SECONDS = 0.1
MAX_PROMPT = 2_000
"""Characters; the models use the last 223 tokens of a prompt."""
FALLBACK = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
"""Temperatures, tried in order while the transcript is unlikely or repeats itself."""
COMPUTE_TYPES = ("default", "int8", "int8_float32", "int8_bfloat16", "int16", "float32", "bfloat16")
_REQUIRED = ("model.bin", "tokenizer.json")


class WhisperRuntime(Runtime):
    """A Whisper model on the CPU."""

    takes_bytes = True
    silent_seconds = 120.0
    """For the half minute of audio that it processes at a time, on a slow or busy machine."""

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput for files or options other than described above."""
        files, options = dict(request.files), request.options
        missing = [name for name in _REQUIRED if name not in files]
        if missing:
            raise InvalidInput(f"the variant lacks {', '.join(missing)}", field="files")
        parsed_json(files, "config.json")
        self._max_seconds = number_of(options, "max_seconds", 600, 1, 14_400)
        self._beams = int(number_of(options, "beam_size", 5, 1, 10))
        compute_type = one_of(options, "compute_type", COMPUTE_TYPES)
        try:
            self._model = WhisperModel(
                "model",
                device="cpu",
                compute_type=compute_type,
                cpu_threads=request.threads,
                files=files,
            )
        except Exception as wrong:  # noqa: BLE001 - both libraries raise RuntimeError and others
            raise InvalidInput(f"CTranslate2 does not load this Whisper model: {wrong}") from None
        self._languages = self._model.supported_languages

    def predict(self, inputs: Arrays) -> Arrays:
        rows = [self._transcribed(inputs, at) for at in range(len(inputs["audio"]))]
        transcripts, segments, languages, seconds = zip(*rows, strict=True)
        return {
            "text": texts(transcripts),
            "segments": texts(segments),
            "language": texts(languages),
            "duration": np.array(seconds, np.float32),
        }

    def _transcribed(self, inputs: Arrays, at: int) -> tuple[str, str, str, float]:
        parameters = self._parameters(inputs, at)
        samples = samples_of(inputs["audio"][at], RATE, self._max_seconds)
        if len(samples) < SHORTEST_SECONDS * RATE:
            raise InvalidInput(f"the audio is shorter than {SHORTEST_SECONDS:g} s")
        self.last_progress = time.monotonic()
        try:
            stream, info = self._model.transcribe(samples, beam_size=self._beams, **parameters)
            segments = []
            for segment in stream:
                segments.append(asdict(segment))
                self.last_progress = time.monotonic()
        except (RuntimeError, ValueError) as wrong:
            raise InferenceFailed(f"the model failed on this audio: {wrong}") from None
        text = "".join(segment["text"] for segment in segments).strip()
        return text, _json(segments), info.language, info.duration

    def _parameters(self, inputs: Arrays, at: int) -> dict[str, Any]:
        """The library's parameters from the other inputs of a row. Raises InvalidInput."""
        row: dict[str, Any] = {}
        for name, values in inputs.items():
            if name != "audio":
                is_text = values.dtype == object
                row[name] = _text(values[at]) if is_text else values[at].item()
        language = row.get("language") or None
        if language is not None and language not in self._languages:
            raise InvalidInput(
                f"this model supports {_few(self._languages)}; got language {shown(language)}",
                field="language",
            )
        prompt = row.get("prompt") or None
        if prompt is not None and len(prompt) > MAX_PROMPT:
            raise InvalidInput(
                f"a prompt may have at most {MAX_PROMPT} characters; got {len(prompt)}",
                field="prompt",
            )
        temperature = row.get("temperature", 0.0)
        if not 0 <= temperature <= 1:
            raise InvalidInput(
                f"temperature must be from 0 to 1; got {shown(temperature)}", field="temperature"
            )
        if row.get("translate") and len(self._languages) == 1:
            raise InvalidInput(
                "this model supports English only and cannot translate", field="translate"
            )
        return {
            "language": language,
            "initial_prompt": prompt,
            "temperature": temperature or FALLBACK,
            "word_timestamps": bool(row.get("word_timestamps")),
            "task": "translate" if row.get("translate") else "transcribe",
        }


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as wrong:
        raise InvalidInput(f"a text is not UTF-8: {wrong}") from None


def _few(languages: list[str]) -> str:
    if len(languages) > 3:
        return f"{len(languages)} languages by their two-letter codes"
    return ", ".join(languages)


def _json(segments: list[dict[str, Any]]) -> str:
    return json.dumps(segments, ensure_ascii=False, default=float)
