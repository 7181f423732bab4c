"""A server with the network of the article as a deployment, and requests to it."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.clients import raw_http
from tests.support.servers.maas import Stack, running

LIMIT = 32 << 20
JSON_LIMIT = 8 << 20
"""Limit of `/predict`, because decoding JSON delays other requests."""
ROW = list(range(1, 11))
PREDICT = "/predict/article"
INFER = "/v2/models/article/infer"
EXPLAIN = "/explain/article"
LIMITS = ((PREDICT, JSON_LIMIT), (INFER, LIMIT))
DEEP = 100_000


def network() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 1)).eval()


def network_outputs(rows: list[list[float]]) -> list[float]:
    with torch.no_grad():
        values: list[float] = network()(torch.tensor(rows, dtype=torch.float32))[:, 0].tolist()
    return values


def send(
    stack: Stack, target: str, body: bytes, headers: dict[str, str] | None = None
) -> raw_http.RawAnswer:
    """POST `body` as JSON. `headers` replace the default ones; an empty value removes one."""
    merged = {
        "Host": f"127.0.0.1:{stack.port}",
        "Authorization": f"Bearer {stack.token}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    } | (headers or {})
    sent = raw_http.head("POST", target, {k: v for k, v in merged.items() if v}) + body
    answer = raw_http.exchange(stack.port, sent)
    assert answer is not None, "no answer"
    return answer


def refusal(answer: raw_http.RawAnswer) -> str:
    """Assert that `answer` is a refusal with a message, and return the message."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:300])
    assert " " in answer.sentence
    assert len(answer.sentence) < 1000
    return answer.sentence


def assert_works(stack: Stack) -> None:
    answer = send(stack, PREDICT, json.dumps({"x": ROW}).encode())
    assert answer.status == 200, answer.body
    (value,) = answer.json().values()
    assert value == pytest.approx(network_outputs([[float(v) for v in ROW]])[0], abs=1e-5)


@contextlib.contextmanager
def article_server(home: Path) -> Iterator[Stack]:
    """A server with the network as deployment `article`."""
    with running(home, {"MAAS_SERVER__MAX_BODY_BYTES": str(LIMIT)}) as stack:
        client = stack.client()
        client.publish(network(), name="article", example={"x": [float(v) for v in ROW]})
        client.deploy("article")
        yield stack


def assert_unharmed(stack: Stack) -> None:
    """Assert that the server answers correctly and logged no internal error."""
    assert_works(stack)
    value = stack.client().predict("article", {"x": ROW})
    assert all(math.isfinite(v) for v in value.values())
    status = stack.client().status()
    assert [d["state"] for d in status["deployments"] if d["name"] == "article"] == ["ready"]
    log = (stack.home / "logs" / "gateway.log").read_text()
    assert "incident" not in log
