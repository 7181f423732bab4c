"""The API on a real control process: what it answers, and how it refuses."""

from __future__ import annotations

import io
import os
import pickle
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from maas.domain.keys import hash_token
from maas.settings import LogsSettings
from tests.integration.control.home import Home, eventually, manifest, sha256, tiny_onnx

DIGEST = "0" * 64


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = dict(answer.json())
    assert (found["status"], found["code"]) == (status, code)
    assert found["type"] == f"urn:maas:error:{code}" and found["title"] and found["detail"]
    return found


# -- the door ------------------------------------------------------------------------------------


def test_socket_and_files_are_private(shared_control: Home) -> None:
    settings = shared_control.settings
    for path, mode in (
        (settings.control_socket, 0o600),
        (settings.admin_key_file, 0o600),
        (settings.snapshot_file, 0o600),
        (settings.run_dir, 0o700),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_admin_key_is_in_the_first_snapshot(shared_control: Home) -> None:
    token = shared_control.settings.admin_key_file.read_text().strip()
    assert hash_token(token) in {key.sha256 for key in shared_control.snapshot().keys}
    assert token not in shared_control.log()


def test_every_route_refuses_who_has_no_key_or_no_scope(shared_control: Home) -> None:
    paths = shared_control.http.get("/openapi.json").json()["paths"]
    own = [(p, m) for p, ops in paths.items() for m in ops if p.startswith(("/api/", "/explain/"))]
    assert len(own) >= 25
    for path, method in own:
        address = path.replace("{", "").replace("}", "")
        for scopes, status in ((None, 401), ("nothing", 403)):
            headers = {"x-maas-key-id": "", "x-maas-scopes": ""}
            if scopes:
                headers = {"x-maas-key-id": "k", "x-maas-scopes": scopes}
            answer = shared_control.http.request(method, address, headers=headers)
            assert answer.status_code == status, (method, path)


def test_unknown_paths_and_methods(shared_control: Home) -> None:
    problem(shared_control.http.get("/api/v1/nothing"), 404, "not_found")
    problem(shared_control.http.get("/docs"), 404, "not_found")
    answer = shared_control.http.delete("/api/v1/status")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(("body", "status", "code"), [
    (b'{"name": "k", "scopes": ["call"], "more": 1}', 422, "invalid_input"),
    (b'{"name": 5, "scopes": ["call"]}', 422, "invalid_input"),
    (b'{"name": "k", "scopes": ["root"]}', 422, "invalid_input"),
    (b'{"name": "k", "scopes": []}', 422, "invalid_input"),
    (b'{"name": "k"}', 422, "invalid_input"),
    (b'{"name": "../../etc", "scopes": ["call"]}', 422, "invalid_input"),
    (b'[]', 422, "invalid_input"),
    (b'"x"', 422, "invalid_input"),
    (b'', 400, "malformed_body"),
    (b'{"name"', 400, "malformed_body"),
    (b'{"name": NaN}', 400, "malformed_body"),
    (b'{"name": 1e999}', 400, "malformed_body"),
    (b'{"name": ' + b"9" * 5000 + b"}", 400, "malformed_body"),
    (b'{"name": ' + b"[" * 100_000, 400, "malformed_body"),
    (b'{"name": ' + b"[" * 200 + b"]" * 200 + b"}", 400, "malformed_body"),
    (b" " * (5 << 20), 413, "body_too_large"),
])  # fmt: skip
def test_bodies_are_refused_with_a_sentence(
    shared_control: Home, body: bytes, status: int, code: str
) -> None:
    answer = shared_control.http.post(
        "/api/v1/keys", content=body, headers={"content-type": "application/json"}
    )
    problem(answer, status, code)


def test_a_refusal_names_field_expected_and_got(shared_control: Home) -> None:
    post = shared_control.http.post
    found = problem(post("/api/v1/keys", json={"name": 5, "scopes": ["call"]}), 422,
                    "invalid_input")  # fmt: skip
    assert found["field"] == "name"
    assert found["detail"] == "field 'name': expected a valid string; got 5"
    found = problem(post("/api/v1/keys", json={"name": "k", "scope": []}), 422, "invalid_input")
    assert {e["detail"] for e in found["errors"]} == {
        "field 'scopes' is missing", "unknown field 'scope'",
    }  # fmt: skip


def test_content_type_and_chunked_bodies(shared_control: Home) -> None:
    post = shared_control.http.post
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = post("/api/v1/keys", content=b"{}", headers={"content-type": kind})
        problem(answer, 415, "unsupported_media_type")

    def chunks() -> Any:
        for _ in range(80):
            yield b" " * 65536

    answer = post("/api/v1/keys", content=chunks(), headers={"content-type": "application/json"})
    problem(answer, 413, "body_too_large")


def test_request_id_is_in_problems(shared_control: Home) -> None:
    answer = shared_control.http.get("/api/v1/models/none", headers={"x-request-id": "abc"})
    assert problem(answer, 404, "not_found")["request_id"] == "abc"


# -- keys ----------------------------------------------------------------------------------------


def test_keys_reach_the_snapshot_before_the_answer(shared_control: Home) -> None:
    made = shared_control.http.post("/api/v1/keys", json={"name": "app", "scopes": ["call"]})
    assert made.status_code == 201
    token, key_id = made.json()["token"], made.json()["id"]
    known = {key.id: key for key in shared_control.snapshot().keys}
    assert known[key_id].sha256 == hash_token(token) and known[key_id].scopes == ("call",)
    listed = shared_control.http.get("/api/v1/keys")
    assert token not in listed.text and hash_token(token) not in listed.text
    gone = shared_control.http.delete(f"/api/v1/keys/{key_id}")
    assert gone.status_code == 200 and gone.json()["revoked_at"]
    assert key_id not in {key.id for key in shared_control.snapshot().keys}
    assert token not in shared_control.log()
    problem(shared_control.http.delete("/api/v1/keys/nobody"), 404, "not_found")


# -- files and versions --------------------------------------------------------------------------


def test_a_file_goes_in_and_comes_out(shared_control: Home) -> None:
    http = shared_control.http
    data = os.urandom(3 << 20)
    address = f"/api/v1/files/{sha256(data)}"
    assert http.head(address).status_code == 404
    assert http.put(address, content=data).status_code == 201
    assert http.put(address, content=data).status_code == 200
    head = http.head(address)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
    answer = http.get(address)
    assert answer.content == data
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize("name", ["x", "..%2f..%2fetc%2fpasswd", "A" * 64, "0" * 63])
def test_a_file_has_no_other_name_than_its_digest(shared_control: Home, name: str) -> None:
    for method in ("GET", "HEAD", "PUT"):
        answer = shared_control.http.request(method, f"/api/v1/files/{name}")
        assert 400 <= answer.status_code < 500


def test_wrong_digest_and_unsafe_files_leave_nothing(shared_control: Home) -> None:
    http = shared_control.http
    problem(http.put(f"/api/v1/files/{DIGEST}", content=b"other"), 422, "invalid_input")
    assert http.head(f"/api/v1/files/{DIGEST}").status_code == 404
    for data in (pickle.dumps({"a": io.BytesIO}), b"\x89HDF\r\n\x1a\n" + bytes(999)):
        found = problem(http.put(f"/api/v1/files/{sha256(data)}", content=data), 422,
                        "unsafe_artifact")  # fmt: skip
        assert "client.publish" in found["detail"]
        assert http.head(f"/api/v1/files/{sha256(data)}").status_code == 404
    staging = shared_control.path / "artifacts" / "staging"
    assert not staging.exists() or not list(staging.iterdir())


def test_an_upload_that_breaks_off_leaves_nothing(shared_control: Home) -> None:
    data = os.urandom(1 << 20)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(shared_control.settings.control_socket))
        head = (
            f"PUT /api/v1/files/{sha256(data)} HTTP/1.1\r\nhost: c\r\nx-maas-key-id: k\r\n"
            f"x-maas-scopes: write\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        raw.sendall(head.encode() + data[: len(data) // 2])
        staging = shared_control.path / "artifacts" / "staging"
        eventually(lambda: staging.is_dir() and list(staging.iterdir()), "the upload begins")
    eventually(lambda: not list(staging.iterdir()), "the upload is forgotten")
    address = f"/api/v1/files/{sha256(data)}"
    assert shared_control.http.head(address).status_code == 404
    assert shared_control.http.put(address, content=data).status_code == 201
    assert "Traceback" not in shared_control.log()


def test_a_damaged_file_is_never_sent_to_its_end(shared_control: Home) -> None:
    data = os.urandom(3 << 20)
    shared_control.http.put(f"/api/v1/files/{sha256(data)}", content=data)
    digest = sha256(data)
    path = shared_control.path / "artifacts" / "sha256" / digest[:2] / digest
    path.chmod(0o600)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(httpx2.TransportError):
        shared_control.http.get(f"/api/v1/files/{digest}")


def test_publish_is_idempotent_and_says_what_is_missing(shared_control: Home) -> None:
    http = shared_control.http
    data = tiny_onnx(11)
    body = manifest("twice", data)
    found = problem(http.post("/api/v1/models/twice/versions", json=body), 422, "invalid_input")
    assert f"PUT /api/v1/files/{sha256(data)}" in found["detail"]
    http.put(f"/api/v1/files/{sha256(data)}", content=data)
    first = http.post("/api/v1/models/twice/versions", json=body)
    again = http.post("/api/v1/models/twice/versions", json=body)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() and first.json()["number"] == 1

    wrong_size = manifest("twice", data)
    wrong_size["variants"][0]["files"][0]["size"] += 1
    answer = http.post("/api/v1/models/twice/versions", json=wrong_size)
    assert problem(answer, 422, "invalid_input")["field"] == "files.size"
    answer = http.post("/api/v1/models/other/versions", json=body)
    assert problem(answer, 422, "invalid_input")["field"] == "model"

    version = http.get("/api/v1/models/twice/versions/latest").json()
    assert version["number"] == 1 and version["created_by"] == "tester"
    assert version["manifest"]["variants"] == [body["variants"][0] | {"options": {}}]
    assert http.get("/api/v1/models/twice").json()["versions"][0]["variants"] == ["onnx"]
    assert "twice" in [m["name"] for m in http.get("/api/v1/models").json()["models"]]
    for number in ("2", "x", "-1", "0x1", "1" * 30):
        answer = http.get(f"/api/v1/models/twice/versions/{number}")
        assert answer.status_code in (404, 422), answer.text


def test_manifests_that_could_not_serve_are_refused(shared_control: Home) -> None:
    http = shared_control.http
    data = tiny_onnx(12)
    http.put(f"/api/v1/files/{sha256(data)}", content=data)
    for example, word in (({}, "missing"), ({"x": [1, 2]}, "[3]"), ({"x": [[1, 2, 3]] * 2}, "row")):
        body = manifest("bad", data)
        body["signature"]["example"] = example
        found = problem(http.post("/api/v1/models/bad/versions", json=body), 422, "invalid_input")
        assert found["field"] == "signature.example" and word in found["detail"]
    body = manifest("bad", data) | {"code": "import os"}
    found = problem(http.post("/api/v1/models/bad/versions", json=body), 422, "invalid_input")
    assert found["detail"] == "unknown field 'code'"
    answer = http.post("/api/v1/models/bad/versions", json=manifest("bad", data, runtime="pickle"))
    assert problem(answer, 422, "invalid_input")["field"] == "variants.runtime"
    text = b"this is no model"
    http.put(f"/api/v1/files/{sha256(text)}", content=text)
    answer = http.post("/api/v1/models/bad/versions", json=manifest("bad", text))
    assert "not an ONNX model" in problem(answer, 422, "invalid_input")["detail"]
    assert http.get("/api/v1/models/bad").status_code == 404


def test_evidence(shared_control: Home) -> None:
    http = shared_control.http
    shared_control.publish("proved", tiny_onnx(13))
    report = b"<!doctype html><p>good</p>"
    file = {"name": "report.html", "sha256": sha256(report), "size": len(report)}
    item = {"kind": "report", "values": {"accuracy": 0.97}, "how": {"rows": 100}, "file": file}
    address = "/api/v1/models/proved/versions/1/evidence"
    problem(http.post(address, json=item), 422, "invalid_input")
    http.put(f"/api/v1/files/{file['sha256']}", content=report)
    assert http.post(address, json=item).status_code == 201
    problem(http.post(address, json=item | {"variant": "none"}), 422, "invalid_input")
    problem(http.post(address.replace("1", "9"), json=item), 404, "not_found")
    (found,) = http.get("/api/v1/models/proved/versions/1").json()["evidence"]
    assert found["values"] == {"accuracy": 0.97} and found["file"] == file


@pytest.mark.parametrize(
    ("runtime", "options", "said"),
    [
        ("llama_cpp", {"stream_ms": "abc"}, "stream_ms must be a whole number from 0 to 1000"),
        ("openvino", {"slots": 0}, "slots must be a whole number from 1 to 128; got 0"),
        ("openvino", {"cache_type": "q8_0"}, "there is no option 'cache_type'; known are slots"),
        ("transformers", {"batch": True}, "batch must be a whole number"),
        ("upstream", {"timeout": 5}, "there is no option 'timeout'"),
    ],
)
def test_options_of_a_variant_are_looked_at_when_it_is_added(
    shared_control: Home, runtime: str, options: dict[str, object], said: str
) -> None:
    """Not when it is deployed."""
    http = shared_control.http
    shared_control.publish("optional", tiny_onnx(15))
    version = http.get("/api/v1/models/optional/versions/1").json()
    other = version["manifest"]["variants"][0] | {"name": "other", "runtime": runtime}
    answer = http.post(
        "/api/v1/models/optional/versions/1/variants", json=other | {"options": options}
    )
    wrong = problem(answer, 422, "invalid_input")
    assert said in wrong["detail"] and wrong["field"] == "variants.options", wrong


# -- deployments ---------------------------------------------------------------------------------


def test_a_deployment_keeps_its_variant_until_another_is_named(shared_control: Home) -> None:
    http = shared_control.http
    shared_control.publish("kept", tiny_onnx(15))
    version = http.get("/api/v1/models/kept/versions/1").json()
    other = version["manifest"]["variants"][0] | {"name": "other"}
    added = http.post("/api/v1/models/kept/versions/1/variants", json=other)
    assert added.status_code == 201, added.text

    def variant(**wanted: object) -> str:
        found = shared_control.deploy("kept", model="kept", scaling={"replicas": 0}, **wanted)
        return str(found["targets"][0]["variant"])

    assert variant() == "onnx"
    assert variant(variant="other") == "other"
    assert variant() == "other"  # as with `--replicas` alone
    assert variant(variant="onnx") == "onnx"
    shared_control.publish("kept", tiny_onnx(16))
    assert variant(version=1, variant="other") == "other"
    moved = shared_control.deploy("kept", model="kept")
    assert moved["targets"][0]["variant"] == "onnx"  # of the newest version, which has no other
    http.delete("/api/v1/deployments/kept")


def test_other_settings_move_nobody_to_another_version(shared_control: Home) -> None:
    """Who adds a replica asks neither for the newest version nor for an end of a split."""
    http = shared_control.http
    for size in (17, 18, 19):
        shared_control.publish("split", tiny_onnx(size))
    shares = [{"version": 1, "weight": 90}, {"version": 2, "weight": 10}]
    scaling = {"replicas": 0}
    shared_control.deploy("split", model="split", targets=shares, scaling=scaling)

    def versions(**wanted: object) -> list[tuple[int, int]]:
        found = shared_control.deploy("split", model="split", **wanted)
        return [(target["version"], target["weight"]) for target in found["targets"]]

    others: tuple[dict[str, object], ...]
    others = ({"scaling": {"threads": 2}}, {"default": False}, {"gate": ""}, {"scaling": {}})
    for other in others:
        assert versions(**other) == [(1, 90), (2, 10)], other
    assert [one for one, _ in versions(version=2, scaling={"threads": 1})] == [2]
    assert [one for one, _ in versions(scaling={"threads": 2})] == [2]
    assert [one for one, _ in versions()] == [3]
    shared_control.publish("another", tiny_onnx(20))
    found = shared_control.deploy("split", model="another", scaling={"threads": 1})
    assert (found["model"], found["targets"][0]["version"]) == ("another", 1)
    http.delete("/api/v1/deployments/split")


def test_who_changes_a_deployment_at_once_changes_only_what_was_named(
    shared_control: Home,
) -> None:
    http = shared_control.http
    for size in (21, 22):
        shared_control.publish("both", tiny_onnx(size))
    address = "/api/v1/deployments/both"
    moved = {"model": "both", "version": 2}
    scaled = {"model": "both", "scaling": {"threads": 2}}
    for _ in range(15):
        before = {"model": "both", "version": 1, "scaling": {"replicas": 0, "threads": 1}}
        assert http.put(address, json=before).status_code == 200
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda body: http.put(address, json=body), [moved, scaled]))
        assert [one.status_code for one in done] == [200, 200]
        found = http.get(address).json()
        assert (found["targets"][0]["version"], found["scaling"]["threads"]) == (2, 2)
    http.delete(address)


