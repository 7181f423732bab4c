"""Why a model answered as it did."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Request, Response

from maas.control.api.principal import GuardedRoute, Principal, guarded_router, needs
from maas.control.api.request_bodies import ExplainBody
from maas.control.explanation.explain import DEFAULT_SAMPLES, ExplanationCost, RowToExplain
from maas.control.routes import UseServices
from maas.domain.keys import Scope
from maas.domain.names import checked_name

MAX_BODY_BYTES = 16 << 20
"""A background of images is large."""


class ExplainRoute(GuardedRoute):
    max_json_bytes = MAX_BODY_BYTES


router = guarded_router("explain", ExplainRoute)


@router.post("/explain/{deployment}")
async def explain(
    deployment: str,
    body: ExplainBody,
    caller: Annotated[Principal, needs(Scope.CALL)],
    services: UseServices,
    request: Request,
    response: Response,
) -> dict[str, Any]:
    """Shapley values of one answer, by sampling."""
    question = RowToExplain(
        inputs=body.inputs,
        output=body.output,
        target=body.target,
        samples=DEFAULT_SAMPLES if body.samples is None else body.samples,
        seed=body.seed or 0,
        background=body.background,
    )
    spent = ExplanationCost()
    name = checked_name(deployment, "deployment")
    try:
        return await services.explainer.explain(
            name, question, spent, _deadline(request), caller.key_id
        )
    finally:
        # For the gateway, which meters it, also if it failed midway.
        took = {"x-maas-rows": str(spent.rows), "x-maas-compute-us": str(spent.compute_us)}
        response.headers.update(took)
        request.state.headers_of_error = took


def _deadline(request: Request) -> float:
    """Seconds on the monotonic clock of this machine, as the gateway says; else there is none."""
    return float(request.headers.get("x-maas-deadline", "inf"))
