"""Every error of control as a problem document (RFC 9457)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from maas.domain.errors import (
    BadRequest,
    InvalidInput,
    MaasError,
    MethodNotAllowed,
    NotFound,
)
from maas.domain.names import shown
from maas.telemetry import FIELDS

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 20


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(MaasError, _maas_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _unexpected)


def problem_response(
    error: MaasError, request: Request, headers: Mapping[str, str] | None = None
) -> Response:
    answer = JSONResponse(
        error.to_problem(request.headers.get("x-request-id")),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )
    if error.retry_after is not None:
        answer.headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return answer


def invalid_input(errors: list[Any]) -> InvalidInput:
    """What pydantic found, in a sentence that names the field, what was expected and what came."""
    found = [_one_error(error) for error in errors[:MOST_ERRORS]]
    first = found[0]
    return InvalidInput(first["detail"], field=first["field"], errors=found)


def _one_error(error: dict[str, Any]) -> dict[str, str]:
    where = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    field = shown(".".join(where), 200)[1:-1]
    kind = error["type"]
    if kind == "missing":
        detail = f"field '{field}' is missing" if field else "a JSON body is needed"
    elif kind == "extra_forbidden":
        detail = f"unknown field '{field}'"
    else:
        expected = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        name = f"field '{field}'" if field else "the body"
        detail = f"{name}: expected {expected}; got {shown(error.get('input'))}"
    return {"field": field, "detail": detail}


async def _maas_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, MaasError):  # registered for nothing else
        raise error
    if error.status >= 500:
        log.warning(
            "%s %s: %s", request.method, request.url.path, error, extra={FIELDS: _fields(request)}
        )
    return problem_response(error, request, getattr(request.state, "headers_of_error", None))


async def _validation_error(request: Request, error: Exception) -> Response:
    errors = list(error.errors()) if isinstance(error, RequestValidationError) else []
    return problem_response(invalid_input(errors), request)


async def _http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = getattr(error, "headers", None)
    known: MaasError
    if status == 404:
        known = NotFound(f"there is nothing at {shown(request.url.path, 200)}")
    elif status == 405:
        known = MethodNotAllowed(f"{shown(request.url.path, 200)} does not take {request.method}")
    elif status < 500:
        known = BadRequest()
    else:
        known = MaasError()
    return problem_response(known, request, headers)


async def _client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this answer; it only ends the request without a traceback."""
    return problem_response(BadRequest("the request ended before its body did"), request)


async def _unexpected(request: Request, error: Exception) -> Response:
    """A defect of ours: the client learns that there was one, the log learns which."""
    if isinstance(error.__cause__, MaasError):
        # Its answer had begun, so nobody can be told but the log; the connection breaks off.
        log.warning("%s %s broke off: %s", request.method, request.url.path, error.__cause__)
        return problem_response(error.__cause__, request)
    log.error(
        "%s %s failed", request.method, request.url.path, exc_info=error,
        extra={FIELDS: _fields(request)},
    )  # fmt: skip
    return problem_response(MaasError("something went wrong inside OpenMaaS"), request)


def _fields(request: Request) -> dict[str, str]:
    return {
        "request_id": request.headers.get("x-request-id", ""),
        "key": request.headers.get("x-maas-key-id", ""),
    }
