"""`POST /predict/{deployment}`: named inputs in, a JSON object of named outputs out.

Inputs come as a JSON object, as nearly always, or as `predict_bodies` says.
"""

from __future__ import annotations

from functools import partial

from maas.domain.errors import MaasError
from maas.gateway.calls import Encoded, HttpCall, deadline_of
from maas.gateway.http.forms import FORM
from maas.gateway.http.large_bodies import LARGE_BYTES, large_bodies
from maas.gateway.http.request import JSON, Request, media_type
from maas.gateway.http.routes import JSON_ONLY
from maas.gateway.metering import Meter
from maas.gateway.predict.bodies import decoded
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import Router
from maas.serving.wire.codec import Decoded
from maas.serving.wire.messages import Answers

_PARSED = (*JSON_ONLY, FORM)
"""Bodies that take time to read; others are copied as they are."""


class PredictHandler:
    def __init__(self, router: Router, meter: Meter, timeout_s: float) -> None:
        self._router = router
        self._meter = meter
        self._timeout_s = timeout_s

    def handle(self, request: Request) -> None:
        """Raises NotFound; other failures are counted and answered."""
        head = request.head
        deployment = self._router.get(head.params[0] if head.params else None)
        target = None
        try:
            target = deployment.pick()
            if len(request.body) > LARGE_BYTES and media_type(head.headers) in _PARSED:
                deadline = deadline_of(request, self._timeout_s)
                read = partial(decoded, request, target)
                then = partial(self._go, request, target, deadline)
                large_bodies.read(request, deadline, read, then)
                return
            if head.headers.get(b"content-type") == JSON:
                found = target.codec.decode(request.body)
            else:
                found = decoded(request, target)
            PredictCall(request, target, self._meter, found, self._timeout_s).submit()
        except MaasError as error:
            self._meter.failed(request.key, "predict", deployment.name, target, error)
            request.fail(error)

    def _go(
        self, request: Request, target: LiveTarget, deadline: float, found: Decoded | MaasError
    ) -> None:
        """On with a large body that was read, or not."""
        try:
            if isinstance(found, MaasError):
                raise found
            PredictCall(request, target, self._meter, found, self._timeout_s, deadline).submit()
        except MaasError as error:
            self._meter.failed(request.key, "predict", target.deployment, target, error)
            request.fail(error)


class PredictCall(HttpCall):
    __slots__ = ()

    encodes_aside = True

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        body = self.target.codec.encode(answers.columns, first_row, self.rows, self.single)
        return body, JSON, ()
