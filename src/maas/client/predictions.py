"""predict and explain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maas.client.http.calls import ApiCall, ApiReply, encode, path
from maas.client.values import as_arrays, encode_inputs, plain_inputs
from maas.domain.errors import InvalidInput
from maas.domain.names import checked_name


def predict(
    deployment: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    /,
    *,
    as_numpy: bool = False,
    timeout: float | None = None,
    **named: Any,
) -> ApiCall[dict[str, Any]]:
    """What the model answers: `predict("article", x=[1, 2, 3])` → `{"y_pred": 0.5}`.

    Each input is one row (of the signature's shape) or a batch of rows, as lists, numpy arrays,
    torch tensors or pandas columns; all inputs agree. For one row an output is that row's value,
    for a batch a list. `inputs` takes names that Python does not, such as `"input:0"`.

    `deployment` None means the default deployment; `timeout` is in seconds. A prediction has no
    effect, so it is sent again if the connection breaks or the server says when to come back.
    Raises InvalidInput (the field, what was expected, what came), NotFound, Unauthenticated,
    Overloaded, DeadlineExceeded, ServerUnavailable.
    """
    values = _joined(inputs, named)

    def parse(reply: ApiReply) -> dict[str, Any]:
        outputs: dict[str, Any] = reply.json()
        return as_arrays(outputs) if as_numpy else outputs

    return ApiCall(
        "POST",
        _route("predict", deployment),
        parse,
        safe=True,
        body=encode_inputs(values),
        timeout=timeout,
    )


def explain(
    deployment: str,
    inputs: Mapping[str, Any] | None = None,
    /,
    *,
    options: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    **named: Any,
) -> ApiCall[dict[str, Any]]:
    """Why the model answers so for one row: Shapley values by sampling.

    `options` may hold `output` (name), `target` (index or label of the class to explain),
    `samples` (64 to 10000), `seed` and `background` (rows per input that stand for "feature not
    known"). The answer has a value per feature, the baseline, the prediction, the additivity
    error and the number of model calls.
    """
    values = _joined(inputs, named)
    options = dict(options or {})
    unknown = set(options) - {"output", "target", "samples", "seed", "background"}
    if unknown:
        raise InvalidInput(f"explain has no option {', '.join(sorted(unknown))}")
    if "background" in options:
        options["background"] = plain_inputs(options["background"])
    encode_inputs(values)  # refuses what is not finite, by name
    return ApiCall(
        "POST",
        _route("explain", deployment),
        ApiReply.json,
        safe=True,
        body=encode({"inputs": plain_inputs(values), **options}),
        timeout=timeout,
    )


def _joined(inputs: Mapping[str, Any] | None, named: dict[str, Any]) -> Mapping[str, Any]:
    if inputs is None:
        return named
    if not named:
        return inputs
    twice = set(plain_inputs(inputs)) & set(named)
    if twice:
        raise InvalidInput(f"{', '.join(sorted(twice))} came twice", field=min(twice))
    return {**inputs, **named}


def _route(verb: str, deployment: str | None) -> str:
    return path(verb) if deployment is None else path(verb, checked_name(deployment, "deployment"))
