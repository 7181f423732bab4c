"""Completion in a shell: commands, choices, and names from the server."""

from __future__ import annotations

import pytest

from tests.support.fakes.iris_deployment import deployment, line
from tests.support.fakes.scripted_server import FakeServer
from tests.unit.cli.conftest import Maas


@pytest.fixture
def server(fake: FakeServer) -> FakeServer:
    names = ("iris", "digits", "smollm2")
    deployments = [deployment(name=name) for name in names]
    fake.answers("GET", "/api/v1/deployments", {"deployments": deployments})
    models = [{"name": name} for name in ("iris-model", "article")]
    fake.answers("GET", "/api/v1/models", {"models": models})
    fake.answers("GET", "/api/v1/models/iris-model", {"versions": [line(1)]})
    keys = [
        {"id": "k1", "name": "ada", "scopes": ["call"], "created_at": 0, "revoked_at": None},
        {"id": "k2", "name": "bob", "scopes": ["call"], "created_at": 0, "revoked_at": 1.0},
    ]
    fake.answers("GET", "/api/v1/keys", {"keys": keys})
    job = {"id": "j1", "kind": "build", "name": "iris", "state": "running", "created_at": 0}
    fake.answers("GET", "/api/v1/jobs", {"jobs": [job]})
    return fake


def completed(maas: Maas, monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[list[str], str]:
    """The suggestions for the last word of a command line, and what goes to stderr."""
    words = ["maas", *text.split(" ")]
    monkeypatch.setenv("_MAAS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    result = maas()
    assert result.code == 0
    return result.out.split(), result.err


@pytest.mark.parametrize(
    ("text", "suggestions"),
    [
        ("depl", ["deploy", "deployments"]),
        ("keys re", ["revoke"]),
        ("predict ", ["iris", "digits", "smollm2"]),
        ("predict di", ["digits"]),
        ("chat smo", ["smollm2"]),
        ("usage --deployment i", ["iris"]),
        ("models show i", ["iris-model"]),
        ("deploy x --model art", ["article"]),
        ("keys revoke ", ["k1"]),
        ("usage --key k", ["k1"]),
        ("jobs show j", ["j1"]),
        ("deploy x --objective ", ["latency", "throughput"]),
        ("optimize x --objective m", ["memory"]),
        ("keys create x --scope call,r", ["call,read"]),
        ("predict iris -o ", ["table", "json", "csv"]),
        ("status -o j", ["json"]),
        ("pull smollm2-135m-i", ["smollm2-135m-instruct"]),
    ],
)
def test_names_and_choices_are_suggested(
    maas: Maas,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    suggestions: list[str],
) -> None:
    assert completed(maas, monkeypatch, text) == (suggestions, "")


@pytest.mark.parametrize("text", ["predict ", "models show ", "keys revoke ", "jobs show "])
def test_without_a_server_there_is_no_suggestion_and_no_message(
    maas: Maas, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("MAAS_BASE_URL", "http://127.0.0.1:1")
    assert completed(maas, monkeypatch, text) == ([], "")


def test_a_key_that_may_not_list_gets_no_suggestion(
    maas: Maas, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed(maas, monkeypatch, "predict ") == ([], "")
