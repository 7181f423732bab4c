"""Both clients with responses, errors, broken connections, and without a server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import maas
from maas.domain.errors import (
    DeadlineExceeded,
    InvalidInput,
    MaasError,
    NotFound,
    Overloaded,
    Unavailable,
)
from tests.support.fakes.scripted_server import FakeServer

Run = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture(params=["blocking", "awaited"])
def run(request: pytest.FixtureRequest, fake: FakeServer) -> Run:
    """Runs `ask(client)` with either client against the scripted server."""
    return runner(request.param, fake.url)


def runner(kind: str, url: str, **options: Any) -> Run:
    def blocking(ask: Callable[[Any], Any]) -> Any:
        with maas.Client(url, "secret", **options) as client:
            return ask(client)

    def awaited(ask: Callable[[Any], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with maas.AsyncClient(url, "secret", **options) as client:
                return await ask(client)

        return asyncio.run(main())

    return blocking if kind == "blocking" else awaited


@pytest.fixture
def unused_url() -> Iterator[str]:
    """The URL of a port without a server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_prediction_sends_names_and_key_and_returns_plain_values(
    run: Run, fake: FakeServer
) -> None:
    fake.answers("POST", "/predict/article", {"y_pred": 0.5})
    assert run(lambda c: c.predict("article", x=[1, 2.5])) == {"y_pred": 0.5}
    (request,) = fake.requests
    assert request.json() == {"x": [1, 2.5]}
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["content-type"] == "application/json"


def test_a_problem_becomes_the_error_that_the_server_raised(run: Run, fake: FakeServer) -> None:
    sent = InvalidInput("x: expected [10]; got [5]", field="x", got=[5]).to_problem("r1")
    fake.answers("POST", "/predict/article", sent, status=422)
    with pytest.raises(InvalidInput, match=r"expected \[10\]") as caught:
        run(lambda c: c.predict("article", x=[1]))
    assert caught.value.details["field"] == "x"
    assert len(fake.requests) == 1


def test_a_503_with_retry_after_is_retried(run: Run, fake: FakeServer) -> None:
    busy = Overloaded("full", retry_after=0.01).to_problem()
    fake.answers("POST", "/predict/a", busy, status=503, headers={"retry-after": "0"})
    fake.answers("POST", "/predict/a", {"y": 1})
    assert run(lambda c: c.predict("a", x=1)) == {"y": 1}
    assert len(fake.requests) == 2


def test_a_503_without_retry_after_is_not_retried(run: Run, fake: FakeServer) -> None:
    fake.answers("POST", "/predict/a", Unavailable("no replica").to_problem(), status=503)
    with pytest.raises(Unavailable, match="no replica"):
        run(lambda c: c.predict("a", x=1))
    assert len(fake.requests) == 1


def test_retries_are_bounded(run: Run, fake: FakeServer) -> None:
    busy = Overloaded("full").to_problem()
    fake.answers("GET", "/api/v1/status", busy, status=503, headers={"retry-after": "0"})
    with pytest.raises(Overloaded):
        run(lambda c: c.status())
    assert len(fake.requests) == 3


def test_no_retry_starts_after_the_deadline(run: Run, fake: FakeServer) -> None:
    busy = Overloaded("full").to_problem()
    fake.answers("POST", "/predict/a", busy, status=503, headers={"retry-after": "3600"})
    with pytest.raises(Overloaded) as caught:
        run(lambda c: c.predict("a", x=1))
    assert caught.value.retry_after == 3600
    assert len(fake.requests) == 1


def test_a_prediction_is_retried_after_a_broken_connection(run: Run, fake: FakeServer) -> None:
    fake.drops("POST", "/predict/a")
    fake.answers("POST", "/predict/a", {"y": 2})
    assert run(lambda c: c.predict("a", x=1)) == {"y": 2}


def test_a_key_is_never_created_twice(run: Run, fake: FakeServer) -> None:
    fake.drops("POST", "/api/v1/keys")
    with pytest.raises(maas.ServerUnavailable, match="broke before POST /api/v1/keys"):
        run(lambda c: c.keys.create("ada"))
    assert len(fake.requests) == 1


def test_a_rollback_is_never_done_twice(run: Run, fake: FakeServer) -> None:
    fake.drops("POST", "/api/v1/deployments/a/rollback")
    with pytest.raises(maas.ServerUnavailable):
        run(lambda c: c.rollback("a"))
    assert len(fake.requests) == 1


def test_a_slow_response_times_out_and_is_not_retried(run: Run, fake: FakeServer) -> None:
    fake.answers("POST", "/predict/a", {"y": 1}, delay_s=1.0)
    with pytest.raises(DeadlineExceeded, match="did not answer POST /predict/a"):
        run(lambda c: c.predict("a", x=1, timeout=0.1))
    assert len(fake.requests) == 1


@pytest.mark.parametrize("kind", ["blocking", "awaited"])
def test_without_a_server_the_error_names_url_and_remedy(kind: str, unused_url: str) -> None:
    with pytest.raises(maas.ServerUnavailable) as caught:
        runner(kind, unused_url)(lambda c: c.status())
    assert unused_url in str(caught.value)
    assert "maas up" in str(caught.value)
    assert isinstance(caught.value, Unavailable)


def test_an_error_without_a_problem_document_keeps_its_status(run: Run, fake: FakeServer) -> None:
    fake.answers_bytes("GET", "/api/v1/models/a", b"<html>")
    with pytest.raises(MaasError, match="is not JSON"):
        run(lambda c: c.models.get("a"))
    fake.answers("GET", "/api/v1/models/b", status=404)
    with pytest.raises(NotFound):
        run(lambda c: c.models.get("b"))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_an_invalid_base_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="base_url"):
        maas.Client(url)


def test_a_key_with_a_line_break_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidInput, match="api_key"):
        maas.Client("http://127.0.0.1:1", "maas_x\r\nx-scope: admin")


def test_the_settings_key_goes_to_the_settings_server_only(
    monkeypatch: pytest.MonkeyPatch, fake: FakeServer
) -> None:
    monkeypatch.setenv("MAAS_BASE_URL", "http://elsewhere.example")
    monkeypatch.setenv("MAAS_API_KEY", "maas_secret")
    fake.answers("GET", "/api/v1/status", {})
    maas.Client(fake.url).status()
    assert "authorization" not in fake.requests[0].headers
    monkeypatch.setenv("MAAS_BASE_URL", fake.url)
    maas.Client().status()
    assert fake.requests[1].headers["authorization"] == "Bearer maas_secret"
