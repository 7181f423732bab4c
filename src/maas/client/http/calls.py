"""Building blocks of the operations of the SDK, without any I/O.

An operation is an `ApiCall` (one request, and how to parse its response) or a `Flow`: a generator
that yields steps and is sent their results. The drivers of both clients run them, so that each
operation is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec

from maas.domain.errors import ERRORS_BY_CODE, MaasError, error_from_problem

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

JSON = "application/json"
_OTHER_CODES = {"invalid_api_key": "unauthenticated", "rate_limit_exceeded": "overloaded"}
"""Codes of OpenAI's protocol that differ from ours."""


@dataclass(frozen=True)
class ApiReply:
    """A complete response of the server."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MaasError(
                f"the response (status {self.status}) is not JSON; is this an OpenMaaS server?"
            ) from None


@dataclass(frozen=True)
class ApiCall(Generic[T_co]):
    """One request, and how to parse its response."""

    method: str
    path: str
    parse: Callable[[ApiReply], T_co]
    safe: bool = False
    """Whether the request is idempotent; only then is it retried."""
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = JSON
    file: Path | None = None
    """A file that is streamed as the body, instead of `body`."""
    timeout: float | None = None
    """Seconds for all attempts together; None takes the timeout of the client."""
    allow: frozenset[int] = frozenset()
    """Statuses from 400 on that `parse` handles itself."""

    def read(self, reply: ApiReply) -> T_co:
        """The parsed response. Raises the error that the server reported."""
        if reply.status < 400 or reply.status in self.allow:
            return self.parse(reply)
        raise error_of(reply)


@dataclass(frozen=True)
class WaitStep:
    """A step of a flow that sleeps."""

    seconds: float


@dataclass(frozen=True)
class ComputeStep:
    """A step of a flow that computes; the asynchronous client runs it in a thread."""

    run: Callable[[], Any]


@dataclass(frozen=True)
class Awaitable:
    """A step of a flow that is a coroutine; the synchronous client runs it in an event loop."""

    start: Callable[[], Coroutine[Any, Any, Any]]
    stopped: Callable[[], Any]
    """Returns the result of the step if Ctrl-C interrupts the synchronous client."""


Step: TypeAlias = ApiCall[Any] | WaitStep | ComputeStep | Awaitable
Flow: TypeAlias = Generator[Step, Any, T]


def error_of(reply: ApiReply) -> MaasError:
    """The error for a response with status 400 or above, whichever server sent it."""
    problem: Any = None
    if "json" in reply.headers.get("content-type", ""):
        try:
            problem = msgspec.json.decode(reply.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            problem = None
    error = error_in(problem, reply.status)
    if error.retry_after is None:
        error.retry_after = retry_after(reply)
    return error


def error_in(body: Any, status: int) -> MaasError:
    """The error that a JSON body describes: a problem document, or OpenAI's shape."""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        error = body["error"]
        code = _OTHER_CODES.get(str(error.get("code")), error.get("code"))
        body = {"code": code or _code_of(status), "detail": error.get("message")}
    if not isinstance(body, dict) or "code" not in body:
        body = {
            "code": _code_of(status),
            "detail": f"the server answered {status} without detail",
        }
    return error_from_problem(body)


def retry_after(reply: ApiReply) -> float | None:
    """The seconds of the `Retry-After` header; None without one."""
    try:
        seconds = float(reply.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def path(*parts: str | int) -> str:
    """An absolute path; each part is quoted, so that it stays one segment."""
    return "/" + "/".join(quote(str(part), safe="") for part in parts)


def _code_of(status: int) -> str:
    codes = {kind.status: code for code, kind in reversed(list(ERRORS_BY_CODE.items()))}
    return codes.get(status, "unavailable" if status in (502, 503) else "internal")
