"""Decodes audio to samples, up to a maximum duration.

FFmpeg (with PyAV) supports many formats, and some of them refer to other files or URLs. So the
format is determined here, by the first bytes, and is one of a few audio formats.
"""

from __future__ import annotations

import gc
import io
from typing import Any

import av
import av.error
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from maas.domain.errors import InvalidInput

MAX_CHANNELS = 8
MIN_RATE, MAX_RATE = 4_000, 384_000
"""Hertz. At 1 Hz a small file would have days of silence."""
DAMAGED_SHARE = 0.05
"""Largest share of damaged packets; players skip a few, too."""
FORMATS = "WAV, FLAC, Ogg, MP3, AAC, MP4 (M4A) and WebM"


def samples_of(data: bytes, rate: int, max_seconds: float) -> NDArray[np.float32]:
    """Samples [n] from -1 to 1 of one channel at `rate` hertz. Raises InvalidInput for data that is
    not audio, is damaged or lasts longer than `max_seconds`."""
    kind = format_of(data)
    if kind is None:
        raise InvalidInput(f"this is not audio in a supported format: {FORMATS}")
    try:
        with av.open(
            io.BytesIO(data),
            mode="r",
            format=kind,
            metadata_errors="ignore",
            # Nothing that the file refers to is opened.
            options={"protocol_whitelist": "none"},
        ) as container:
            pieces = _decoded(container, rate, max_seconds)
    except (av.error.FFmpegError, ValueError, IndexError, OverflowError) as wrong:
        reason = (wrong.strerror if isinstance(wrong, av.error.FFmpegError) else "") or wrong
        raise InvalidInput(f"the {kind} data cannot be decoded: {reason}") from None
    finally:
        # The library's objects are large and refer to each other.
        gc.collect()
    if not pieces:
        raise InvalidInput(f"the {kind} data contains no audio")
    return np.concatenate(pieces).astype(np.float32) / 32768.0


def format_of(data: bytes) -> str | None:
    """FFmpeg's name of the format, by the first bytes of `data`; None if it is unknown."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[4:8] == b"ftyp":
        return "mp4"
    for magic, kind in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mp3"),
                        (b"\x1a\x45\xdf\xa3", "matroska")):  # fmt: skip
        if data.startswith(magic):
            return kind
    if len(data) > 2 and data[0] == 0xFF:
        if data[1] & 0xF6 == 0xF0:
            return "aac"
        if data[1] & 0xE0 == 0xE0:
            return "mp3"
    return None


def _decoded(container: Any, rate: int, max_seconds: float) -> list[NDArray[np.int16]]:
    if not container.streams.audio:
        raise InvalidInput("this file has no audio stream")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise InvalidInput("the audio codec is not supported")
    _check_form(stream.rate, stream.channels)
    resampler = AudioResampler(format="s16", layout="mono", rate=rate)
    pieces: list[NDArray[np.int16]] = []
    seconds, packets, damaged = 0.0, 0, 0
    for packet in container.demux(stream):
        packets += 1
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            damaged += 1
            continue
        for frame in frames:
            _check_form(frame.sample_rate, frame.layout.nb_channels)
            seconds += frame.samples / frame.sample_rate
            if seconds > max_seconds:
                raise InvalidInput(f"the audio is longer than {max_seconds:g} s")
            frame.pts = None
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    if damaged > DAMAGED_SHARE * packets:
        raise InvalidInput(f"{damaged} of {packets} packets of the audio are damaged")
    if pieces:
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    return pieces


def _check_form(rate: int | None, channels: int | None) -> None:
    if rate is None or channels is None or not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidInput(f"the sample rate must be from {MIN_RATE} to {MAX_RATE} Hz; got {rate}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise InvalidInput(f"the audio must have 1 to {MAX_CHANNELS} channels; got {channels}")
