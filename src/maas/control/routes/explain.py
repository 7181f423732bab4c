"""The route of explanations."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request, Response

from maas.control.api.principal import GuardedRoute, Principal, guarded_router, requires
from maas.control.api.request_bodies import ExplainBody
from maas.control.explanation.explain import ExplanationCost
from maas.control.explanation.request import DEFAULT_SAMPLES, RowToExplain
from maas.control.routes import UseServices
from maas.domain.keys import Scope
from maas.domain.names import checked_name

MAX_BODY_BYTES = 16 << 20
"""Larger than for other routes: background rows may be images."""


class ExplainRoute(GuardedRoute):
    """A route with the larger limit."""

    max_json_bytes = MAX_BODY_BYTES


router = guarded_router("explain", ExplainRoute)


@router.post("/explain/{deployment}")
async def explain(
    deployment: str,
    body: ExplainBody,
    caller: Annotated[Principal, requires(Scope.CALL)],
    services: UseServices,
    request: Request,
    response: Response,
) -> dict[str, Any]:
    """Shapley values of one prediction, estimated by sampling."""
    row = RowToExplain(
        inputs=body.inputs,
        output=body.output,
        target=body.target,
        samples=DEFAULT_SAMPLES if body.samples is None else body.samples,
        seed=body.seed or 0,
        background=body.background,
    )
    cost = ExplanationCost()
    name = checked_name(deployment, "deployment")
    try:
        return await services.explainer.explain(name, row, cost, _deadline(request), caller.key_id)
    finally:
        # The gateway meters the cost, also of an explanation that failed midway.
        headers = {"x-maas-rows": str(cost.rows), "x-maas-compute-us": str(cost.compute_us)}
        response.headers.update(headers)
        request.state.error_headers = headers


def _deadline(request: Request) -> float:
    """The gateway's deadline, in seconds on the monotonic clock of this machine; infinity if there
    is none."""
    return float(request.headers.get("x-maas-deadline", "inf"))
