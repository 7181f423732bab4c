"""What commands print where, and with which exit code they end."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from maas.cli.commands import COMMANDS
from maas.cli.main import run
from maas.domain.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Unauthenticated,
)
from tests.support.fakes.scripted_server import FakeServer


class Said(NamedTuple):
    code: int
    out: str
    err: str


Maas = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def maas(
    home: Path,
    fake: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Maas:
    """Runs a command line against the fake server."""
    monkeypatch.setenv("MAAS_BASE_URL", fake.url)
    monkeypatch.setenv("MAAS_API_KEY", "maas_k_secret")

    def call(*words: str) -> Said:
        code = run(words)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "labels": ["length", "width"]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": []}],
    "example": {"x": [1, 2]},
}
SHA = "0" * 64


def version(number: int = 1) -> dict[str, Any]:
    file = {"name": "model.onnx", "sha256": SHA, "size": 10}
    variant = {"name": "onnx", "runtime": "onnx", "files": [file], "options": {}}
    manifest = {
        "model": "iris",
        "task": "regression",
        "signature": SIGNATURE,
        "variants": [variant],
    }
    evidence = {
        "kind": "metrics",
        "values": {"metrics": {"mae": 0.25}, "intervals": {"mae": [0.2, 0.3]}},
        "how": {"rows": 10},
    }
    return {
        "model": "iris",
        "number": number,
        "digest": "d" * 64,
        "manifest": manifest,
        "evidence": [evidence],
    }


def deployment(**changes: Any) -> dict[str, Any]:
    target = {"version": 1, "variant": "onnx", "weight": 100}
    return {
        "name": "iris",
        "model": "iris",
        "targets": [target],
        "scaling": {"replicas": 2, "max_batch": 8, "queue_limit": 16, "threads": 1},
        "revision": 1,
        "ready": 2,
        "desired": 2,
        "state": "ready",
    } | changes


def serves_iris(fake: FakeServer, **changes: Any) -> None:
    for method in ("GET", "PUT"):
        fake.says(method, "/api/v1/deployments/iris", deployment(**changes))
    for number in (1, 2):
        fake.says("GET", f"/api/v1/models/iris/versions/{number}", version(number))
    fake.says("GET", "/api/v1/models/iris/versions/latest", version(2))


def test_help_names_every_command_and_needs_no_server(maas: Maas) -> None:
    said = maas("--help")
    assert (said.code, said.err) == (0, "")
    assert all(f"  {name} " in said.out for name in COMMANDS)
    assert maas().out == said.out


def test_a_wrong_command_is_a_usage_error_with_the_nearest_right_one(maas: Maas) -> None:
    said = maas("rollbak", "iris")
    assert said.code == 2
    assert "rollback" in said.err
    assert said.out == ""
    assert maas("predict").code == 2
    assert maas("keys", "revoke").code == 2


def test_flags_before_the_command_are_heard(maas: Maas, fake: FakeServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        other = f"http://127.0.0.1:{taken.getsockname()[1]}"
        said = maas("--base-url", other, "status")
    assert said.code == 69
    assert other in said.err
    assert not fake.asked


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("gone"), 3),
        (Forbidden("no"), 4),
        (Conflict("both"), 5),
        (InvalidInput("x: bad"), 1),
        (Overloaded("full"), 69),
    ],
)
def test_errors_have_exit_codes(maas: Maas, fake: FakeServer, error: Any, code: int) -> None:
    fake.says("GET", "/api/v1/models", error.to_problem(), status=error.status)
    said = maas("models")
    assert said == (code, "", f"error: {error.message}\n")


def test_a_wrong_setting_is_78_and_named(maas: Maas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAAS_SERVER__PROT", "1")
    said = maas("status")
    assert said.code == 78
    assert "did you mean 'port'?" in said.err


def test_a_new_token_is_all_of_stdout(maas: Maas, fake: FakeServer) -> None:
    key = {"id": "k1", "name": "ada", "scopes": ["call", "read"], "token": "maas_k1_x"}
    fake.says("POST", "/api/v1/keys", key, status=201)
    said = maas("keys", "create", "ada", "--scope", "call,read")
    assert said.out == "maas_k1_x\n"
    assert "k1 (ada) may: call, read" in said.err
    assert fake.asked[0].json() == {"name": "ada", "scopes": ["call", "read"]}
    assert json.loads(maas("keys", "create", "ada", "-o", "json").out)["token"] == "maas_k1_x"


def test_tables_keep_whole_values(maas: Maas, fake: FakeServer) -> None:
    keys = [
        {"id": "k1", "name": "a" * 60, "scopes": ["call"], "created_at": 0, "revoked_at": None},
        {"id": "k2", "name": "b", "scopes": ["call"], "created_at": 0, "revoked_at": None},
    ]
    fake.says("GET", "/api/v1/keys", {"keys": keys})
    heading, first, second = maas("keys", "list").out.splitlines()
    assert heading.index("SCOPES") == first.index("call") == second.index("call")
    assert "a" * 60 in first


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (['{"x": [1, 2]}'], {"x": [1, 2]}),
        (["x=[1,2]", "name=ada", "n=3"], {"x": [1, 2], "name": "ada", "n": 3}),
        (["-f", "in.json"], {"x": [5]}),
    ],
)
def test_predict_takes_inputs_in_many_ways(
    maas: Maas, fake: FakeServer, words: list[str], sent: Any
) -> None:
    Path("in.json").write_text('{"x": [5]}')
    fake.says("POST", "/predict/iris", {"y": 0.5})
    said = maas("predict", "iris", *words)
    assert said == (0, "Y\n0.5\n", "")
    assert fake.asked[0].json() == sent


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("width,length,other\n2,1,9\n4,3,9\n", [[1, 2], [3, 4]]),
        ("a,b\n1,2\n", [[1, 2]]),
    ],
)
def test_predict_takes_a_table_by_the_names_of_the_features(
    maas: Maas, fake: FakeServer, text: str, sent: Any
) -> None:
    serves_iris(fake)
    fake.says("POST", "/predict/iris", {"label": [0, 1], "y": [0.5, 0.25]})
    Path("rows.csv").write_text(text)
    said = maas("predict", "iris", "-f", "rows.csv")
    assert fake.asked[-1].json() == {"x": sent}
    assert said.out.splitlines() == ["LABEL  Y", "0      0.5", "1      0.25"]


@pytest.mark.parametrize(
    "words",
    [["x"], ["=1"], ["{"], ["-f", "none.json"], [], ["x=1", "-f", "in.json"], ["-f", "bad.csv"]],
)
def test_predict_refuses_inputs_that_are_none(
    maas: Maas, fake: FakeServer, words: list[str]
) -> None:
    serves_iris(fake)
    Path("bad.csv").write_text("a,b\n1\n")
    said = maas("predict", "iris", *words)
    assert (said.code, said.out) == (1, "")
    assert not any(a.method == "POST" for a in fake.asked)


def test_deploy_changes_only_what_is_asked_for(maas: Maas, fake: FakeServer) -> None:
    serves_iris(fake)
    said = maas("deploy", "iris", "--threads", "2", "-o", "json")
    assert json.loads(said.out)["state"] == "ready"
    put = next(a for a in fake.asked if a.method == "PUT")
    assert put.json() == {
        "model": "iris",
        "scaling": {"threads": 2},
    }
    assert "the newest version is 2: `maas deploy iris` alone moves to it" in said.err
    assert "newest" not in maas("deploy", "iris").err


def test_deploy_with_a_weight_leaves_the_rest_to_who_has_it(maas: Maas, fake: FakeServer) -> None:
    serves_iris(fake)
    assert maas("deploy", "iris", "--version", "2", "--weight", "10").code == 0
    put = next(a for a in fake.asked if a.method == "PUT")
    assert put.json()["targets"] == [
        {"version": 1, "variant": "onnx", "weight": 900},
        {"version": 2, "variant": "onnx", "weight": 100},
    ]


def test_a_failed_deploy_shows_why_the_log_and_what_next(maas: Maas, fake: FakeServer) -> None:
    serves_iris(fake, state="failed", ready=0, reason="model.onnx is corrupt")
    fake.says_bytes("GET", "/api/v1/logs/iris", b"Traceback: it broke\n")
    said = maas("deploy", "iris")
    assert said.code == 1
    assert said.out == ""
    for part in ("model.onnx is corrupt", "Traceback: it broke", "maas rollback iris"):
        assert part in said.err


def test_undeploy_ends_a_deployment(maas: Maas, fake: FakeServer) -> None:
    fake.says("DELETE", "/api/v1/deployments/iris", status=204)
    said = maas("undeploy", "iris")
    assert (said.code, fake.count("DELETE", "/api/v1/deployments/iris")) == (0, 1)
    assert "its model stays" in said.err
    assert maas("undeploy", "nosuch").code == 3


def test_a_version_is_shown_with_its_evidence(maas: Maas, fake: FakeServer) -> None:
    serves_iris(fake)
    out = maas("models", "show", "iris").out
    for part in ("iris:2", "length, width", "model.onnx", "mae", "0.2 to 0.3"):
        assert part in out
    assert maas("models", "show", "iris", "--report", "r.html").code == 3


def test_status_says_why_desired_and_actual_differ(maas: Maas, fake: FakeServer) -> None:
    replica = {"id": "r-1", "version": 1, "variant": "onnx", "state": "starting", "pid": 7}
    raw = deployment(ready=0, state="starting", reason="loading", replicas=[replica], default=True)
    fake.says("GET", "/api/v1/status", {"version": "0.1", "deployments": [raw]})
    out = maas("status").out
    assert "iris (default)" in out
    assert "0/2" in out
    assert "loading" in out
    assert "r-1" in out


def test_logs_without_a_server_are_those_it_left(
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
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MAAS_SERVER__PORT", str(taken.getsockname()[1]))
        said = maas("doctor", "-o", "json")
    checks = {c["what"]: c for c in json.loads(said.out)}
    assert checks["port"]["outcome"] == "fail"
    assert "--port" in checks["port"]["advice"]
    assert checks["server"]["advice"] == "maas up"
    assert checks["home"]["outcome"] == checks["clock"]["outcome"] == "ok"
    assert said.code == 1


def test_status_of_a_home_whose_address_another_server_has(maas: Maas, fake: FakeServer) -> None:
    fake.says("GET", "/api/v1/status", Unauthenticated().to_problem(), status=401)
    said = maas("status")
    assert said.code == 4
    for part in (fake.url, "home, for which none runs", "MAAS_API_KEY"):
        assert part in said.err


def test_doctor_tries_the_key(maas: Maas, fake: FakeServer) -> None:
    fake.says("GET", "/readyz", {})
    fake.says("GET", "/livez", {})
    fake.says("GET", "/api/v1/status", Forbidden("revoked").to_problem(), status=403)
    said = maas("doctor")
    assert "fail  key        revoked" in said.out
    fake.says("GET", "/api/v1/status", {"version": "9"})
    assert "accepted by OpenMaaS 9" in maas("doctor").out + maas("doctor").out


def test_down_without_a_server_is_done(maas: Maas) -> None:
    said = maas("down")
    assert said.code == 0
    assert "no server runs" in said.err


def test_pickles_are_refused_before_anything_is_read(maas: Maas, fake: FakeServer) -> None:
    Path("net.pt").write_bytes(b"PK")
    said = maas("publish", "net.pt")
    assert said.code == 1
    assert "Load it yourself" in said.err
    assert not fake.asked


def test_an_answer_is_bounded_and_says_that_it_was_cut_off(maas: Maas, fake: FakeServer) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "on and"}, "finish_reason": "length"}]}
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    fake.says_bytes("POST", "/v1/chat/completions", stream, **{"content-type": "text/event-stream"})
    assert maas("chat", "writer", "Hi") == (
        0, "on and\n", "(cut off; --max-tokens allows longer answers)\n",
    )  # fmt: skip
    maas("chat", "writer", "Hi", "--max-tokens", "9")
    assert [asked.json()["max_tokens"] for asked in fake.asked] == [1024, 9]