def test_deployments_are_checked_and_keep_what_is_left_out(shared_control: Home) -> None:
    http = shared_control.http
    shared_control.publish("d", tiny_onnx(14))
    put = "/api/v1/deployments/d"
    problem(http.put(put, json={"model": "nobody"}), 404, "not_found")
    problem(http.put(put, json={"model": "d", "version": 7}), 404, "not_found")
    problem(http.put(put, json={"model": "d", "variant": "gguf"}), 422, "invalid_input")
    problem(http.put(put, json={"model": "d", "replicas": 2}), 422, "invalid_input")
    problem(http.put(put, json={"model": "d", "scaling": {"replicas": -1}}), 422, "invalid_input")
    problem(http.put(put, json={"model": "d", "scaling": {"replica": 1}}), 422, "invalid_input")
    both = {"model": "d", "version": 1, "targets": [{"version": 1}]}
    problem(http.put(put, json=both), 422, "invalid_input")
    problem(http.put("/api/v1/deployments/Not%20Good", json={"model": "d"}), 422, "invalid_input")
    problem(http.post(f"{put}/rollback"), 404, "not_found")

    first = shared_control.deploy("d", model="d", scaling={"replicas": 0, "max_batch": 7})
    assert first["scaling"]["max_batch"] == 7 and first["desired"] == 0
    problem(http.post(f"{put}/rollback"), 409, "conflict")
    second = shared_control.deploy("d", model="d", scaling={"threads": 2})
    assert second["scaling"] == first["scaling"] | {"threads": 2} and second["revision"] == 2
    same = shared_control.deploy("d", model="d", scaling={"threads": 2})
    assert same["revision"] == 2  # a retry makes no revision that a rollback would find
    back = http.post(f"{put}/rollback").json()
    assert back["scaling"] == first["scaling"] and back["revision"] == 3
    listed = http.get("/api/v1/deployments").json()["deployments"]
    assert "d" in [d["name"] for d in listed]
    assert http.delete(put).status_code == 204
    problem(http.get(put), 404, "not_found")
    problem(http.delete(put), 404, "not_found")


