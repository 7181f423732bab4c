"""A gateway's doors for text on a real loopback socket, before a replica that writes what it is
told, at the pace it is told."""

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

import uvloop

from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece
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
from maas.gateway.metering import Meter
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
    """What is written for one generation."""

    pieces: list[Piece]
    reason: str = "stop"
    prompt_tokens: int = 7
    pause: float = 0.0
    """Seconds before each piece."""
    error: MaasError | None = None
    """Ends it, after the pieces, instead of an ending."""
    stop: str = ""
    compute_us: int = 0
    at_once: bool = False
    """All pieces in one frame."""


def words(*texts: str, **more: Any) -> Script:
    return Script([Piece(text, tokens=1) for text in texts], **more)


@dataclass
class Writer:
    """The replica: every connection shares its script and its counts."""

    script: Callable[[Generation], Script]
    asked: list[Generation] = field(default_factory=list)
    running: dict[tuple[int, int], asyncio.Task[None]] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cancelled: int = 0
    links: list[_Link] = field(default_factory=list)


class _Link(Channel):
    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer
        writer.links.append(self)

    def opened(self) -> None:
        pass

    def closed(self, reason: Exception | None) -> None:
        for (link, _), task in list(self._writer.running.items()):
            if link == id(self):
                task.cancel()

    def frame_received(self, kind: int, body: memoryview) -> None:
        if kind == FrameKind.GENERATE:
            message = unpack_generate(memoryview(bytes(body)))
            self._writer.asked.append(message.generation)
            key = (id(self), message.id)
            task = asyncio.ensure_future(self._write(message.id, message.generation))
            self._writer.running[key] = task
            task.add_done_callback(lambda _: self._writer.running.pop(key, None))
        elif kind == FrameKind.CANCEL:
            for number in unpack_cancel(body):
                found = self._writer.running.get((id(self), number))
                if found is not None:
                    self._writer.cancelled += 1
                    found.cancel()

    async def _write(self, number: int, generation: Generation) -> None:
        script = self._writer.script(generation)
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
        self._writer.prompt_tokens += script.prompt_tokens
        self._writer.completion_tokens += tokens
        ending = Ending(
            reason, script.prompt_tokens, tokens, stop=script.stop, compute_us=script.compute_us
        )
        self.send(pack_pieces([(number, Piece(), ending)]))


@dataclass
class Doors:
    port: int
    loop: asyncio.AbstractEventLoop
    writer: Writer
    service: TextService
    server: HttpServer
    stop: threading.Event

    def use(self, script: Callable[[Generation], Script] | Script) -> None:
        if isinstance(script, Script):
            made = script
            self.writer.script = lambda _: made
        else:
            self.writer.script = script

    def post(
        self, path: str, body: dict[str, Any] | bytes, token: str = TOKEN, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | headers
        try:
            connection.request("POST", path, data, sent)
            answer = connection.getresponse()
            named = {k.lower(): v for k, v in answer.getheaders()}
            return answer.status, named, answer.read()
        finally:
            connection.close()

    def send(self, path: str, body: dict[str, Any]) -> socket.socket:
        """A connection on which this was asked."""
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        client.sendall(head.encode() + data)
        return client

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


async def _serve(directory: Path, box: list[Doors], ready: threading.Event, longest: float) -> None:
    loop = asyncio.get_running_loop()
    stop = threading.Event()
    writer = Writer(lambda _: words("Hello", " there"))
    path = str(directory / "w.sock")
    peer = await loop.create_unix_server(lambda: _Link(writer), path)
    meter = Meter(directory / "usage", directory, "g1")
    router = Router()
    target = TargetRoute(
        1, "gguf", 100, SIGNATURE, (path,), task="text-generation", published_at=5.0
    )
    other = TargetRoute(1, "onnx", 100, SIGNATURE, (), task="regression")
    deployments = (
        DeploymentRoutes("writer", "writer", (target,), 64),
        DeploymentRoutes("digits", "digits", (other,), 64),
    )
    router.apply(Snapshot(1, deployments, (), None))
    keys = KeyRing()
    keys.replace([CALLER, READER])
    service = TextService(CallContext(router, meter, LargeBodies(), longest))
    blank: Any = _Blank()
    nothing = HttpRoute("GET", "/readyz", RouteAccess.PUBLIC, blank.x)
    metrics = HttpRoute("GET", "/metrics", Scope.READ, blank.x)
    handlers = Handlers(
        predict=blank,
        oip=blank,
        text=TextHandlers(service),
        tasks=TaskHandlers(blank),
        proxy=blank,
        ready=nothing,
        metrics=metrics,
    )
    server = HttpServer(route_table(handlers, ServerSettings()), keys, HostCheck(()))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    await server.listen(listening, None)
    while not router.get("writer").targets[0].is_ready:
        await asyncio.sleep(0.002)
    box.append(Doors(port, loop, writer, service, server, stop))
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
    """Has every handler, and none is called."""

    def __getattr__(self, name: str) -> Any:
        def never(*_: object) -> None:
            raise AssertionError(name)

        return never


@contextmanager
def doors(directory: Path, longest: float = 600.0) -> Iterator[Doors]:
    ready = threading.Event()
    box: list[Doors] = []
    thread = threading.Thread(
        target=lambda: uvloop.run(_serve(directory, box, ready, longest)), daemon=True
    )
    thread.start()
    if not ready.wait(10):
        raise TimeoutError
    try:
        yield box[0]
    finally:
        box[0].stop.set()
        thread.join(15)
