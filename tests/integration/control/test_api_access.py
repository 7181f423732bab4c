"""The API on a real control process: authorization, request bodies, errors and keys."""

from __future__ import annotations

import stat
from typing import Any

import pytest

from maas.domain.keys import hash_token
from tests.integration.control.home import (
    Home,
    problem,
)


def test_the_socket_and_files_are_private(shared_control: Home) -> None:
    settings = shared_control.settings
    for path, mode in (
        (settings.control_socket, 0o600),
        (settings.admin_key_file, 0o600),
        (settings.snapshot_file, 0o600),
        (settings.run_dir, 0o700),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_the_admin_key_is_in_the_first_snapshot(shared_control: Home) -> None:
    token = shared_control.settings.admin_key_file.read_text().strip()
    assert hash_token(token) in {key.sha256 for key in shared_control.snapshot().keys}
    assert token not in shared_control.log()


def test_every_route_refuses_requests_without_a_key_or_scope(shared_control: Home) -> None:
    paths = shared_control.http.get("/openapi.json").json()["paths"]
    routes = [
        (p, m) for p, ops in paths.items() for m in ops if p.startswith(("/api/", "/explain/"))
    ]
    assert len(routes) >= 25
    for path, method in routes:
        address = path.replace("{", "").replace("}", "")
        for scopes, status in ((None, 401), ("nothing", 403)):
            headers = {"x-maas-key-id": "", "x-maas-scopes": ""}
            if scopes:
                headers = {"x-maas-key-id": "k", "x-maas-scopes": scopes}
            response = shared_control.http.request(method, address, headers=headers)
            assert response.status_code == status, (method, path)


def test_unknown_paths_and_methods_are_refused(shared_control: Home) -> None:
    problem(shared_control.http.get("/api/v1/nothing"), 404, "not_found")
    problem(shared_control.http.get("/docs"), 404, "not_found")
    response = shared_control.http.delete("/api/v1/status")
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


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
def test_invalid_bodies_are_refused_with_a_problem(
    shared_control: Home, body: bytes, status: int, code: str
) -> None:
    response = shared_control.http.post(
        "/api/v1/keys", content=body, headers={"content-type": "application/json"}
    )
    problem(response, status, code)


def test_a_problem_names_the_field_the_expected_and_the_actual_value(shared_control: Home) -> None:
    post = shared_control.http.post
    document = problem(post("/api/v1/keys", json={"name": 5, "scopes": ["call"]}), 422,
                    "invalid_input")  # fmt: skip
    assert document["field"] == "name"
    assert document["detail"] == "field 'name': expected a valid string; got 5"
    document = problem(post("/api/v1/keys", json={"name": "k", "scope": []}), 422, "invalid_input")
    assert {e["detail"] for e in document["errors"]} == {
        "field 'scopes' is missing", "unknown field 'scope'",
    }  # fmt: skip


def test_content_types_and_chunked_bodies_are_checked(shared_control: Home) -> None:
    post = shared_control.http.post
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = post("/api/v1/keys", content=b"{}", headers={"content-type": kind})
        problem(response, 415, "unsupported_media_type")

    def chunks() -> Any:
        for _ in range(80):
            yield b" " * 65536

    response = post("/api/v1/keys", content=chunks(), headers={"content-type": "application/json"})
    problem(response, 413, "body_too_large")


def test_the_request_id_is_in_problems(shared_control: Home) -> None:
    response = shared_control.http.get("/api/v1/models/none", headers={"x-request-id": "abc"})
    assert problem(response, 404, "not_found")["request_id"] == "abc"


def test_a_new_key_is_in_the_snapshot_before_the_response(shared_control: Home) -> None:
    created = shared_control.http.post("/api/v1/keys", json={"name": "app", "scopes": ["call"]})
    assert created.status_code == 201
    token, key_id = created.json()["token"], created.json()["id"]
    keys = {key.id: key for key in shared_control.snapshot().keys}
    assert keys[key_id].sha256 == hash_token(token) and keys[key_id].scopes == ("call",)
    listed = shared_control.http.get("/api/v1/keys")
    assert token not in listed.text and hash_token(token) not in listed.text
    revoked = shared_control.http.delete(f"/api/v1/keys/{key_id}")
    assert revoked.status_code == 200 and revoked.json()["revoked_at"]
    assert key_id not in {key.id for key in shared_control.snapshot().keys}
    assert token not in shared_control.log()
    problem(shared_control.http.delete("/api/v1/keys/nobody"), 404, "not_found")
