"""A gateway on a real loopback socket, with a replica that generates scripted text."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece, ToolCallPiece
from maas.domain.keys import Key, Scope, hash_token
from maas.domain.signature import Signature, TensorSpec
from maas.domain.snapshot import DeploymentRoutes, Snapshot, TargetRoute
from maas.gateway.app import Handlers, TaskHandlers, TextHandlers, route_table
from maas.gateway.calls import CallContext
from maas.gateway.http.auth import HostCheck, KeyRing
from maas.gateway.http.large_bodies import LargeBodies
from maas.gateway.http.routes import Route as HttpRoute
from maas.gateway.http.routes import RouteAccess
from maas.gateway.http.server import HttpServer
from maas.gateway.metering import COMPLETION, PROMPT, Meter
from maas.gateway.text.generation import TextService
from maas.serving.routing.router import Router
from maas.serving.wire.channel import Channel
from maas.serving.wire.generation_frames import pack_pieces, unpack_generate
from maas.serving.wire.messages import Failure, FrameKind, pack_failure, unpack_cancel
from maas.settings import ServerSettings

TOKEN = "maas_k1_secret"
CALLER = Key("k1", "caller", (Scope.CALL, Scope.READ), hash_token(TOKEN))
READER = Key("k2", "reader", (Scope.READ,), hash_token("maas_k2_secret"))
SIGNATURE = Signature(
    (TensorSpec("prompt", "BYTES", ()),), (TensorSpec("text", "BYTES", ()),),
    example={"prompt": "Hello"},
)  # fmt: skip


@dataclass
class Script:
    """The output of one generation."""

    pieces: list[Piece]
    reason: str = "stop"
    prompt_tokens: int = 7
    pause: float = 0.0
    """Seconds before each piece."""
    error: MaasError | None = None
    """Sent after the pieces, in place of an ending."""
    stop: str = ""
    compute_us: int = 0
    at_once: bool = False
    """Whether all pieces are sent in one frame."""


def words(*texts: str, **fields: Any) -> Script:
    """A script with one token per text; `fields` are further fields of Script."""
    return Script([Piece(text, tokens=1) for text in texts], **fields)


HELLO = {"model": "llm", "messages": [{"role": "user", "content": "Hi"}]}
MESSAGE = HELLO | {"max_tokens": 50}
CHAT, MESSAGES, COMPLETIONS = "/v1/chat/completions", "/v1/messages", "/v1/completions"
SLOW = words(*["word "] * 2000, pause=0.005)
CALLS = Script(
    [
        Piece("Let me see. ", 3),
        Piece(tool_calls=[ToolCallPiece(0, "call_1", "weather", "")]),
        Piece(tokens=2, tool_calls=[ToolCallPiece(0, arguments='{"city": ')]),
        Piece(tokens=2, tool_calls=[ToolCallPiece(0, arguments='"Lisbon"}')]),
    ],
    reason="tool_calls",
)


@dataclass
class TextReplica:
    """A replica whose connections share a script and counts."""

    script: Callable[[Generation], Script]
    generations: list[Generation] = field(default_factory=list)
    running: dict[tuple[int, int], asyncio.Task[None]] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cancelled: int = 0
    links: list[_Link] = field(default_factory=list)


class _Link(Channel):
    def __init__(self, replica: TextReplica) -> None:
        super().__init__()
        self._replica = replica
        replica.links.append(self)

    def opened(self) -> None:
        pass

    def closed(self, reason: Exception | None) -> None:
        for (link, _), task in list(self._replica.running.items()):
            if link == id(self):
                task.cancel()

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.GENERATE:
            message = unpack_generate(memoryview(bytes(body)))
            self._replica.generations.append(message.generation)
            key = (id(self), message.id)
            task = asyncio.ensure_future(self._generate(message.id, message.generation))
            self._replica.running[key] = task
            task.add_done_callback(lambda _: self._replica.running.pop(key, None))
        elif kind == FrameKind.CANCEL:
            for number in unpack_cancel(body):
                running = self._replica.running.get((id(self), number))
                if running is not None:
                    self._replica.cancelled += 1
                    running.cancel()

    async def _generate(self, number: int, generation: Generation) -> None:
        script = self._replica.script(generation)
        tokens = 0
        reason = script.reason
        try:
            if script.at_once:
                tokens = len(script.pieces)
                self.send(pack_pieces([(number, piece, None) for piece in script.pieces]))
            for piece in () if script.at_once else script.pieces:
                await asyncio.sleep(script.pause)
                tokens += piece.tokens
                self.send(pack_pieces([(number, piece, None)]))
            if script.pause:
                await asyncio.sleep(script.pause)
        except asyncio.CancelledError:
            reason = "cancelled"
        if script.error is not None and reason != "cancelled":
            self.send(pack_failure(Failure(number, script.error)))
            return
        self._replica.prompt_tokens += script.prompt_tokens
        self._replica.completion_tokens += tokens
        ending = Ending(
            reason, script.prompt_tokens, tokens, stop=script.stop, compute_us=script.compute_us
        )
        self.send(pack_pieces([(number, Piece(), ending)]))


@dataclass
class TextGateway:
    """A gateway with the deployments `llm`, which generates text, and `digits`, which does not."""

    port: int
    loop: asyncio.AbstractEventLoop
    replica: TextReplica
    service: TextService
    server: HttpServer
    stop: threading.Event

    def use(self, script: Callable[[Generation], Script] | Script) -> None:
        """Generate the output in `script`, or in its result for each generation."""
        if isinstance(script, Script):
            fixed = script
            self.replica.script = lambda _: fixed
        else:
            self.replica.script = script

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The decoded answer, which must have status 200."""
        status, _, answer = self.post(path, body)
        assert status == 200, answer
        value: dict[str, Any] = json.loads(answer)
        return value

    def events(self, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
        """Name and data of each event of a streamed answer."""
        status, headers, answer = self.post(path, body | {"stream": True})
        assert status == 200, answer
        assert headers["content-type"].startswith("text/event-stream")
        return parse_events(answer)

    def post(
        self, path: str, body: dict[str, Any] | bytes, token: str = TOKEN, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {
            "Authorization": f"Bearer {token}", "Content-Type": "application/json"
        } | headers  # fmt: skip
        try:
            connection.request("POST", path, data, headers)
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return response.status, lower, response.read()
        finally:
            connection.close()

    def send(self, path: str, body: dict[str, Any]) -> socket.socket:
        """A connection on which this request was sent."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        client.sendall(head.encode() + data)
        return client

    def metered_tokens(self) -> tuple[int, int]:
        """Prompt tokens and completion tokens in the metrics."""
        totals = self.totals().values()
        return sum(t[PROMPT] for t in totals), sum(t[COMPLETION] for t in totals)

    def totals(self) -> dict[str, tuple[int, ...]]:
        return self.service.meter.totals("generations")

    def call(self, function: Callable[[], object]) -> None:
        """Run `function` in the server's loop and wait for it."""
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self.loop.call_soon_threadsafe(run)
        if not done.wait(5):
            raise TimeoutError


async def _serve(
    directory: Path, box: list[TextGateway], ready: threading.Event, timeout_s: float
) -> None:
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    replica = TextReplica(lambda _: words("Hello", " there"))
    path = str(directory / "replica.sock")
    peer = await loop.create_unix_server(lambda: _Link(replica), path)
    meter = Meter(directory / "usage", directory, "g1")
    router = Router()
    target = TargetRoute(
        1, "gguf", 100, SIGNATURE, (path,), task="text-generation", published_at=5.0
    )
    other = TargetRoute(1, "onnx", 100, SIGNATURE, (), task="regression")
    deployments = (
        DeploymentRoutes("llm", "llm", (target,), 64),
        DeploymentRoutes("digits", "digits", (other,), 64),
    )
    router.apply(Snapshot(1, deployments, (), None))
    keys = KeyRing()
    keys.replace([CALLER, READER])
    service = TextService(CallContext(router, meter, LargeBodies(), timeout_s))
    blank: Any = _Blank()
    ready_route = HttpRoute("GET", "/readyz", RouteAccess.PUBLIC, blank.x)
    metrics_route = HttpRoute("GET", "/metrics", Scope.READ, blank.x)
    handlers = Handlers(
        predict=blank,
        oip=blank,
        text=TextHandlers(service),
        tasks=TaskHandlers(blank),
        proxy=blank,
        ready=ready_route,
        metrics=metrics_route,
    )
    server = HttpServer(route_table(handlers, ServerSettings()), keys, HostCheck(()))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    await server.listen(listening, None)
    while not router.get("llm").targets[0].is_ready:
        await asyncio.sleep(0.002)
    box.append(TextGateway(port, loop, replica, service, server, stop))
    ready.set()
    while not stop.is_set():
        await asyncio.sleep(0.01)
    await server.drain(0.0, service.stop_all)
    await service.settle(2.0)
    router.close()
    peer.close()
    await asyncio.sleep(0.02)
    meter.close()


class _Blank:
    """Has every handler. None is called."""

    def __getattr__(self, name: str) -> Any:
        def handler(*_: object) -> None:
            raise AssertionError(name)

        return handler


def parse_events(answer: bytes) -> list[tuple[str, Any]]:
    """Name and data of each event."""
    events = []
    for block in answer.decode().removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        events.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return events


@pytest.fixture
def text_gateway(tmp_path: Path) -> Iterator[TextGateway]:
    with running_text_gateway(tmp_path) as running:
        yield running


@contextmanager
def running_text_gateway(directory: Path, timeout_s: float = 600.0) -> Iterator[TextGateway]:
    """`timeout_s`: the longest time for one request, in seconds."""
    ready = threading.Event()
    box: list[TextGateway] = []
    thread = threading.Thread(
        target=lambda: uvloop.run(_serve(directory, box, ready, timeout_s)), daemon=True
    )
    thread.start()
    if not ready.wait(10):
        raise TimeoutError
    try:
        yield box[0]
    finally:
        box[0].stop.set()
        thread.join(15)
