"""Downloads from a real HTTPS server: complete, broken and hostile."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

from maas.domain.errors import (
    BodyTooLarge,
    Conflict,
    Forbidden,
    InvalidInput,
    MaasError,
    NotFound,
    OutOfSpace,
    StorageFailed,
    Unavailable,
)
from maas.lifecycle.sources import download, workspace
from maas.lifecycle.sources.base import Fetched, SourceAccess, SourceRequest
from maas.lifecycle.sources.kinds import fetch
from maas.lifecycle.sources.workspace import discard
from tests.support.servers.downloads import DownloadServer, Turn, download_server

CONTENT = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/models/small.gguf"


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.001)


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DownloadServer]:
    with download_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def server(https: DownloadServer) -> DownloadServer:
    for state in (https.files, https.kinds, https.redirects, https.turns):
        state.clear()
    https.requests.clear()
    https.files[PATH] = CONTENT
    return https


@pytest.fixture
def request_(server: DownloadServer, tmp_path: Path) -> SourceRequest:
    access = SourceAccess(tmp_path / "pulls", ca_file=server.ca_file)
    return SourceRequest(server.url + PATH, access, sha256=SHA256)


def pull(request: SourceRequest) -> Fetched:
    with workspace.workspace(request) as folder:
        return fetch(request, folder)


def refused(request: SourceRequest, kind: type[MaasError], message: str) -> None:
    with pytest.raises(kind, match=message):
        pull(request)


def test_progress_is_reported(request_: SourceRequest, server: DownloadServer) -> None:
    seen: list[tuple[str, int, int | None]] = []
    request = replace(request_, progress=lambda *now: seen.append(now))
    fetched = pull(replace(request, source=request.source + "?signature=secret"))
    assert fetched.files["small.gguf"].read_bytes() == CONTENT
    assert fetched.origin == {"kind": "https", "uri": server.url + PATH, "sha256": SHA256}
    assert seen[-1] == ("small.gguf", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_broken_connection_is_resumed(request_: SourceRequest, server: DownloadServer) -> None:
    server.turns[PATH] += [Turn(cut=1_000_000), Turn(status=503), Turn(cut=900_000)]
    assert pull(request_).files["small.gguf"].read_bytes() == CONTENT
    first, second, third, fourth = server.ranges(PATH)
    assert first == ""
    assert second == third != ""
    assert int(fourth.removeprefix("bytes=").rstrip("-")) > int(third[6:-1]) > 0


def test_a_killed_pull_resumes(request_: SourceRequest, server: DownloadServer) -> None:
    """kill -9 during a download, then the same download in this process."""
    server.turns[PATH].append(Turn(cut=2_000_000, stall_s=20))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from maas.lifecycle.sources.base import SourceAccess, SourceRequest\n"
        "from maas.lifecycle.sources.kinds import fetch\n"
        "from maas.lifecycle.sources.workspace import workspace\n"
        "source, folder, ca, sha = sys.argv[1:]\n"
        "request = SourceRequest(source, SourceAccess(Path(folder), ca_file=ca), sha256=sha)\n"
        "with workspace(request) as place:\n    fetch(request, place)\n"
    )
    words = [request_.source, str(request_.access.folder), server.ca_file, SHA256]
    process = subprocess.Popen([sys.executable, "-c", code, *words])
    partial = request_.access.folder
    ends = time.monotonic() + 20
    while not any(p.stat().st_size > 1_000_000 for p in partial.rglob("*.part")):
        assert process.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.02)
    with pytest.raises(Conflict, match="another maas pull"):
        pull(request_)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert pull(request_).files["small.gguf"].read_bytes() == CONTENT
    assert int(server.ranges(PATH)[-1][6:-1]) > 1_000_000


def test_a_server_without_ranges_sends_the_whole_file_again(
    request_: SourceRequest, server: DownloadServer
) -> None:
    server.turns[PATH] += [Turn(cut=1_000_000), Turn(ranges=False)]
    assert pull(request_).files["small.gguf"].read_bytes() == CONTENT


def test_a_partial_file_of_other_content_is_discarded(
    request_: SourceRequest, server: DownloadServer
) -> None:
    """The file at the address changed after the first part was downloaded."""
    server.files[PATH] = b"another" * 300_000
    server.turns[PATH] += [Turn(cut=1_000_000)] + [Turn(status=500)] * download.ATTEMPTS
    refused(request_, Unavailable, "resumes after [1-9]")
    server.files[PATH] = CONTENT
    assert pull(request_).files["small.gguf"].read_bytes() == CONTENT


def test_a_file_with_another_digest_is_refused_and_discarded(
    request_: SourceRequest, server: DownloadServer
) -> None:
    server.files[PATH] = CONTENT[:-1] + b"x"
    refused(request_, InvalidInput, f"should have the SHA-256 {SHA256}; the downloaded file has")
    assert not list(request_.access.folder.rglob("*.part"))


def test_without_a_digest_no_request_is_sent(
    request_: SourceRequest, server: DownloadServer
) -> None:
    refused(replace(request_, sha256=None), InvalidInput, "needs --sha256")
    assert server.requests == []


def test_a_web_page_is_refused(request_: SourceRequest, server: DownloadServer) -> None:
    server.files[PATH] = b"<!doctype html><title>Log in</title>"
    server.kinds[PATH] = "text/html; charset=utf-8"
    refused(request_, StorageFailed, "sent a web page and not a file")


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (403, Forbidden), (418, StorageFailed)]
)
def test_an_error_status_becomes_an_error(
    request_: SourceRequest, server: DownloadServer, status: int, kind: type[MaasError]
) -> None:
    server.turns[PATH].append(Turn(status=status))
    refused(request_, kind, f"127.0.0.1 responds with {status}")


def test_a_server_that_never_sends_is_abandoned(
    request_: SourceRequest, server: DownloadServer
) -> None:
    server.turns[PATH].extend([Turn(status=503)] * 50)
    refused(request_, Unavailable, "it responds with 503; the same command resumes")
    assert len(server.requests) == download.ATTEMPTS


def test_an_untrusted_certificate_is_refused(
    request_: SourceRequest, server: DownloadServer
) -> None:
    access = replace(request_.access, ca_file="")
    refused(
        replace(request_, access=access), Unavailable, "certificate of 127.0.0.1 is not trusted"
    )


def test_a_file_over_the_size_limit_is_refused(
    request_: SourceRequest, server: DownloadServer
) -> None:
    access = replace(request_.access, max_bytes=1_000_000)
    refused(replace(request_, access=access), BodyTooLarge, "pull.max_bytes")
    assert len(server.requests) == 1


def test_a_full_disk_is_reported(
    request_: SourceRequest, server: DownloadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    refused(
        request_, OutOfSpace, "1 bytes free; 3000000 are needed. Free some space or set MAAS_HOME"
    )


def test_redirects_are_followed(request_: SourceRequest, server: DownloadServer) -> None:
    server.redirects["/latest.gguf"] = "/then.gguf"
    server.redirects["/then.gguf"] = server.url + PATH
    fetched = pull(replace(request_, source=server.url + "/latest.gguf"))
    assert fetched.files["latest.gguf"].read_bytes() == CONTENT
    assert fetched.origin["uri"] == server.url + "/latest.gguf"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://127.0.0.1:1/x.gguf", "redirects to http://"),
        ("file:///etc/passwd", "redirects to file://"),
        ("/round.gguf", "more than 5 redirects"),
    ],
)
def test_unsafe_redirects_are_refused(
    request_: SourceRequest, server: DownloadServer, target: str, message: str
) -> None:
    server.redirects["/round.gguf"] = target
    refused(replace(request_, source=server.url + "/round.gguf"), StorageFailed, message)


def test_a_public_server_cannot_redirect_to_a_private_network(
    request_: SourceRequest, server: DownloadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server counts as public; its redirect leads to this machine."""
    server.redirects["/out.gguf"] = server.url.replace("127.0.0.1", "localhost") + PATH
    real = download._is_public
    monkeypatch.setattr(download, "_is_public", lambda host: host == "127.0.0.1" or real(host))
    refused(
        replace(request_, source=server.url + "/out.gguf"), StorageFailed, "of a private network"
    )
    assert server.ranges(PATH) == []


