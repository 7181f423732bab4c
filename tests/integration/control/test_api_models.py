"""The API on a real control process: files, versions, variants and evidence."""

from __future__ import annotations

import io
import os
import pickle
import socket

import httpx2
import pytest

from tests.integration.control.home import (
    Home,
    eventually,
    manifest,
    problem,
    sha256,
    tiny_onnx,
)

DIGEST = "0" * 64


def test_a_file_is_uploaded_and_downloaded(shared_control: Home) -> None:
    http = shared_control.http
    data = os.urandom(3 << 20)
    address = f"/api/v1/files/{sha256(data)}"
    assert http.head(address).status_code == 404
    assert http.put(address, content=data).status_code == 201
    assert http.put(address, content=data).status_code == 200
    head = http.head(address)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
    response = http.get(address)
    assert response.content == data
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("name", ["x", "..%2f..%2fetc%2fpasswd", "A" * 64, "0" * 63])
def test_names_of_files_other_than_digests_are_refused(shared_control: Home, name: str) -> None:
    for method in ("GET", "HEAD", "PUT"):
        response = shared_control.http.request(method, f"/api/v1/files/{name}")
        assert 400 <= response.status_code < 500


def test_files_with_a_wrong_digest_or_a_pickle_leave_nothing(shared_control: Home) -> None:
    http = shared_control.http
    problem(http.put(f"/api/v1/files/{DIGEST}", content=b"other"), 422, "invalid_input")
    assert http.head(f"/api/v1/files/{DIGEST}").status_code == 404
    for data in (pickle.dumps({"a": io.BytesIO}), b"\x89HDF\r\n\x1a\n" + bytes(999)):
        document = problem(http.put(f"/api/v1/files/{sha256(data)}", content=data), 422,
                        "unsafe_artifact")  # fmt: skip
        assert "client.publish" in document["detail"]
        assert http.head(f"/api/v1/files/{sha256(data)}").status_code == 404
    staging = shared_control.path / "artifacts" / "staging"
    assert not staging.exists() or not list(staging.iterdir())


