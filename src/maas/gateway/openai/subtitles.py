"""Segments of speech as subtitles: SubRip (SRT) and WebVTT (W3C)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Segments = Iterable[Mapping[str, Any]]
"""Each with `start` and `end` in seconds, and `text`."""


def srt(segments: Segments) -> str:
    return "".join(
        f"{number}\n{_time(s['start'], ',')} --> {_time(s['end'], ',')}\n{_one_line(s['text'])}\n\n"
        for number, s in enumerate(segments, 1)
    )


def vtt(segments: Segments) -> str:
    cues = (
        f"{_time(s['start'], '.')} --> {_time(s['end'], '.')}\n{_one_line(s['text'])}\n\n"
        for s in segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def _one_line(text: str) -> str:
    """The text in one line. An arrow is replaced, as it would begin another cue."""
    return " ".join(text.split()).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    """HH:MM:SS and milliseconds after `point`."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    return f"{hours:02d}:{minutes:02d}:{whole:02d}{point}{milliseconds:03d}"
