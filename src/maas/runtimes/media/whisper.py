"""Speech to text with Whisper models in CTranslate2's form, through faster-whisper.

Files: model.bin, config.json, tokenizer.json, and vocabulary.txt or vocabulary.json (and
preprocessor_config.json for the newest models). Options of the variant:

    max_seconds   longest sound; default 600
    beam_size     1 to 10; default 5
    compute_type  default | int8 | float32 | …: what the weights become in memory

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
"""Hertz, as all Whisper models want it."""
SHORTEST_SECONDS = 0.1
MAX_PROMPT = 2_000
"""Characters; the models read the last 223 tokens of a prompt."""
FALLBACK = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
"""Temperatures tried in turn while what was heard is unlikely or repeats itself."""
COMPUTE_TYPES = ("default", "int8", "int8_float32", "int8_bfloat16", "int16", "float32", "bfloat16")
_NEEDED = ("model.bin", "tokenizer.json")


class WhisperRuntime(Runtime):
    takes_bytes = True
    silent_seconds = 120.0
    """For the half minute of sound that it hears at once, on a slow or busy machine."""

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput for files that are no such model."""
        files, options = dict(request.files), request.options
        missing = [name for name in _NEEDED if name not in files]
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
            raise InvalidInput(f"not a Whisper model that CTranslate2 loads: {wrong}") from None
        self._languages = self._model.supported_languages

    def predict(self, inputs: Arrays) -> Arrays:
        rows = [self._transcribed(inputs, at) for at in range(len(inputs["audio"]))]
        heard, segments, languages, seconds = zip(*rows, strict=True)
        return {
            "text": texts(heard),
            "segments": texts(segments),
            "language": texts(languages),
            "duration": np.array(seconds, np.float32),
        }

    def _transcribed(self, inputs: Arrays, at: int) -> tuple[str, str, str, float]:
        asked = self._asked(inputs, at)
        samples = samples_of(inputs["audio"][at], RATE, self._max_seconds)
        if len(samples) < SHORTEST_SECONDS * RATE:
            raise InvalidInput(f"the sound is shorter than {SHORTEST_SECONDS:g} s")
        self.last_progress = time.monotonic()
        try:
            found, info = self._model.transcribe(samples, beam_size=self._beams, **asked)
            segments = []
            for segment in found:
                segments.append(asdict(segment))
                self.last_progress = time.monotonic()
        except (RuntimeError, ValueError) as wrong:
            raise InferenceFailed(f"the model failed on this sound: {wrong}") from None
        text = "".join(segment["text"] for segment in segments).strip()
        return text, _json(segments), info.language, info.duration

    def _asked(self, inputs: Arrays, at: int) -> dict[str, Any]:
        """What the caller chose besides the sound, checked, as the library calls it."""
        row: dict[str, Any] = {
            name: _text(values[at]) if values.dtype == object else values[at].item()
            for name, values in inputs.items()
            if name != "audio"
        }
        language = row.get("language") or None
        if language is not None and language not in self._languages:
            raise InvalidInput(
                f"this model knows {_few(self._languages)}; got language {shown(language)}",
                field="language",
            )
        prompt = row.get("prompt") or None
        if prompt is not None and len(prompt) > MAX_PROMPT:
            raise InvalidInput(
                f"a prompt may have {MAX_PROMPT} characters, not {len(prompt)}", field="prompt"
            )
        temperature = row.get("temperature", 0.0)
        if not 0 <= temperature <= 1:
            raise InvalidInput(
                f"temperature must be from 0 to 1; got {shown(temperature)}", field="temperature"
            )
        if row.get("translate") and len(self._languages) == 1:
            raise InvalidInput(
                "this model knows English only and cannot translate", field="translate"
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
