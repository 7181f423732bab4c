"""Why a model answered as it did."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from maas.control.explaining import DEFAULT_SAMPLES, Question, Spent
from maas.control.principal import GuardedRoute, guarded_router, needs
from maas.control.routes import UseServices
from maas.control.schemas import ExplainBody
from maas.domain.keys import Scope
from maas.domain.names import checked_name

MAX_BODY_BYTES = 16 << 20
"""A background of images is large."""


class ExplainRoute(GuardedRoute):
    max_json_bytes = MAX_BODY_BYTES


router = guarded_router("explain", ExplainRoute)


@router.post("/explain/{deployment}", dependencies=[needs(Scope.CALL)])
async def explain(
    deployment: str, body: ExplainBody, services: UseServices, response: Response
) -> dict[str, Any]:
    """Shapley values of one answer, by sampling."""
    question = Question(
        inputs=body.inputs,
        output=body.output,
        target=body.target,
        samples=DEFAULT_SAMPLES if body.samples is None else body.samples,
        seed=body.seed or 0,
        background=body.background,
    )
    spent = Spent()
    name = checked_name(deployment, "deployment")
    answer = await services.explainer.explain(name, question, spent)
    # For the gateway, which meters it.
    response.headers["x-maas-rows"] = str(spent.rows)
    response.headers["x-maas-compute-us"] = str(spent.compute_us)
    return answer
