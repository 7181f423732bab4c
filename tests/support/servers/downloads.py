"""An HTTP(S) server for downloads with byte ranges and configurable faults."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Turn:
    """Fault in the response to one request for a path."""

    status: int = 0
    """Status instead of 200 or 206."""
    cut: int | None = None
    """Bytes after which the connection breaks."""
    stall_s: float = 0.0
    """Pause after `cut` bytes before the connection breaks."""
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)


class DownloadServer:
    """A file server; each fault of a path affects one request, later requests succeed."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.kinds: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.turns: dict[str, deque[Turn]] = defaultdict(deque)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """(path, range or '', headers in lower case)"""
        self.url = ""
        self.ca_file = ""

    def ranges(self, path: str) -> list[str]:
        return [byte_range for requested, byte_range, _ in self.requests if requested == path]

    def add_hub_repository(
        self, name: str, commit: str, files: dict[str, bytes], card: dict[str, Any] | None = None
    ) -> None:
        """A repository in the format of the Hub's API; files above 1,000 bytes are in LFS."""
        siblings = []
        for path, content in files.items():
            sibling: dict[str, Any] = {"rfilename": path, "size": len(content)}
            git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            sibling["blobId"] = git.hexdigest()
            if len(content) > 1000:
                digest = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
            self.files[f"/{name}/resolve/{commit}/{path}"] = content
        document: dict[str, Any] = {"id": name, "sha": commit, "siblings": siblings}
        document |= {
            "cardData": card or {},
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "private": False,
        }
        for place in ("", "/revision/main", f"/revision/{commit}"):
            path = f"/api/models/{name}{place}"
            self.files[path] = json.dumps(document).encode()
            self.kinds[path] = "application/json"


@contextmanager
def download_server(folder: Path | None = None) -> Iterator[DownloadServer]:
    """Runs the server: HTTPS with a self-signed certificate in `folder`, or HTTP without one."""
    server = DownloadServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _answer(self, server)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Ignores broken connections, which tests cause on purpose."""

    http = Quiet(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    scheme = "http"
    if folder is not None:
        scheme = "https"
        certificate, key = self_made_certificate(folder)
        server.ca_file = str(certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    server.url = f"{scheme}://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=lambda: http.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def self_made_certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) for 127.0.0.1 and localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the test's certificate, is missing")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def _answer(handler: BaseHTTPRequestHandler, server: DownloadServer) -> None:
    path = handler.path.partition("?")[0]
    byte_range = handler.headers.get("range", "")
    named = {k.lower(): v for k, v in handler.headers.items()}
    server.requests.append((path, byte_range, named))
    turn = server.turns[path].popleft() if server.turns[path] else Turn()
    if path in server.redirects:
        handler.send_response(302)
        handler.send_header("Location", server.redirects[path])
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    if path not in server.files or turn.status >= 400:
        handler.send_response(turn.status or 404)
        for name, value in turn.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    content = server.files[path]
    match = re.fullmatch(r"bytes=(\d+)-", byte_range) if turn.ranges else None
    start = int(match[1]) if match else 0
    if start >= len(content) and match:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(content)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if match else 200)
    if match:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Type", server.kinds.get(path, "application/octet-stream"))
    handler.send_header("Content-Length", str(len(content) - start))
    for name, value in turn.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    body = content[start:]
    handler.wfile.write(body if turn.cut is None else body[: turn.cut])
    if turn.cut is not None:
        handler.wfile.flush()
        time.sleep(turn.stall_s)
        handler.close_connection = True
        handler.connection.close()
