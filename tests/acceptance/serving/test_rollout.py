"""Updates and shutdown under load lose no accepted request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients.load import LoadTarget, Report, closed_loop, open_loop, run_load
from tests.support.models.onnx import echo_model
from tests.support.servers.maas import Stack, running, wait_until

UPDATES = 20
RATE = 200.0
REQUESTS = 20_000


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A model with two versions: the first echoes its input, the second doubles it."""
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        for scale in (1.0, 2.0):
            path = echo_model(home / f"echo{scale:.0f}.onnx", scale=scale)
            client.publish(path, name="echo", example=[1.0, 2.0])
        client.deploy("echo", model="echo", version=1)
        yield stack


def test_twenty_rolling_updates_lose_no_request(versions: Stack) -> None:
    factors: set[float] = set()

    def check(number: int, answer: bytes) -> bool:
        high, low = json.loads(answer)["y"]
        sent = (number >> 20, number & 0xFFFFF)
        if low:
            factors.add(low / sent[1])
        return (high, low) in (sent, (2 * sent[0], 2 * sent[1]))

    async def run() -> Report:
        stop = asyncio.Event()
        load = asyncio.ensure_future(
            open_loop(
                LoadTarget(versions.port, "/predict/echo", versions.token, check=check),
                RATE,
                600.0,
                connections=32,
                stop=stop,
            )
        )
        client = versions.client()
        for update in range(UPDATES):
            await asyncio.sleep(REQUESTS / RATE / UPDATES)
            await asyncio.to_thread(
                client.deploy, "echo", model="echo", version=1 + (update + 1) % 2
            )
        await asyncio.sleep(2)
        stop.set()
        return await load

    report = run_load(run())
    assert report.errors() == {}
    assert report.total >= REQUESTS
    assert report.mismatches == report.unanswered == 0
    assert factors == {1.0, 2.0}


def test_a_version_that_cannot_be_loaded_gets_no_traffic(versions: Stack) -> None:
    client = versions.client()
    client.deploy("safe", model="echo", version=1)
    stored = versions.home / "artifacts"
    digest = client.models.version("echo:2").version.manifest.files()[0].sha256
    (file,) = stored.rglob(digest)
    original = file.read_bytes()
    damaged = bytearray(original)
    damaged[len(damaged) // 2] ^= 0x01
    file.chmod(0o600)
    file.write_bytes(bytes(damaged))
    for cached in (versions.home / "cache").rglob(digest):
        cached.unlink()
    try:
        versions.request("PUT", "/api/v1/deployments/safe", {"model": "echo", "version": 2})
        status = wait_until(lambda: _failed(versions, "safe"), 20, "the deployment has failed")
        assert "artifact_corrupt" in status or "SHA-256" in status
        code, _, body = versions.request("POST", "/predict/safe", {"x": [1, 2]})
        assert (code, json.loads(body)) == (200, {"y": [1.0, 2.0]})
    finally:
        file.write_bytes(original)


def _failed(stack: Stack, name: str) -> str:
    deployments = json.loads(stack.request("GET", "/api/v1/status")[2])["deployments"]
    deployment = next(d for d in deployments if d["name"] == name)
    return str(deployment["reason"]) if deployment["reason"] else ""


def test_sigterm_under_load_answers_accepted_requests(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        client.publish(echo_model(home / "echo.onnx"), name="echo", example=[1.0, 2.0])
        client.deploy("echo", model="echo")

        async def run() -> Report:
            stop = asyncio.Event()
            load = asyncio.ensure_future(
                closed_loop(
                    LoadTarget(stack.port, "/predict/echo", stack.token), 64, 30.0, stop=stop
                )
            )
            await asyncio.sleep(2.0)
            stack.supervisor.terminate()
            await asyncio.to_thread(stack.supervisor.wait, 60)
            stop.set()
            return await load

        report = run_load(run())
        assert report.outcomes["200"] > 500
        assert report.errors() == {}
        assert report.mismatches == report.unanswered == 0
        assert stack.supervisor.returncode == 0
        assert stack.processes() == []
