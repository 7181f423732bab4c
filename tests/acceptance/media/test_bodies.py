"""Bodies of /predict that fit the signature, and those that do not."""

from __future__ import annotations

import json
import math
from pathlib import Path

from tests.support.media import require_packages
from tests.support.models.onnx import echo_model, mood_model
from tests.support.servers.maas import Stack

require_packages("all_minilm_l6_v2")


def test_bodies_that_do_not_match_the_signature_are_refused(stack: Stack, search: str) -> None:
    for types in ("text/html", "image", "application/x-www-form-urlencoded", ""):
        status, _, _ = stack.request("POST", "/predict/minilm", b"x", {"Content-Type": types})
        assert status == 415, types
    status, _, body = stack.request(
        "POST", "/predict/minilm", b"\xff\xfe", {"Content-Type": "application/octet-stream"}
    )
    assert status == 422, body
    assert "UTF-8" in json.loads(body)["detail"]


def test_a_deployment_with_a_tensor_input_refuses_bare_files(stack: Stack, tmp_path: Path) -> None:
    with stack.client() as sdk:
        sdk.publish(echo_model(tmp_path / "m.onnx"), name="table", example={"x": [1.0, 2.0]})
        sdk.deploy("table")
    status, _, body = stack.request("POST", "/predict/table", b"x", {"Content-Type": "image/png"})
    assert status == 415, body
    assert "x" in json.loads(body)["detail"]
    form = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n[1, 2]\r\n--b--\r\n'
    status, _, body = stack.request(
        "POST", "/predict/table", form, {"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert status == 200, body
    assert json.loads(body) == {"y": [1.0, 2.0]}
    assert math.isclose(json.loads(body)["y"][1], 2.0)


def test_a_text_classifier_is_served(stack: Stack, tmp_path: Path) -> None:
    mood_model(tmp_path)
    with stack.client() as sdk:
        pulled = sdk.pull(str(tmp_path), name="mood")
        assert pulled.task == "text-classification"
        sdk.deploy("mood")
        outputs = sdk.predict("mood", text=["a great day", "awful"])
    assert [labels[0] for labels in outputs["label"]] == ["good", "bad"]
    assert outputs["score"][0][0] > 0.9
