"""The API on a real control process: jobs, usage, status, logs and explanations."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from maas.settings import LogsSettings
from tests.integration.control.home import (
    Home,
    problem,
    tiny_onnx,
)


def test_a_job_reports_progress_and_is_cancelled(shared_control: Home) -> None:
    http = shared_control.http
    created = http.post(
        "/api/v1/jobs", json={"kind": "build", "name": "digits", "state": "running"}
    )
    assert created.status_code == 201
    address = f"/api/v1/jobs/{created.json()['id']}"
    progress = {"done": 3, "total": 10, "values": {"loss": 0.5}, "eta_seconds": 7.0}
    updated = http.patch(address, json={"progress": progress}).json()
    assert updated["progress"]["done"] == 3 and not updated["cancel_requested"]
    assert http.post(f"{address}/cancel").json()["cancel_requested"]
    assert http.patch(address, json={"state": "cancelled"}).json()["cancel_requested"]
    problem(http.patch(address, json={"state": "running"}), 409, "conflict")
    problem(http.patch(address, json={"state": "asleep"}), 422, "invalid_input")
    problem(http.get("/api/v1/jobs/nobody"), 404, "not_found")
    assert http.get("/api/v1/jobs?kind=build&limit=5").json()["jobs"][0]["id"] in address
    problem(http.get("/api/v1/jobs?limit=0"), 422, "invalid_input")
    # The API accepts a job as `Job.to_dict()` returns it.
    again = http.post("/api/v1/jobs", json=created.json() | {"id": "job-of-mine"})
    assert again.status_code == 201 and again.json()["id"] == "job-of-mine"


def test_usage_status_and_openapi(shared_control: Home) -> None:
    http = shared_control.http
    assert http.get("/api/v1/usage?since=2026-01-01").json() == {"usage": []}
    for query in ("since=yesterday", "since=2026-13-99", "until=2026-01-01"):
        problem(http.get(f"/api/v1/usage?{query}"), 422, "invalid_input")
    for query in ("key=nosuch", "deployment=nosuch"):
        problem(http.get(f"/api/v1/usage?{query}"), 404, "not_found")
    unused = http.post("/api/v1/keys", json={"name": "hidden-app", "scopes": ["call"]}).json()
    for text in ("hidden-ap", unused["id"][:-1]):
        detail = problem(http.get(f"/api/v1/usage?key={text}"), 404, "not_found")["detail"]
        assert "hidden-app" not in detail and unused["id"] not in detail
    status = http.get("/api/v1/status").json()
    assert status["database"].startswith("sqlite:///") and status["uptime_s"] > 0
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1") and "/predict/{deployment}" in document["paths"]


def test_logs_are_read_by_name(shared_control: Home) -> None:
    http = shared_control.http
    response = http.get("/api/v1/logs/control?lines=1")
    assert response.status_code == 200 and response.text.count("\n") == 1
    assert response.headers["content-type"].startswith("text/plain")
    for name in ("nobody", "..%2Fmaas.db", "r-00000000", "control.log"):
        problem(http.get(f"/api/v1/logs/{name}"), 404, "not_found")
    refused = http.get("/api/v1/logs/control", headers={"x-maas-scopes": "read,write,call"})
    problem(refused, 403, "forbidden")


def test_a_prediction_is_explained(shared_control: Home) -> None:
    http = shared_control.http
    shared_control.publish("linear", tiny_onnx(3))
    shared_control.deploy("linear", model="linear")
    body = {"inputs": {"x": [1, 2, 4]}, "target": 2, "background": {"x": [[0, 0, 1], [0, 0, 3]]}}
    problem(http.post("/explain/nobody", json=body), 404, "not_found")
    shared_control.wait_for("linear", "ready")
    response = http.post("/explain/linear", json=body)
    assert response.status_code == 200, response.text
    explanation = response.json()
    # y[2] = 3 · x[2]: x[2] has the whole attribution, and the baseline is the background's mean.
    values = [a["shapley"] for a in explanation["attributions"]]
    assert values == pytest.approx([0, 0, 6], abs=1e-4)
    assert (explanation["prediction"], explanation["baseline"]) == pytest.approx((12, 6))
    assert (
        explanation["deployment"] == "linear"
        and explanation["version"] == 1
        and explanation["calls"] >= 1
    )
    for wrong in ({"x": [1, 2]}, {"z": 1}, {}, {"x": [[1, 2, 3]] * 2}):
        problem(http.post("/explain/linear", json={"inputs": wrong}), 422, "invalid_input")
    for wrong_body in (body | {"samples": 5}, body | {"output": "z"}, body | {"target": 9},
                       body | {"background": {}}, body | {"background": {"x": "far"}}):  # fmt: skip
        problem(http.post("/explain/linear", json=wrong_body), 422, "invalid_input")
    shared_control.publish("steep", tiny_onnx(3e38))
    shared_control.deploy("steep", model="steep")
    shared_control.wait_for("steep", "ready")
    response = http.post("/explain/steep", json=body)
    problem(response, 422, "inference_failed")
    assert int(response.headers["x-maas-rows"]) > 0  # it failed after predictions were made
    shared_control.deploy("linear", model="linear", scaling={"replicas": 0})
    response = http.post("/explain/linear", json=body)
    assert "scaled to 0" in problem(response, 503, "unavailable")["detail"]
    assert response.headers["retry-after"] == "1"


def test_logs_rotate_at_their_limit_and_are_read_as_one(home: Home) -> None:
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
    text = home.http.get("/api/v1/logs/control?lines=1000").text
    assert text.count("control is ready") == 11
    home.publish("m", tiny_onnx(2))
    home.deploy("t", model="m")
    home.wait_for("t", "ready")
    (replica,) = home.replica_processes()
    command = replica.cmdline()
    log, *limits = command[command.index("--log") + 1 :]
    assert Path(log).is_file() and limits == ["1024", "50"]
