"""Faults around a publish on a whole server: killed publishers, broken uploads, damaged files."""

from __future__ import annotations

import hashlib
import http.client
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from tests.support.clients import raw_http
from tests.support.models.bundle import MEBIBYTE, bundle
from tests.support.models.onnx import echo_model
from tests.support.servers.maas import Stack, running, wait_until


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server with version 1 of `echo` deployed; version 2 doubles its input."""
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        for scale in (1.0, 2.0):
            path = echo_model(home / f"echo{scale:.0f}.onnx", scale=scale)
            client.publish(path, name="echo", example=[1.0, 2.0])
        client.deploy("echo", version=1)
        yield stack


PUBLISHER = """
import sys, maas
client = maas.Client(base_url=sys.argv[1], api_key=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
client.publish(sys.argv[3], name=sys.argv[4], example=[1.0, 2.0])
print("published", flush=True)
"""


def test_a_killed_publisher_can_publish_again(serving: Stack, tmp_path: Path) -> None:
    what = bundle("unused", tmp_path)
    path = tmp_path / "model.onnx"
    for number, delay in enumerate((0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)):
        name = f"killed-{number}"
        command = [sys.executable, "-c", PUBLISHER, serving.url, serving.token, str(path), name]
        publisher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if publisher.stdout is None or publisher.stdin is None:
            raise AssertionError("no pipes")
        assert publisher.stdout.readline() == "ready\n"
        publisher.stdin.write("go\n")
        publisher.stdin.flush()
        time.sleep(delay)
        publisher.kill()
        publisher.wait()
        models = {m["name"]: m for m in serving.client().models.list()}
        assert name not in models or models[name]["versions"] == 1
        published = serving.client().publish(path, name=name, example=[1.0, 2.0])
        assert published.number == 1
        for file in serving.client().models.version(name).version.manifest.files():
            assert serving.client().files.download(file.sha256) == what.contents[file.sha256]


def test_an_aborted_upload_leaves_nothing(serving: Stack) -> None:
    data = secrets.token_bytes(4 * MEBIBYTE)
    sha256 = hashlib.sha256(data).hexdigest()
    head = raw_http.head(
        "PUT",
        f"/api/v1/files/{sha256}",
        {
            "Host": "localhost",
            "Authorization": f"Bearer {serving.token}",
            "Content-Length": str(len(data)),
        },
    )
    with socket.create_connection(("127.0.0.1", serving.port)) as connection:
        connection.sendall(head + data[: 3 * MEBIBYTE])
    staging = serving.home / "artifacts" / "staging"
    wait_until(lambda: list(staging.glob("*")) == [], 60, "staging is empty")
    assert serving.request("GET", f"/api/v1/files/{sha256}")[0] == 404
    status, _, _ = serving.request("PUT", f"/api/v1/files/{sha256}", data[::-1])
    assert status == 422
    assert list(staging.glob("*")) == []
    assert serving.request("PUT", f"/api/v1/files/{sha256}", data)[0] == 201
    assert serving.request("GET", f"/api/v1/files/{sha256}")[2] == data


def flip(path: Path, at: int) -> None:
    """Flips a bit of the byte at an index, which counts from the end if it is negative."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.chmod(0o600)
    path.write_bytes(bytes(data))


def answer(stack: Stack, name: str) -> list[float]:
    status, _, body = stack.request("POST", f"/predict/{name}", {"x": [3, 4]})
    assert status == 200, body
    values: list[float] = json.loads(body)["y"]
    return values


def artifact(stack: Stack, ref: str) -> tuple[Path, Path]:
    """Paths of the model's stored file and of its cached copy."""
    (file,) = stack.client().models.version(ref).version.manifest.files()
    stored = stack.home / "artifacts" / "sha256" / file.sha256[:2] / file.sha256
    return stored, stack.home / "cache" / file.sha256


@pytest.mark.parametrize("place", ["both", "stored"])
@pytest.mark.parametrize("at", [0, 60, -1])
def test_loading_detects_a_flipped_bit_and_the_old_version_keeps_serving(
    serving: Stack, at: int, place: str
) -> None:
    stored, cached = artifact(serving, "echo:2")
    original = stored.read_bytes()
    flip(stored, at)
    if place == "both":
        cached.write_bytes(stored.read_bytes())
    else:
        cached.unlink(missing_ok=True)
    try:
        status, _, body = serving.request(
            "PUT", "/api/v1/deployments/echo", {"model": "echo", "version": 2}
        )
        assert status == 200, body
        reason = wait_until(lambda: failed(serving, "echo"), 60, "the deployment says failed")
        assert "artifact_corrupt" in reason or "is not the file that was published" in reason
        assert answer(serving, "echo") == [3.0, 4.0]
    finally:
        stored.write_bytes(original)
        serving.client().deploy("echo", version=1)
    assert answer(serving, "echo") == [3.0, 4.0]


def failed(stack: Stack, name: str) -> str:
    deployment = json.loads(stack.request("GET", f"/api/v1/deployments/{name}")[2])
    return str(deployment["reason"] or "") if deployment["state"] == "failed" else ""


def test_a_flipped_bit_in_the_cache_is_repaired_from_the_store(serving: Stack) -> None:
    stored, cached = artifact(serving, "echo:2")
    serving.client().deploy("again", model="echo", version=2)
    assert answer(serving, "again") == [6.0, 8.0]
    flip(cached, 60)
    (victim,) = serving.replica_pids("again")
    serving.kill(victim)
    wait_until(lambda: serving.replica_pids("again") not in ([], [victim]), 60)
    assert answer(serving, "again") == [6.0, 8.0]
    assert cached.read_bytes() == stored.read_bytes()
    serving.client().deployments.delete("again")


def test_a_download_of_a_damaged_file_is_aborted(serving: Stack) -> None:
    stored, _ = artifact(serving, "echo:2")
    original = stored.read_bytes()
    flip(stored, -1)
    try:
        with pytest.raises(http.client.IncompleteRead):
            serving.request("GET", f"/api/v1/files/{stored.name}")
        assert original != stored.read_bytes()
    finally:
        stored.write_bytes(original)
    assert (
        onnx.load_from_string(serving.request("GET", f"/api/v1/files/{stored.name}")[2]).graph.name
        == "echo"
    )
