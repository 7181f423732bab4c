"""Output, messages and exit codes of the commands."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from maas.cli.commands import COMMANDS
from maas.domain.errors import (
    Conflict,
    Forbidden,
    InferenceFailed,
    InvalidInput,
    NotFound,
    Overloaded,
    Unauthenticated,
    UnsafeArtifact,
)
from maas.version import __version__
from tests.support.fakes.iris_deployment import deployment, serve_iris, version
from tests.support.fakes.scripted_server import FakeServer
from tests.unit.cli.conftest import Maas


def test_help_names_every_command_and_needs_no_server(maas: Maas) -> None:
    result = maas("--help")
    assert (result.code, result.err) == (0, "")
    assert all(f"  {name} " in result.out for name in COMMANDS)
    assert maas().out == result.out


def test_an_unknown_command_is_a_usage_error_with_the_nearest_name(maas: Maas) -> None:
    result = maas("rollbak", "iris")
    assert result.code == 2
    assert "rollback" in result.err
    assert result.out == ""
    assert maas("predict").code == 2
    assert maas("keys", "revoke").code == 2


def test_flags_before_the_command_are_used(maas: Maas, fake: FakeServer) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        other = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = maas("--base-url", other, "status")
    assert result.code == 69
    assert other in result.err
    assert not fake.requests


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("gone"), 3),
        (Forbidden("no"), 4),
        (Conflict("both"), 5),
        (InvalidInput("x: bad"), 2),
        (UnsafeArtifact("pickle"), 1),
        (InferenceFailed("nan"), 1),
        (Overloaded("full"), 69),
    ],
)
def test_errors_have_exit_codes(maas: Maas, fake: FakeServer, error: Any, code: int) -> None:
    fake.answers("GET", "/api/v1/models", error.to_problem(), status=error.status)
    result = maas("models")
    assert result == (code, "", f"error: {error.message}\n")


def test_an_unknown_setting_is_named_and_exits_78(
    maas: Maas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAAS_SERVER__PROT", "1")
    result = maas("status")
    assert result.code == 78
    assert "did you mean 'port'?" in result.err


def test_a_new_token_is_alone_on_stdout(maas: Maas, fake: FakeServer) -> None:
    key = {"id": "k1", "name": "ada", "scopes": ["call", "read"], "token": "maas_k1_x"}
    fake.answers("POST", "/api/v1/keys", key, status=201)
    result = maas("keys", "create", "ada", "--scope", "call,read")
    assert result.out == "maas_k1_x\n"
    assert "created key k1 (ada) with scopes call, read" in result.err
    assert fake.requests[0].json() == {"name": "ada", "scopes": ["call", "read"]}
    assert json.loads(maas("keys", "create", "ada", "-o", "json").out)["token"] == "maas_k1_x"


def test_tables_keep_whole_values(maas: Maas, fake: FakeServer) -> None:
    keys = [
        {"id": "k1", "name": "a" * 60, "scopes": ["call"], "created_at": 0, "revoked_at": None},
        {"id": "k2", "name": "b", "scopes": ["call"], "created_at": 0, "revoked_at": None},
    ]
    fake.answers("GET", "/api/v1/keys", {"keys": keys})
    heading, first, second = maas("keys", "list").out.splitlines()
    assert heading.index("SCOPES") == first.index("call") == second.index("call")
    assert "a" * 60 in first


def test_deploy_changes_only_the_options_given(maas: Maas, fake: FakeServer) -> None:
    serve_iris(fake)
    result = maas("deploy", "iris", "--threads", "2", "-o", "json")
    assert json.loads(result.out)["state"] == "ready"
    put = next(a for a in fake.requests if a.method == "PUT")
    assert put.json() == {
        "model": "iris",
        "scaling": {"threads": 2},
    }
    assert "the newest version is 2: `maas deploy iris` without options deploys it" in result.err
    assert "newest" not in maas("deploy", "iris").err


def test_deploy_with_a_weight_keeps_the_other_targets(maas: Maas, fake: FakeServer) -> None:
    serve_iris(fake)
    assert maas("deploy", "iris", "--version", "2", "--weight", "10").code == 0
    put = next(a for a in fake.requests if a.method == "PUT")
    assert put.json()["targets"] == [
        {"version": 1, "variant": "onnx", "weight": 900},
        {"version": 2, "variant": "onnx", "weight": 100},
    ]


def test_a_failed_deploy_shows_reason_log_and_next_step(maas: Maas, fake: FakeServer) -> None:
    serve_iris(fake, state="failed", ready=0, reason="model.onnx is corrupt")
    fake.answers_bytes("GET", "/api/v1/logs/iris", b"Traceback: it broke\n")
    result = maas("deploy", "iris")
    assert result.code == 1
    assert result.out == ""
    for part in ("model.onnx is corrupt", "Traceback: it broke", "maas rollback iris"):
        assert part in result.err


def test_undeploy_deletes_a_deployment(maas: Maas, fake: FakeServer) -> None:
    fake.answers("DELETE", "/api/v1/deployments/iris", status=204)
    result = maas("undeploy", "iris")
    assert (result.code, fake.count("DELETE", "/api/v1/deployments/iris")) == (0, 1)
    assert "its model stays" in result.err
    assert maas("undeploy", "nosuch").code == 3


def test_a_version_is_shown_with_its_evidence(maas: Maas, fake: FakeServer) -> None:
    serve_iris(fake)
    out = maas("models", "show", "iris").out
    for part in ("iris:2", "length, width", "model.onnx", "mae", "0.2 to 0.3"):
        assert part in out
    assert maas("models", "show", "iris", "--report", "r.html").code == 3


def test_models_are_listed_with_and_without_the_word_list(maas: Maas, fake: FakeServer) -> None:
    models = [{"name": "iris", "task": "regression", "versions": 2, "latest": 2, "updated_at": 0}]
    fake.answers("GET", "/api/v1/models", {"models": models})
    serve_iris(fake)
    fake.answers("GET", "/api/v1/keys", {"keys": []})
    for noun in ("models", "deployments", "keys", "jobs"):
        assert maas(noun) == maas(noun, "list")
        assert maas(noun).code == 0
    assert "iris" in maas("models").out and "iris" in maas("deployments").out


def test_the_version_is_printed(maas: Maas) -> None:
    assert maas("version") == maas("--version") == (0, f"{__version__}\n", "")


def test_a_model_is_shown_with_its_versions_and_what_serves_them(
    maas: Maas, fake: FakeServer
) -> None:
    serve_iris(fake)
    files = [{"name": "model.onnx", "sha256": "1" * 64, "size": 4}]
    optimized = {"name": "onnx-int8", "runtime": "onnx", "files": files, "options": {}}
    shown = version(1) | {"variants": [*version(1)["manifest"]["variants"], optimized]}
    fake.answers("GET", "/api/v1/models/optimized/versions/1", shown)
    lines = maas("models", "show", "iris").out.splitlines()
    assert lines[0].startswith("iris:2  regression")
    lines = lines[lines.index("") + 1 :]
    assert lines[0].split() == ["VERSION", "PUBLISHED", "BY", "VARIANTS", "SERVED", "BY"]
    assert lines[1].split() == ["2", "-", "ada", "onnx", "-"]
    assert lines[2].split() == ["1", "-", "ada", "onnx,", "onnx-int8", "iris"]
    variants = [
        line.split() for line in maas("models", "show", "optimized:1").out.splitlines()
        if line.startswith("onnx")
    ]  # fmt: skip
    assert [words[:3] for words in variants] == [
        ["onnx", "onnx", "iris"],
        ["onnx-int8", "onnx", "-"],
    ]


def test_a_deployment_is_shown_with_shares_and_scaling(maas: Maas, fake: FakeServer) -> None:
    targets = [
        {"version": 1, "variant": "onnx", "weight": 900},
        {"version": 2, "variant": "onnx", "weight": 100},
    ]
    serve_iris(fake, targets=targets)
    out = maas("deployments", "show", "iris").out
    assert "1/onnx 90%, 2/onnx 10%" in out and "queue limit" in out
    assert json.loads(maas("deployments", "show", "iris", "-o", "json").out)["state"] == "ready"


def test_usage_of_an_unknown_key_is_not_found(maas: Maas, fake: FakeServer) -> None:
    problem = NotFound("there is no key 'nosuch'").to_problem()
    fake.answers("GET", "/api/v1/usage", problem, status=404)
    assert maas("usage", "--key", "nosuch") == (3, "", "error: there is no key 'nosuch'\n")


def test_usage_is_written_with_separators(maas: Maas, fake: FakeServer) -> None:
    row = {
        "day": "2026-01-01", "key_id": "k1", "key_name": "ada", "deployment": "iris",
        "operation": "predict", "requests": 125244, "rows": 1250000, "errors": 0,
        "compute_us": 12345678, "prompt_tokens": 0, "completion_tokens": 7,
    }  # fmt: skip
    fake.answers("GET", "/api/v1/usage", {"usage": [row]})
    _, line = maas("usage").out.splitlines()
    assert line.split() == [
        "2026-01-01", "k1", "ada", "iris", "predict", "125,244", "1,250,000", "0", "12.35", "s",
        "0", "7",
    ]  # fmt: skip


def test_status_shows_why_desired_and_actual_differ(maas: Maas, fake: FakeServer) -> None:
    replica = {"id": "r-1", "version": 1, "variant": "onnx", "state": "starting", "pid": 7}
    raw = deployment(ready=0, state="starting", reason="loading", replicas=[replica], default=True)
    fake.answers("GET", "/api/v1/status", {"version": "0.1", "deployments": [raw]})
    out = maas("status").out
    assert "iris (default)" in out
    assert "0/2" in out
    assert "loading" in out
    assert "r-1" in out


def test_logs_without_a_server_come_from_its_files(
    maas: Maas, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "control.log").write_text("one\ntwo\nthree\n")
    monkeypatch.setenv("MAAS_BASE_URL", "http://127.0.0.1:1")
    assert maas("logs").out == "control\n"
    assert maas("logs", "control", "-n", "2").out == "two\nthree\n"
    assert maas("logs", "nosuch").code == 3


def test_doctor_works_without_a_server(maas: Maas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAAS_BASE_URL")
    monkeypatch.delenv("MAAS_API_KEY")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MAAS_SERVER__PORT", str(listener.getsockname()[1]))
        result = maas("doctor", "-o", "json")
    checks = {c["what"]: c for c in json.loads(result.out)}
    assert checks["port"]["outcome"] == "fail"
    assert "--port" in checks["port"]["advice"]
    assert checks["server"]["advice"] == "maas up"
    assert checks["home"]["outcome"] == checks["clock"]["outcome"] == "ok"
    assert result.code == 1


def test_status_when_another_server_has_the_address(maas: Maas, fake: FakeServer) -> None:
    fake.answers("GET", "/api/v1/status", Unauthenticated().to_problem(), status=401)
    result = maas("status")
    assert result.code == 4
    for part in (fake.url, "home, for which none runs", "MAAS_API_KEY"):
        assert part in result.err


def test_doctor_checks_the_key(maas: Maas, fake: FakeServer) -> None:
    fake.answers("GET", "/readyz", {})
    fake.answers("GET", "/livez", {})
    fake.answers("GET", "/api/v1/status", Forbidden("revoked").to_problem(), status=403)
    result = maas("doctor")
    assert "fail  key        revoked" in result.out
    fake.answers("GET", "/api/v1/status", {"version": "9"})
    assert "accepted by OpenMaaS 9" in maas("doctor").out + maas("doctor").out


def test_down_without_a_server_succeeds(maas: Maas) -> None:
    result = maas("down")
    assert result.code == 0
    assert "no server runs" in result.err


def test_pickles_are_refused_before_anything_is_read(maas: Maas, fake: FakeServer) -> None:
    Path("net.pt").write_bytes(b"PK")
    result = maas("publish", "net.pt")
    assert result.code == 1
    assert "Load it yourself" in result.err
    assert not fake.requests


def test_an_answer_is_bounded_and_the_limit_is_reported(maas: Maas, fake: FakeServer) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "on and"}, "finish_reason": "length"}]}
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    fake.answers_bytes(
        "POST", "/v1/chat/completions", stream, **{"content-type": "text/event-stream"}
    )
    assert maas("chat", "writer", "Hi") == (
        0, "on and\n", "(stopped at the limit of tokens; --max-tokens sets it)\n",
    )  # fmt: skip
    maas("chat", "writer", "Hi", "--max-tokens", "9")
    assert [request.json()["max_tokens"] for request in fake.requests] == [1024, 9]
