"""One call of a deployment, from any protocol: route it, meter it, answer in that protocol."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import ClassVar
from zlib import crc32

from maas.domain.errors import BadRequest, MaasError, Unauthenticated
from maas.domain.keys import Key
from maas.gateway.http.large_bodies import LARGE_BYTES, large_bodies
from maas.gateway.http.request import Request
from maas.gateway.metering import GenerationUsage, Meter
from maas.serving.routing.call import Call
from maas.serving.routing.live_target import LiveTarget
from maas.serving.wire.codec import Decoded
from maas.serving.wire.messages import Answers, Priority

log = logging.getLogger(__name__)

Encoded = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]
"""Body, content type, headers."""

TIMEOUT_HEADER = b"x-request-timeout-ms"


class HttpCall(Call):
    """Carries an HTTP request to a replica and its answer back; one subclass per protocol."""

    __slots__ = ("key", "meter", "request", "single", "target")

    operation: ClassVar[str] = "predict"
    """What usage is recorded under."""
    encodes_aside: ClassVar[bool] = False
    """Whether `encode` only makes bytes, so that a thread may do it for a large answer."""

    def __init__(
        self,
        request: Request,
        target: LiveTarget,
        meter: Meter,
        decoded: Decoded,
        longest: float,
        deadline: float | None = None,
    ) -> None:
        """`longest`: seconds that it may take, unless the caller asks for less. `deadline` is of
        `deadline_of` if that was asked before, seconds on the monotonic clock."""
        self.key, tenant, asked = request.head.terms or terms_of(request)
        if deadline is None:
            deadline = (
                request.received + longest if asked is None else deadline_of(request, longest)
            )
        columns, shapes, rows, self.single = decoded
        # Not super() and names, which cost a microsecond.
        Call.__init__(
            self,
            columns,
            shapes,
            rows,
            deadline,
            tenant,
            Priority.NORMAL,
            target.travels_alone,
        )
        self.request = request
        self.target = target
        self.meter = meter

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        raise NotImplementedError

    def submit(self) -> None:
        """Raises MaasError if it is refused; otherwise the request will be answered."""
        self.request.on_disconnect = self.cancel
        self.target.submit(self)

    def cancel(self) -> None:
        self.target.cancel(self)

    def answered(self, answers: Answers, at: int, first_row: int) -> None:
        if answers.size * self.rows > LARGE_BYTES * answers.total_rows and self.encodes_aside:
            # The frame's bytes stay while somebody has them. It is counted also if nobody waits.
            encode = partial(self.encode, answers, first_row)
            size = answers.size * self.rows // answers.total_rows
            large_bodies.write(self.request, size, encode, partial(self._encoded, answers))
            return
        try:
            encoded = self.encode(answers, first_row)
        except MaasError as error:
            self.failed(error)
            return
        except Exception:
            # Here the replica's frame is being read: others' answers come after this one.
            log.exception("an answer of %s could not be encoded", self.target.deployment)
            self.failed(MaasError("an internal error; the server's log has it"))
            return
        self._encoded(answers, encoded)

    def _encoded(self, answers: Answers, encoded: Encoded | MaasError) -> None:
        if isinstance(encoded, MaasError):
            self.failed(encoded)
            return
        request = self.request
        body, content_type, headers = encoded
        self.meter.answered(
            self.key, self.operation, self.target, self.rows, request.received, answers
        )
        request.respond(200, body, content_type, headers)

    def computed(self, compute_us: int, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        written = GenerationUsage(0, prompt_tokens, completion_tokens, compute_us=compute_us)
        self.meter.computed(self.key, self.operation, self.target, written)

    def failed(self, error: MaasError) -> None:
        target = self.target
        self.meter.failed(self.request.key, self.operation, target.deployment, target, error)
        self.request.fail(error)


Terms = tuple[Key, int, bytes | None]
"""Who calls, the number of this tenant, and the milliseconds that the caller allows."""


def terms_of(request: Request) -> Terms:
    """What every call with this head has; kept with it. Raises Unauthenticated."""
    head = request.head
    key = key_of(request)
    terms = head.terms = (key, tenant_of(key), head.headers.get(TIMEOUT_HEADER))
    return terms


def key_of(request: Request) -> Key:
    key = request.head.key
    if key is None:
        raise Unauthenticated()
    return key


_TENANTS: dict[str, int] = {}


def tenant_of(key: Key) -> int:
    """A number by which replicas share themselves fairly among keys."""
    number = _TENANTS.get(key.id)
    if number is None:
        if len(_TENANTS) > 100_000:
            _TENANTS.clear()
        number = _TENANTS[key.id] = crc32(key.id.encode())
    return number


def deadline_of(request: Request, longest: float) -> float:
    """Seconds on the monotonic clock; callers may ask for less than `longest` seconds."""
    text = request.head.headers.get(TIMEOUT_HEADER)
    if text is None:
        return request.received + longest
    if not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise BadRequest("X-Request-Timeout-Ms must be a whole number of milliseconds from 1")
    return min(time.monotonic() + int(text) / 1000, request.received + longest)
