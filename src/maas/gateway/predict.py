"""`POST /predict/{deployment}`: named inputs in, a JSON object of named outputs out.

Inputs come as a JSON object, as nearly always, or as `predict_bodies` says.
"""

from __future__ import annotations

from maas.domain.errors import MaasError
from maas.gateway.calls import Encoded, HttpCall
from maas.gateway.metering import Meter
from maas.gateway.predict_bodies import decoded
from maas.gateway.request import JSON, Request
from maas.serving.messages import Answers
from maas.serving.routing import Router


class PredictDoor:
    def __init__(self, router: Router, meter: Meter, timeout_s: float) -> None:
        self._router = router
        self._meter = meter
        self._timeout_s = timeout_s

    def handle(self, request: Request) -> None:
        """Raises NotFound; other failures are counted and answered."""
        head = request.head
        deployment = self._router.get(head.params[0] if head.params else None)
        route = None
        try:
            route = deployment.pick()
            if head.headers.get(b"content-type") == JSON:
                found = route.codec.decode(request.body)
            else:
                found = decoded(request, route)
            PredictCall(request, route, self._meter, found, self._timeout_s).submit()
        except MaasError as error:
            self._meter.failed(request.key, "predict", deployment.name, route, error)
            request.fail(error)


class PredictCall(HttpCall):
    __slots__ = ()

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        body = self.route.codec.encode(answers.columns, first_row, self.rows, self.single)
        return body, JSON, ()
