"""What the doors under `/v1` to embeddings, speech and rerank share: they name a deployment in
the body, and its signature must have the inputs that the protocol speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maas.domain.errors import InvalidInput, MaasError, ModelNotFound, NotFound
from maas.domain.models import Task
from maas.domain.signature import Signature
from maas.gateway.http.request import Request
from maas.gateway.metering import Meter
from maas.gateway.text.generation import check_task
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import Router
from maas.serving.wire.codec import Decoded, default_tensor, flat_elements, pack
from maas.serving.wire.messages import Answers, Buffer, rows_of


class NamedCalls:
    def __init__(self, router: Router, meter: Meter, longest_s: float) -> None:
        """`longest_s`: seconds that a request may take, unless its caller asks for less."""
        self.router = router
        self.meter = meter
        self.longest_s = longest_s

    def target(self, name: str, task: Task) -> LiveTarget:
        """A target of the deployment `name`, which must be for `task`; raises ModelNotFound, or
        Unavailable if nobody can answer for it."""
        try:
            deployment = self.router.get(name)
        except NotFound as error:
            raise ModelNotFound(error.message, field="model") from None
        check_task(deployment, task)
        return deployment.pick()

    def refused(self, request: Request, operation: str, name: str, error: MaasError) -> None:
        """Count and answer what was refused before a call of it began."""
        deployment = self.router.deployments.get(name)
        if deployment is not None:
            target = deployment.targets[0] if len(deployment.targets) == 1 else None
            self.meter.failed(request.key, operation, name, target, error)
        request.fail(error)


def decoded(signature: Signature, values: Mapping[str, list[Any]], rows: int) -> Decoded:
    """`values` of inputs without dimensions, a list of `rows` each. Raises InvalidInput for one
    that the signature does not have, or lacks a value for."""
    for name in values:
        if signature.input(name) is None:
            raise InvalidInput(f"this deployment has no input {name!r}", field=name)
    columns: list[Buffer] = []
    for spec in signature.inputs:
        given = values.get(spec.name)
        if spec.shape or (given is None and spec.default is None):
            raise InvalidInput(
                f"this deployment wants the input {spec.name!r}, which the protocol does not "
                "have; call it with /predict",
                field="model",
            )
        columns.append(default_tensor(spec, rows).data if given is None else pack(spec, given))
    return Decoded(columns, ((),) * len(columns), rows)


def output(signature: Signature, name: str) -> int:
    """The place of an output; raises InvalidInput if there is none of that name."""
    for at, spec in enumerate(signature.outputs):
        if spec.name == name:
            return at
    raise InvalidInput(f"this deployment has no output {name!r}; call it with /predict",
                       field="model")  # fmt: skip


def tokens_read(signature: Signature, answers: Answers, first_row: int, rows: int) -> int:
    """As the runtime counted for these rows; 0 if it does not count."""
    for column, spec in zip(answers.columns, signature.outputs, strict=True):
        if spec.name == "tokens" and spec.datatype == "INT32":
            return sum(flat_elements("INT32", rows_of(column, first_row, rows, answers.total_rows)))
    return 0
