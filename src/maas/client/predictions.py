"""predict and explain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maas.client.http.calls import ApiCall, ApiReply, encode, path
from maas.client.values import as_arrays, encode_inputs, plain_inputs
from maas.domain.errors import InvalidInput
from maas.domain.names import checked_name

OPTIONS = ("output", "target", "samples", "seed", "background")
"""Options of explain."""


def predict(
    deployment: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    /,
    *,
    as_numpy: bool = False,
    timeout: float | None = None,
    **named: Any,
) -> ApiCall[dict[str, Any]]:
    """Predict: `client.predict("article", x=[1, 2, 3])` returns `{"y_pred": 0.5}`.

    `deployment`: its name; None is the default deployment. The inputs are keyword arguments, or
    the mapping `inputs` for names that are not identifiers, such as `"input:0"`. Each input is one
    row, with the shape of the signature, or a batch: shape [rows, ...]. All inputs of a request are
    one of the two. Values are lists, numpy arrays, torch tensors, pandas columns, or bytes (an
    image, audio).

    Returns the outputs by name: for one row its value, for a batch a list with a value per row.
    With `as_numpy` they are numpy arrays: float64, int64, bool or str.

    `timeout`: seconds, retries included. Predictions are idempotent, so a request is retried if the
    connection breaks or the server answers 503 with `Retry-After`. Raises InvalidInput (with field,
    expected and actual value), NotFound, Unauthenticated, Forbidden, Overloaded, DeadlineExceeded,
    ServerUnavailable.
    """
    values = _joined(inputs, named)

    def parse(reply: ApiReply) -> dict[str, Any]:
        outputs: dict[str, Any] = reply.json()
        return as_arrays(outputs) if as_numpy else outputs

    return ApiCall(
        "POST",
        _path("predict", deployment),
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
    """Explain the prediction of one row: Shapley values by sampling.

    Inputs as in `predict`, for one row. `options` may have `output` (a name), `target` (index or
    label of the element to explain), `samples` (maximum number of rows to evaluate, 64 to 10000),
    `seed`, and `background` (rows by input that stand for an unknown feature). `timeout`: seconds.

    Returns a dictionary with a Shapley value per feature (`attributions`), `baseline`,
    `prediction`, `additivity_error`, and the numbers of `rows` and `calls`. Raises the errors of
    `predict`.
    """
    values = _joined(inputs, named)
    options = dict(options or {})
    unknown = set(options) - set(OPTIONS)
    if unknown:
        raise InvalidInput(
            f"explain has no option {', '.join(sorted(unknown))}; it has {', '.join(OPTIONS)}"
        )
    if "background" in options:
        options["background"] = plain_inputs(options["background"])
    encode_inputs(values)  # raises InvalidInput for values that are not finite
    return ApiCall(
        "POST",
        _path("explain", deployment),
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
    duplicates = set(plain_inputs(inputs)) & set(named)
    if duplicates:
        raise InvalidInput(
            f"{', '.join(sorted(duplicates))}: both in inputs and as a keyword",
            field=min(duplicates),
        )
    return {**inputs, **named}


def _path(verb: str, deployment: str | None) -> str:
    return path(verb) if deployment is None else path(verb, checked_name(deployment, "deployment"))
