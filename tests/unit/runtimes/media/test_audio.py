"""Audio of many formats decodes to the same samples, and nothing else is opened for it."""

from __future__ import annotations

import io
import socket
import struct
from typing import Any

import numpy as np
import pytest

from maas.domain.errors import InvalidInput

av = pytest.importorskip("av", reason="the runtime's own library")

from maas.runtimes.media.audio import format_of, samples_of  # noqa: E402

RATE = 16_000
TONE = np.sin(np.arange(RATE) / RATE * 2 * np.pi * 440) * 8000


def encoded(container: str, codec: str, rate: int = RATE, channels: int = 1) -> bytes:
    out = io.BytesIO()
    layout = "mono" if channels == 1 else "stereo"
    with av.open(out, "w", format=container) as target:
        stream: Any = target.add_stream(codec, rate=rate, layout=layout)
        places = np.arange(rate) / rate
        wave = (np.sin(places * 2 * np.pi * 440) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, channels)[None], "s16", layout)
        frame.rate = rate
        resampler = av.audio.resampler.AudioResampler(
            format=stream.format, layout=layout, rate=rate
        )
        fifo = av.audio.fifo.AudioFifo()
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts = None
            fifo.write(part)
        for part in [*fifo.read_many(1024), fifo.read(), None]:
            for packet in stream.encode(part):
                target.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize(
    ("container", "codec", "rate", "channels"),
    [("wav", "pcm_s16le", 16000, 1), ("wav", "pcm_s16le", 44100, 2), ("wav", "pcm_u8", 8000, 1),
     ("flac", "flac", 48000, 2),("matroska", "pcm_s16le", 16000, 1),
     ("mp4", "aac", 44100, 1), ("adts", "aac", 44100, 1)],
)  # fmt: skip
def test_common_formats_are_decoded(container: str, codec: str, rate: int, channels: int) -> None:
    samples = samples_of(encoded(container, codec, rate, channels), RATE, 5)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(RATE, rel=0.2)
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() * RATE / len(samples) == pytest.approx(440, abs=3)
    assert np.abs(samples).max() == pytest.approx(8000 / 32768, rel=0.2)


def test_the_format_is_determined_by_the_first_bytes_alone() -> None:
    for head, kind in (
        (b"RIFF\0\0\0\0WAVE", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3\4", "mp3"),
        (b"\xff\xfb\x90", "mp3"), (b"\xff\xf1\x50", "aac"), (b"\0\0\0\x18ftypM4A ", "mp4"),
        (b"\x1a\x45\xdf\xa3", "matroska"), (b"RIFF\0\0\0\0AVI ", None), (b"", None),
        (b"#EXTM3U", None), (b"\xff", None),
    ):  # fmt: skip
        assert format_of(head) == kind, head


def test_audio_that_is_too_long_is_refused() -> None:
    data = encoded("wav", "pcm_s16le")
    with pytest.raises(InvalidInput, match=r"longer than 0\.5 s"):
        samples_of(data, RATE, 0.5)


def test_no_url_in_a_file_is_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.3)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/x"
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}.ts\n".encode()
        quick = struct.pack(">I", 32 + len(address)) + b"moov" + b"rdrf" + address.encode()
        lists = (
            playlist,
            f"ffconcat version 1.0\nfile {address}.wav\n".encode(),
            f'<?xml version="1.0"?><MPD><BaseURL>{address}</BaseURL></MPD>'.encode(),
        )
        for data in lists:  # refused before the library gets them
            with pytest.raises(InvalidInput, match="not audio in a supported format"):
                samples_of(data, RATE, 5)
        for data in (struct.pack(">I", 16) + b"ftypqt  " + bytes(4) + quick, b"ID3" + playlist):
            with pytest.raises(InvalidInput):
                samples_of(data, RATE, 5)
        with pytest.raises(TimeoutError):
            trap.accept()


def test_an_unknown_codec_is_an_invalid_input() -> None:
    data = encoded("wav", "pcm_s16le")
    unknown = data[:20] + b"\xff\xff" + data[22:]  # the tag in the format chunk
    with pytest.raises(InvalidInput, match="the audio codec is not supported"):
        samples_of(unknown, RATE, 5)
