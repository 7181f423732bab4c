"""What the operations of the SDK are made of, without any input or output.

An operation is a `ApiCall` (one request and how its answer is read) or a `Flow`: a generator that
yields steps and is sent their results. The clients only drive these, so that what an operation
does is written once for the synchronous and the asynchronous client.
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
"""What OpenAI's protocol calls some of our codes."""


@dataclass(frozen=True)
class ApiReply:
    """An answer of the server, read to its end."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MaasError(
                f"the answer (status {self.status}) is not JSON; is this an OpenMaaS server?"
            ) from None


@dataclass(frozen=True)
class ApiCall(Generic[T_co]):
    """One request, and what its answer means."""

    method: str
    path: str
    parse: Callable[[ApiReply], T_co]
    safe: bool = False
    """True if sending it twice does no more than sending it once; only then is it retried."""
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = JSON
    file: Path | None = None
    """Streamed as the body instead of `body`."""
    timeout: float | None = None
    """Seconds for all attempts together; None: the client's."""
    allow: frozenset[int] = frozenset()
    """Statuses from 400 that `parse` wants to see itself."""

    def read(self, reply: ApiReply) -> T_co:
        """The parsed answer; raises the error that the server reported."""
        if reply.status < 400 or reply.status in self.allow:
            return self.parse(reply)
        raise error_of(reply)


@dataclass(frozen=True)
class WaitStep:
    """A flow's step that waits."""

    seconds: float


@dataclass(frozen=True)
class ComputeStep:
    """A flow's step that computes for a while; the asynchronous client gives it a thread."""

    run: Callable[[], Any]


@dataclass(frozen=True)
class Awaitable:
    """A flow's step that is many things at once; the synchronous client gives it a loop."""

    start: Callable[[], Coroutine[Any, Any, Any]]
    stopped: Callable[[], Any]
    """What the synchronous client takes for its result if the user interrupts it (Ctrl-C)."""


Step: TypeAlias = ApiCall[Any] | WaitStep | ComputeStep | Awaitable
Flow: TypeAlias = Generator[Step, Any, T]


def error_of(reply: ApiReply) -> MaasError:
    """The error that an answer with status ≥ 400 stands for, whatever sent it."""
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


def error_in(said: Any, status: int) -> MaasError:
    """The error that a body describes: a problem document, or OpenAI's shape."""
    if isinstance(said, dict) and isinstance(said.get("error"), dict):
        inner = said["error"]
        code = _OTHER_CODES.get(str(inner.get("code")), inner.get("code"))
        said = {"code": code or _code_of(status), "detail": inner.get("message")}
    if not isinstance(said, dict) or "code" not in said:
        said = {
            "code": _code_of(status),
            "detail": f"the server answered {status} without saying why",
        }
    return error_from_problem(said)


def retry_after(reply: ApiReply) -> float | None:
    """Seconds that the answer asks to wait; None if it does not."""
    try:
        seconds = float(reply.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def path(*parts: str | int) -> str:
    """An absolute path whose parts are quoted, so that no part can become two."""
    return "/" + "/".join(quote(str(part), safe="") for part in parts)


def _code_of(status: int) -> str:
    plain = {kind.status: code for code, kind in reversed(list(ERRORS_BY_CODE.items()))}
    return plain.get(status, "unavailable" if status in (502, 503) else "internal")