# -- the rest ------------------------------------------------------------------------------------


def test_jobs(shared_control: Home) -> None:
    http = shared_control.http
    made = http.post("/api/v1/jobs", json={"kind": "build", "name": "digits", "state": "running"})
    assert made.status_code == 201
    address = f"/api/v1/jobs/{made.json()['id']}"
    progress = {"done": 3, "total": 10, "values": {"loss": 0.5}, "eta_seconds": 7.0}
    told = http.patch(address, json={"progress": progress}).json()
    assert told["progress"]["done"] == 3 and not told["cancel_requested"]
    assert http.post(f"{address}/cancel").json()["cancel_requested"]
    assert http.patch(address, json={"state": "cancelled"}).json()["cancel_requested"]
    problem(http.patch(address, json={"state": "running"}), 409, "conflict")
    problem(http.patch(address, json={"state": "asleep"}), 422, "invalid_input")
    problem(http.get("/api/v1/jobs/nobody"), 404, "not_found")
    assert http.get("/api/v1/jobs?kind=build&limit=5").json()["jobs"][0]["id"] in address
    problem(http.get("/api/v1/jobs?limit=0"), 422, "invalid_input")
    # What a client registers with `Job.to_dict()` is taken as it is.
    again = http.post("/api/v1/jobs", json=made.json() | {"id": "job-of-mine"})
    assert again.status_code == 201 and again.json()["id"] == "job-of-mine"


