"""Error handlers that answer every error with a problem document (RFC 9457)."""

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
    app.add_exception_handler(ClientDisconnect, _client_disconnected)
    app.add_exception_handler(Exception, _unexpected)


def problem_response(
    error: MaasError, request: Request, headers: Mapping[str, str] | None = None
) -> Response:
    response = JSONResponse(
        error.to_problem(request.headers.get("x-request-id")),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )
    if error.retry_after is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    return response


def invalid_input(errors: list[Any]) -> InvalidInput:
    """The error for pydantic's `errors`. The message states the first one's field, the expected
    value and the actual value."""
    details = [_one_error(error) for error in errors[:MOST_ERRORS]]
    first = details[0]
    return InvalidInput(first["detail"], field=first["field"], errors=details)


def _one_error(error: dict[str, Any]) -> dict[str, str]:
    where = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    field = shown(".".join(where), 200)[1:-1]
    kind = error["type"]
    if kind == "missing":
        detail = f"field '{field}' is missing" if field else "a JSON body is required"
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
    return problem_response(error, request, getattr(request.state, "error_headers", None))


async def _validation_error(request: Request, error: Exception) -> Response:
    errors = list(error.errors()) if isinstance(error, RequestValidationError) else []
    return problem_response(invalid_input(errors), request)


async def _http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = getattr(error, "headers", None)
    problem: MaasError
    if status == 404:
        problem = NotFound(f"there is no route {shown(request.url.path, 200)}")
    elif status == 405:
        problem = MethodNotAllowed(
            f"{shown(request.url.path, 200)} does not allow {request.method}"
        )
    elif status < 500:
        problem = BadRequest()
    else:
        problem = MaasError()
    return problem_response(problem, request, headers)


async def _client_disconnected(request: Request, error: Exception) -> Response:
    """Ends the request without a traceback; the client does not receive the response."""
    return problem_response(BadRequest("the client disconnected during the body"), request)


async def _unexpected(request: Request, error: Exception) -> Response:
    """Answers a defect of this program with status 500 and logs its traceback."""
    if isinstance(error.__cause__, MaasError):
        # The response had started, so the connection is closed and only the log has the error.
        log.warning("%s %s aborted: %s", request.method, request.url.path, error.__cause__)
        return problem_response(error.__cause__, request)
    log.error(
        "%s %s failed", request.method, request.url.path, exc_info=error,
        extra={FIELDS: _fields(request)},
    )  # fmt: skip
    return problem_response(MaasError(), request)


def _fields(request: Request) -> dict[str, str]:
    return {
        "request_id": request.headers.get("x-request-id", ""),
        "key": request.headers.get("x-maas-key-id", ""),
    }