def test_an_interrupted_upload_leaves_nothing(shared_control: Home) -> None:
    data = os.urandom(1 << 20)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(shared_control.settings.control_socket))
        head = (
            f"PUT /api/v1/files/{sha256(data)} HTTP/1.1\r\nhost: c\r\nx-maas-key-id: k\r\n"
            f"x-maas-scopes: write\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        raw.sendall(head.encode() + data[: len(data) // 2])
        staging = shared_control.path / "artifacts" / "staging"
        eventually(lambda: staging.is_dir() and list(staging.iterdir()), "the upload starts")
    eventually(lambda: not list(staging.iterdir()), "the upload is removed")
    address = f"/api/v1/files/{sha256(data)}"
    assert shared_control.http.head(address).status_code == 404
    assert shared_control.http.put(address, content=data).status_code == 201
    assert "Traceback" not in shared_control.log()


def test_a_damaged_file_is_never_sent_completely(shared_control: Home) -> None:
    data = os.urandom(3 << 20)
    shared_control.http.put(f"/api/v1/files/{sha256(data)}", content=data)
    digest = sha256(data)
    path = shared_control.path / "artifacts" / "sha256" / digest[:2] / digest
    path.chmod(0o600)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(httpx2.TransportError):
        shared_control.http.get(f"/api/v1/files/{digest}")


def test_publishing_is_idempotent_and_names_missing_files(shared_control: Home) -> None:
    http = shared_control.http
    data = tiny_onnx(11)
    body = manifest("twice", data)
    document = problem(http.post("/api/v1/models/twice/versions", json=body), 422, "invalid_input")
    assert f"PUT /api/v1/files/{sha256(data)}" in document["detail"]
    http.put(f"/api/v1/files/{sha256(data)}", content=data)
    first = http.post("/api/v1/models/twice/versions", json=body)
    again = http.post("/api/v1/models/twice/versions", json=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() and first.json()["number"] == 1

    wrong_size = manifest("twice", data)
    wrong_size["variants"][0]["files"][0]["size"] += 1
    response = http.post("/api/v1/models/twice/versions", json=wrong_size)
    assert problem(response, 422, "invalid_input")["field"] == "files.size"
    response = http.post("/api/v1/models/other/versions", json=body)
    assert problem(response, 422, "invalid_input")["field"] == "model"

    version = http.get("/api/v1/models/twice/versions/latest").json()
    assert version["number"] == 1 and version["created_by"] == "tester"
    assert version["manifest"]["variants"] == [body["variants"][0] | {"options": {}}]
    assert http.get("/api/v1/models/twice").json()["versions"][0]["variants"] == ["onnx"]
    assert "twice" in [m["name"] for m in http.get("/api/v1/models").json()["models"]]
    for number in ("2", "x", "-1", "0x1", "1" * 30):
        response = http.get(f"/api/v1/models/twice/versions/{number}")
        assert response.status_code in (404, 422), response.text


def test_invalid_manifests_are_refused(shared_control: Home) -> None:
    http = shared_control.http
    data = tiny_onnx(12)
    http.put(f"/api/v1/files/{sha256(data)}", content=data)
    for example, word in (({}, "missing"), ({"x": [1, 2]}, "[3]"), ({"x": [[1, 2, 3]] * 2}, "row")):
        body = manifest("bad", data)
        body["signature"]["example"] = example
        document = problem(
            http.post("/api/v1/models/bad/versions", json=body), 422, "invalid_input"
        )
        assert document["field"] == "signature.example" and word in document["detail"]
    body = manifest("bad", data) | {"code": "import os"}
    document = problem(http.post("/api/v1/models/bad/versions", json=body), 422, "invalid_input")
    assert document["detail"] == "unknown field 'code'"
    response = http.post(
        "/api/v1/models/bad/versions", json=manifest("bad", data, runtime="pickle")
    )
    assert problem(response, 422, "invalid_input")["field"] == "variants.runtime"
    text = b"this is not a model"
    http.put(f"/api/v1/files/{sha256(text)}", content=text)
    response = http.post("/api/v1/models/bad/versions", json=manifest("bad", text))
    assert "not an ONNX model" in problem(response, 422, "invalid_input")["detail"]
    assert http.get("/api/v1/models/bad").status_code == 404


def test_evidence_is_stored_with_its_file(shared_control: Home) -> None:
    http = shared_control.http
    shared_control.publish("proved", tiny_onnx(13))
    report = b"<!doctype html><p>report</p>"
    file = {"name": "report.html", "sha256": sha256(report), "size": len(report)}
    item = {"kind": "report", "values": {"accuracy": 0.97}, "how": {"rows": 100}, "file": file}
    address = "/api/v1/models/proved/versions/1/evidence"
    problem(http.post(address, json=item), 422, "invalid_input")
    http.put(f"/api/v1/files/{file['sha256']}", content=report)
    assert http.post(address, json=item).status_code == 201
    problem(http.post(address, json=item | {"variant": "none"}), 422, "invalid_input")
    problem(http.post(address.replace("1", "9"), json=item), 404, "not_found")
    (document,) = http.get("/api/v1/models/proved/versions/1").json()["evidence"]
    assert document["values"] == {"accuracy": 0.97} and document["file"] == file


@pytest.mark.parametrize(
    ("runtime", "options", "message"),
    [
        ("llama_cpp", {"stream_ms": "abc"}, "stream_ms must be a whole number from 0 to 1000"),
        ("openvino", {"slots": 0}, "slots must be a whole number from 1 to 128; got 0"),
        (
            "openvino",
            {"cache_type": "q8_0"},
            "there is no option 'cache_type'; expected one of slots",
        ),
        ("transformers", {"batch": True}, "batch must be a whole number"),
        ("upstream", {"timeout": 5}, "there is no option 'timeout'"),
    ],
)
def test_the_options_of_a_variant_are_checked_when_it_is_added(
    shared_control: Home, runtime: str, options: dict[str, object], message: str
) -> None:
    """They are not left to the deployment."""
    http = shared_control.http
    shared_control.publish("optional", tiny_onnx(15))
    version = http.get("/api/v1/models/optional/versions/1").json()
    other = version["manifest"]["variants"][0] | {"name": "other", "runtime": runtime}
    response = http.post(
        "/api/v1/models/optional/versions/1/variants", json=other | {"options": options}
    )
    wrong = problem(response, 422, "invalid_input")
    assert message in wrong["detail"] and wrong["field"] == "variants.options", wrong