def test_usage_status_and_openapi(shared_control: Home) -> None:
    http = shared_control.http
    assert http.get("/api/v1/usage?since=2026-01-01").json() == {"usage": []}
    for query in ("since=yesterday", "since=2026-13-99", "until=2026-01-01"):
        problem(http.get(f"/api/v1/usage?{query}"), 422, "invalid_input")
    for query in ("key=nosuch", "deployment=nosuch"):
        problem(http.get(f"/api/v1/usage?{query}"), 404, "not_found")
    status = http.get("/api/v1/status").json()
    assert status["database"].startswith("sqlite:///") and status["uptime_s"] > 0
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1") and "/predict/{deployment}" in document["paths"]


def test_logs(shared_control: Home) -> None:
    http = shared_control.http
    answer = http.get("/api/v1/logs/control?lines=1")
    assert answer.status_code == 200 and answer.text.count("\n") == 1
    assert answer.headers["content-type"].startswith("text/plain")
    for name in ("nobody", "..%2Fmaas.db", "r-00000000", "control.log"):
        problem(http.get(f"/api/v1/logs/{name}"), 404, "not_found")
    refused = http.get("/api/v1/logs/control", headers={"x-maas-scopes": "read,write,call"})
    problem(refused, 403, "forbidden")


def test_explain(shared_control: Home) -> None:
    http = shared_control.http
    shared_control.publish("linear", tiny_onnx(3))
    shared_control.deploy("linear", model="linear")
    body = {"inputs": {"x": [1, 2, 4]}, "target": 2, "background": {"x": [[0, 0, 1], [0, 0, 3]]}}
    problem(http.post("/explain/nobody", json=body), 404, "not_found")
    shared_control.wait_for("linear", "ready")
    answer = http.post("/explain/linear", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    # y[2] = 3 · x[2]: all is due to x[2], and the baseline is the background's mean.
    values = [a["shapley"] for a in found["attributions"]]
    assert values == pytest.approx([0, 0, 6], abs=1e-4)
    assert (found["prediction"], found["baseline"]) == pytest.approx((12, 6))
    assert found["deployment"] == "linear" and found["version"] == 1 and found["calls"] >= 1
    for wrong in ({"x": [1, 2]}, {"z": 1}, {}, {"x": [[1, 2, 3]] * 2}):
        problem(http.post("/explain/linear", json={"inputs": wrong}), 422, "invalid_input")
    for wrong_body in (body | {"samples": 5}, body | {"output": "z"}, body | {"target": 9},
                       body | {"background": {}}, body | {"background": {"x": "far"}}):  # fmt: skip
        problem(http.post("/explain/linear", json=wrong_body), 422, "invalid_input")
    shared_control.publish("steep", tiny_onnx(3e38))
    shared_control.deploy("steep", model="steep")
    shared_control.wait_for("steep", "ready")
    answer = http.post("/explain/steep", json=body)
    problem(answer, 422, "inference_failed")
    assert int(answer.headers["x-maas-rows"]) > 0  # it failed after the model was asked
    shared_control.deploy("linear", model="linear", scaling={"replicas": 0})
    answer = http.post("/explain/linear", json=body)
    assert "scaled to 0" in problem(answer, 503, "unavailable")["detail"]
    assert answer.headers["retry-after"] == "1"


def test_nothing_here_was_a_defect(shared_control: Home) -> None:
    """Runs last: no request of this module made control log an error."""
    time.sleep(0.1)
    assert '"level": "error"' not in shared_control.log(), shared_control.log()


def test_logs_begin_anew_at_their_limit_and_are_read_as_one(home: Home) -> None:
    home.settings = msgspec.structs.replace(
        home.settings, logs=LogsSettings(max_bytes=1024, files=50)
    )
    home.settings_file.write_text(home.settings.to_json())
    for _ in range(10):
        home.start()
        home.kill()
    home.start()
    files = list(home.settings.log_dir.glob("control.log*"))
    assert len(files) > 1 and max(file.stat().st_size for file in files) < 2048
    said = home.http.get("/api/v1/logs/control?lines=1000").text
    assert said.count("control is ready") == 11
    home.publish("m", tiny_onnx(2))
    home.deploy("t", model="m")
    home.wait_for("t", "ready")
    (replica,) = home.replica_processes()
    command = replica.cmdline()
    log, *limits = command[command.index("--log") + 1 :]
    assert Path(log).is_file() and limits == ["1024", "50"]
