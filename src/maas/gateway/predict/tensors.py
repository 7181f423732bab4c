"""`POST /predict/{deployment}`: named inputs in, a JSON object of named outputs out.

Inputs are usually a JSON object; `bodies.py` decodes other content types.
"""

from __future__ import annotations

from functools import partial

from maas.domain.errors import MaasError
from maas.gateway.calls import CallContext, Encoded, HttpCall, deadline_of
from maas.gateway.http.forms import FORM
from maas.gateway.http.large_bodies import LARGE_BYTES
from maas.gateway.http.request import JSON, Request, media_type
from maas.gateway.http.routes import JSON_ONLY
from maas.gateway.predict.bodies import decode_body
from maas.serving.routing.live_target import LiveTarget
from maas.serving.wire.json_codec import Decoded
from maas.serving.wire.messages import Answers

_PARSED_TYPES = (*JSON_ONLY, FORM)
"""Content types that take time to decode. Bodies of other types are copied unchanged."""


class PredictHandler:
    """Handles `POST /predict` and `POST /predict/{deployment}`."""

    def __init__(self, context: CallContext) -> None:
        self._context = context

    def handle(self, request: Request) -> None:
        """Start a prediction. Raises NotFound; other errors are metered and answered."""
        head = request.head
        context = self._context
        deployment = context.router.get(head.params[0] if head.params else None)
        target = None
        try:
            target = deployment.pick()
            if len(request.body) > LARGE_BYTES and media_type(head.headers) in _PARSED_TYPES:
                deadline = deadline_of(request, context.timeout_s)
                decode = partial(decode_body, request, target)
                then = partial(self._continue, request, target, deadline)
                context.large_bodies.read(request, deadline, decode, then)
                return
            if head.headers.get(b"content-type") == JSON:
                decoded = target.codec.decode(request.body)
            else:
                decoded = decode_body(request, target)
            PredictCall(request, target, context, decoded).submit()
        except MaasError as error:
            context.meter.failed(request.key, "predict", deployment.name, target, error)
            request.fail(error)

    def _continue(
        self, request: Request, target: LiveTarget, deadline: float, decoded: Decoded | MaasError
    ) -> None:
        """Continue after a large body was decoded or refused."""
        try:
            if isinstance(decoded, MaasError):
                raise decoded
            PredictCall(request, target, self._context, decoded, deadline).submit()
        except MaasError as error:
            meter = self._context.meter
            meter.failed(request.key, "predict", target.deployment, target, error)
            request.fail(error)


class PredictCall(HttpCall):
    """A prediction whose response is the JSON object of outputs."""

    __slots__ = ()

    encodes_in_thread = True

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        body = self.target.codec.encode(answers.columns, first_row, self.rows, self.single)
        return body, JSON, ()
