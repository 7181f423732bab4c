"""HTTP/1.1 over a plain socket, for requests that client libraries cannot send."""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RawAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def sentence(self) -> str:
        """The message of an error, in either of the two formats."""
        raw = self.json()
        return str(raw.get("detail") or raw.get("error") or "")


def head(method: str, target: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunked(body: bytes, size: int = 1 << 16) -> bytes:
    """`body` in chunks, with the last one."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def exchange(port: int, data: bytes, *, half_close: bool = False) -> RawAnswer | None:
    """Send bytes and read one answer; None if the server closed the connection without one.

    `half_close` closes the sending side afterwards, as a client does that stops early.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        # After a refusal, the server may close the connection before all bytes are data.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            return read_answer(connection, has_body=not data.startswith(b"HEAD "))
    return None


def read_answer(connection: socket.socket, *, has_body: bool = True) -> RawAnswer | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(1 << 16)
        if not piece:
            return None
        data += piece
    start, _, body = data.partition(b"\r\n\r\n")
    first, *rest = start.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}
    length = int(headers.get("content-length", 0)) if has_body else 0
    while len(body) < length:
        piece = connection.recv(1 << 16)
        if not piece:
            break
        body += piece
    return RawAnswer(int(first.split(" ")[1]), headers, body[:length])