def test_public_addresses() -> None:
    for host in ("127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "localhost"):
        assert not download._is_public(host), host
    assert download._is_public("1.1.1.1")


@pytest.mark.parametrize(
    "source", ["http://127.0.0.1/x.gguf", "https://me:secret@127.0.0.1/x.gguf", "ftp://h/x"]
)
def test_invalid_addresses_are_refused(request_: SourceRequest, source: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        pull(replace(request_, source=source))
    assert "secret" not in caught.value.message


def test_a_finished_folder_can_be_removed(request_: SourceRequest) -> None:
    with workspace.workspace(request_) as folder:
        fetch(request_, folder)
        discard(folder)
    assert not list(request_.access.folder.rglob("*.gguf"))


def test_an_existing_file_is_verified(request_: SourceRequest, server: DownloadServer) -> None:
    file = pull(request_).files["small.gguf"]
    pull(request_)
    assert len(server.requests) == 1
    file.write_bytes(CONTENT[:-1] + b"x")
    assert pull(request_).files["small.gguf"].read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_headers_are_not_sent_to_redirect_targets(
    request_: SourceRequest, server: DownloadServer
) -> None:
    """A token for one server is not sent to a redirect's target."""
    with download_server() as other:
        other.files["/x"] = CONTENT
        server.redirects["/x"] = other.url + "/x"
        first = httpx2.URL(other.url + "/start")
        other.redirects["/start"] = server.url + PATH
        source = download.Download(
            first, workspace.ExpectedDigest(SHA256), headers={"authorization": "Bearer t"}
        )
        folder = request_.access.folder
        folder.mkdir()
        partial = workspace.PartialDownload(folder / "x", "x")
        download.download(source, partial, request_.access, lambda *_: None)
        assert other.requests[0][2]["authorization"] == "Bearer t"
        assert "authorization" not in server.requests[0][2]
