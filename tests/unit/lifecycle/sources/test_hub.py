"""Pulls from a small server with the Hub's API, through the real huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from maas.domain.errors import Forbidden, InvalidInput, MaasError, NotFound, Unavailable
from maas.lifecycle.sources import download
from maas.lifecycle.sources.base import Fetched, SourceAccess, SourceRequest
from maas.lifecycle.sources.kinds import fetch
from maas.lifecycle.sources.workspace import workspace
from tests.support.servers.downloads import DownloadServer, Turn, download_server

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")

COMMIT = "c" * 40
REPOSITORY = "tester/tiny-encoder"
FILES = {
    "README.md": b"# Tiny",
    "config.json": b'{"hidden_size": 2}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 8000,
    "pytorch_model.bin": b"\x80\x02" * 4000,
    "onnx/model.onnx": b"o" * 5000,
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
}
LARGE = f"/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.001)


@pytest.fixture
def hub() -> Iterator[DownloadServer]:
    with download_server() as server:
        server.add_hub_repository(REPOSITORY, COMMIT, FILES, {"license": "apache-2.0"})
        yield server


@pytest.fixture
def request_(hub: DownloadServer, tmp_path: Path) -> SourceRequest:
    return SourceRequest(
        f"hf://{REPOSITORY}", SourceAccess(tmp_path / "pulls", hf_endpoint=hub.url)
    )


def pull(request: SourceRequest) -> Fetched:
    with workspace(request) as folder:
        return fetch(request, folder)


def test_a_repository_is_pinned_to_its_commit(request_: SourceRequest, hub: DownloadServer) -> None:
    fetched = pull(replace(request_, source=request_.source + "@main"))
    assert {name: path.read_bytes() for name, path in fetched.files.items()} == {
        "config.json": FILES["config.json"],
        "tokenizer.json": FILES["tokenizer.json"],
        "model.safetensors": FILES["model.safetensors"],
        "1_Pooling.config.json": FILES["1_Pooling/config.json"],
    }
    assert fetched.license == "apache-2.0"
    assert fetched.origin == {
        "kind": "hf",
        "uri": f"hf://{REPOSITORY}@{COMMIT}",
        "commit": COMMIT,
        "revision": "main",
    }
    assert not [path for path, _, _ in hub.requests if "pytorch_model" in path]


def test_a_broken_download_resumes(request_: SourceRequest, hub: DownloadServer) -> None:
    hub.turns[LARGE] += [Turn(cut=1_000_000)] + [Turn(status=503)] * download.ATTEMPTS
    with pytest.raises(Unavailable, match="resumes after"):
        pull(request_)
    fetched = pull(request_)
    assert fetched.files["model.safetensors"].read_bytes() == FILES["model.safetensors"]
    assert hub.ranges(LARGE)[-1] != ""


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_file_with_another_digest_than_the_commit_is_refused(
    request_: SourceRequest, hub: DownloadServer, path: str
) -> None:
    """Large files are verified by SHA-256, small ones by git's object id."""
    content = FILES[path]
    hub.files[f"/{REPOSITORY}/resolve/{COMMIT}/{path}"] = content[:-1] + b"!"
    with pytest.raises(InvalidInput, match=f"{path} should have the"):
        pull(request_)


def test_a_file_of_several_can_be_chosen(request_: SourceRequest, hub: DownloadServer) -> None:
    files = {"a-q4.gguf": b"a" * 2000, "a-q8.gguf": b"b" * 3000, "config.json": b"{}"}
    hub.add_hub_repository("tester/many", COMMIT, files)
    request = replace(request_, source="hf://tester/many")
    with pytest.raises(InvalidInput, match=r"several models.*--file: a-q4\.gguf, a-q8\.gguf"):
        pull(request)
    assert list(pull(replace(request, file="a-q8.gguf")).files) == ["a-q8.gguf"]
    with pytest.raises(InvalidInput, match=r"has no file 'b\.gguf'; it has a-q4\.gguf, "):
        pull(replace(request, file="b.gguf"))


def test_a_repository_of_pickles_is_refused(request_: SourceRequest, hub: DownloadServer) -> None:
    hub.add_hub_repository("tester/old", COMMIT, {"pytorch_model.bin": b"x", "config.json": b"{}"})
    with pytest.raises(InvalidInput, match="no weights in GGUF, safetensors, ONNX or CTranslate2"):
        pull(replace(request_, source="hf://tester/old"))


@pytest.mark.parametrize(
    ("status", "headers", "kind", "message"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, NotFound, "no model tester/tiny-encoder"),
        (404, {"X-Error-Code": "RevisionNotFound"}, NotFound, "no revision 'v2'"),
        (403, {"X-Error-Code": "GatedRepo"}, Forbidden, "requires accepting its terms"),
        (500, {}, Unavailable, "responds with 500"),
    ],
)
def test_errors_of_the_hub(
    request_: SourceRequest,
    hub: DownloadServer,
    status: int,
    headers: dict[str, str],
    kind: type[MaasError],
    message: str,
) -> None:
    path = f"/api/models/{REPOSITORY}/revision/v2"
    hub.files[path] = b"{}"
    hub.turns[path] += [Turn(status=status, headers=headers)] * 20
    with pytest.raises(kind, match=message):
        pull(replace(request_, source=request_.source + "@v2"))


def test_an_unreachable_hub_is_unavailable(request_: SourceRequest) -> None:
    access = replace(request_.access, hf_endpoint="http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot be reached for"):
        pull(replace(request_, access=access))


@pytest.mark.parametrize(
    "source", ["hf://one", "hf://a/b/c", "hf://a/../b", "hf://a/b@../x", "hf://"]
)
def test_invalid_repository_names_are_refused(request_: SourceRequest, source: str) -> None:
    with pytest.raises(InvalidInput, match="hf://org/repository"):
        pull(replace(request_, source=source))
