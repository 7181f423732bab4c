"""A prediction requested over HTTP, in any protocol: send it, meter it, respond."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import ClassVar
from zlib import crc32

from maas.domain.errors import BadRequest, MaasError, Unauthenticated
from maas.domain.keys import Key
from maas.gateway.http.large_bodies import LARGE_BYTES, LargeBodies
from maas.gateway.http.request import Request
from maas.gateway.metering import GenerationUsage, Meter
from maas.serving.routing.call import Call
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import Router
from maas.serving.wire.json_codec import Decoded
from maas.serving.wire.messages import Answers

log = logging.getLogger(__name__)

Encoded = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]
"""A response's body, content type and further headers."""

TIMEOUT_HEADER = b"x-request-timeout-ms"


@dataclass(frozen=True)
class CallContext:
    """The objects that every handler of predictions uses. The gateway process makes one."""

    router: Router
    meter: Meter
    large_bodies: LargeBodies
    timeout_s: float
    """Longest time for one request, in seconds. Clients may ask for less."""


class HttpCall(Call):
    """A call that carries an HTTP request to a replica and sends the response.

    Each protocol has a subclass.
    """

    __slots__ = ("context", "key", "request", "single", "target")

    operation: ClassVar[str] = "predict"
    """The operation under which usage is recorded."""
    encodes_in_thread: ClassVar[bool] = False
    """Whether `encode` has no side effects, so that a thread may encode a large answer."""

    def __init__(
        self,
        request: Request,
        target: LiveTarget,
        context: CallContext,
        decoded: Decoded,
        deadline: float | None = None,
    ) -> None:
        """`deadline` is a result of `deadline_of` if the caller has one already, in seconds on the
        monotonic clock."""
        self.key, tenant, timeout_ms = request.head.terms or terms_of(request)
        if deadline is None:
            timeout_s = context.timeout_s
            deadline = (
                request.received + timeout_s
                if timeout_ms is None
                else deadline_of(request, timeout_s)
            )
        columns, shapes, rows, self.single = decoded
        # A direct call with positional arguments saves a microsecond over super() and keywords.
        Call.__init__(self, columns, shapes, rows, deadline, tenant)
        self.travels_alone = target.travels_alone
        self.request = request
        self.target = target
        self.context = context

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        """Encode this call's rows of `answers`, which start at `first_row`."""
        raise NotImplementedError

    def submit(self) -> None:
        """Send the call to its target, after which the request is always answered.

        Raises MaasError if the target refuses the call.
        """
        self.request.on_disconnect = self.cancel
        self.target.submit(self)

    def cancel(self) -> None:
        self.target.cancel(self)

    def answered(self, answers: Answers, at: int, first_row: int) -> None:
        if answers.size * self.rows > LARGE_BYTES * answers.total_rows and self.encodes_in_thread:
            # The closure keeps the frame's bytes alive. The answer is metered in any case, also
            # if the client disconnects meanwhile.
            encode = partial(self.encode, answers, first_row)
            size = answers.size * self.rows // answers.total_rows
            respond = partial(self._respond, answers)
            self.context.large_bodies.write(self.request, size, encode, respond)
            return
        try:
            encoded = self.encode(answers, first_row)
        except MaasError as error:
            self.failed(error)
            return
        except Exception:
            # An exception here must not stop the reading of the frame, which has more answers.
            log.exception("an answer of %s could not be encoded", self.target.deployment)
            self.failed(MaasError("an internal error; the server's log has it"))
            return
        self._respond(answers, encoded)

    def _respond(self, answers: Answers, encoded: Encoded | MaasError) -> None:
        if isinstance(encoded, MaasError):
            self.failed(encoded)
            return
        request = self.request
        body, content_type, headers = encoded
        self.context.meter.answered(
            self.key, self.operation, self.target, self.rows, request.received, answers
        )
        request.respond(200, body, content_type, headers)

    def computed(self, compute_us: int, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        usage = GenerationUsage(0, prompt_tokens, completion_tokens, compute_us=compute_us)
        self.context.meter.computed(self.key, self.operation, self.target, usage)

    def failed(self, error: MaasError) -> None:
        target = self.target
        self.context.meter.failed(
            self.request.key, self.operation, target.deployment, target, error
        )
        self.request.fail(error)


Terms = tuple[Key, int, bytes | None]
"""A client's key, its tenant number, and the text of its timeout header."""


def terms_of(request: Request) -> Terms:
    """The terms of all calls with this request's head, stored with the head.

    Raises Unauthenticated if the head has no key.
    """
    head = request.head
    key = key_of(request)
    terms = head.terms = (key, tenant_of(key), head.headers.get(TIMEOUT_HEADER))
    return terms


def key_of(request: Request) -> Key:
    """The key that authenticated `request`. Raises Unauthenticated if there is none."""
    key = request.head.key
    if key is None:
        raise Unauthenticated()
    return key


_TENANTS: dict[str, int] = {}


def tenant_of(key: Key) -> int:
    """The number of `key` by which replicas divide their time fairly among keys."""
    number = _TENANTS.get(key.id)
    if number is None:
        if len(_TENANTS) > 100_000:
            _TENANTS.clear()
        number = _TENANTS[key.id] = crc32(key.id.encode())
    return number


def deadline_of(request: Request, timeout_s: float) -> float:
    """The deadline of `request`, in seconds on the monotonic clock.

    It is `timeout_s` seconds after the request's head arrived, or earlier if the client asks for
    that. Raises BadRequest if the timeout header is not a number of milliseconds.
    """
    text = request.head.headers.get(TIMEOUT_HEADER)
    if text is None:
        return request.received + timeout_s
    if not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise BadRequest("X-Request-Timeout-Ms must be a whole number of milliseconds from 1")
    return min(time.monotonic() + int(text) / 1000, request.received + timeout_s)
