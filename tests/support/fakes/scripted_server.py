"""A small real HTTP server that sends scripted responses and records its requests."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class RecordedRequest:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class ScriptedResponse:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    """Close the connection instead of answering."""
    delay_s: float = 0.0


class FakeServer:
    """The responses of a route are used up one by one; the last one stays."""

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        self._responses: dict[tuple[str, str], deque[ScriptedResponse]] = defaultdict(deque)
        self.url = ""

    def answers(
        self, method: str, path: str, value: Any = None, status: int = 200, **how: Any
    ) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        kind = "application/problem+json" if status >= 400 else "application/json"
        headers = {"content-type": kind, **how.pop("headers", {})}
        self._responses[method, path].append(ScriptedResponse(status, body, headers, **how))

    def answers_bytes(self, method: str, path: str, body: bytes, **headers: str) -> None:
        self._responses[method, path].append(ScriptedResponse(200, body, headers))

    def drops(self, method: str, path: str) -> None:
        self._responses[method, path].append(ScriptedResponse(drop=True))

    def response_to(self, request: RecordedRequest) -> ScriptedResponse:
        self.requests.append(request)
        queue = self._responses[request.method, request.path.partition("?")[0]]
        if not queue:
            problem = {"code": "not_found", "status": 404, "detail": f"no {request.path} here"}
            body = json.dumps(problem).encode()
            return ScriptedResponse(404, body, {"content-type": "application/problem+json"})
        return queue.popleft() if len(queue) > 1 else queue[0]

    def count(self, method: str, path: str) -> int:
        return sum(r.method == method and r.path == path for r in self.requests)


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {k.lower(): v for k, v in self.headers.items()}
            request = RecordedRequest(self.command, self.path, headers, self.rfile.read(length))
            response = fake.response_to(request)
            time.sleep(response.delay_s)
            if response.drop:
                self.close_connection = True
                return
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            if "content-length" not in response.headers and response.status != 204:
                self.send_header("content-length", str(len(response.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that disconnects before a late response is not an error here."""

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
