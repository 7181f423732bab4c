"""The OpenAPI document of the whole HTTP API.

Control's routes and request bodies come from FastAPI, the gateway's operations from
`operations.py`, and all other schemas from the types of the messages. api/openapi.json is the
agreed version of this document: api/make_openapi.py writes it, and tests/contract/test_openapi.py
compares the two.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from maas.control.api.principal import GuardedRoute, scope_of
from maas.control.openapi.media_types import content_of
from maas.control.openapi.operations import (
    CONTROL_RESPONSES,
    ERRORS,
    GATEWAY_OPERATIONS,
    Operation,
)
from maas.control.openapi.schemas import Schema, component_schemas
from maas.domain.names import NAME, SHA256

_STATUS_TEXT = {200: "Done", 201: "Created", 204: "Done; the body is empty"}
_UNCHANGED = "It existed already"
_NAME: Schema = {"type": "string", "pattern": f"^{NAME.pattern}$"}
_PARAMETERS: dict[str, Schema] = {
    "deployment": _NAME,
    "model": _NAME,
    "name": _NAME,
    "sha256": {"type": "string", "pattern": f"^{SHA256.pattern}$"},
    "number": {"type": "string", "pattern": "^([0-9]{1,9}|latest)$"},
    "version": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}
"""Parameters in paths; others are any text."""
_RENAMED = {
    "DeploymentBody": "DeploymentChange",
    "EvidenceBody": "Evidence",
    "ExplainBody": "ExplainRequest",
    "FileBody": "File",
    "JobBody": "Job",
    "JobChangeBody": "JobChange",
    "KeyBody": "NewKey",
    "ManifestBody": "Manifest",
    "ProgressBody": "Progress",
    "ScalingBody": "Scaling",
    "SignatureBody": "Signature",
    "TargetBody": "Target",
    "TensorBody": "TensorSpec",
    "VariantBody": "Variant",
}
"""By class of a request body, the name of its schema."""
_DESCRIPTION = """\
Every request except `/livez` and `/readyz` needs a key, in `Authorization: Bearer KEY` or
`X-API-Key: KEY`. Each operation names the scope that the key must have; `admin` includes all
scopes. Errors are problem documents (RFC 9457), except under `/v1` and `/v2`, which keep their
protocols' shapes. `X-Request-ID` is echoed. `X-Request-Timeout-Ms` limits the time until the
answer.
"""


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, built once per app."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app)
    return app.openapi_schema


def _document(app: FastAPI) -> dict[str, Any]:
    generated = _tidied(app.openapi())
    schemas = generated.get("components", {}).get("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    paths: dict[str, dict[str, Any]] = {}
    for route in app.routes:
        if isinstance(route, GuardedRoute):
            for method in sorted(m.lower() for m in route.methods or ()):
                fastapi_operation = generated["paths"].get(route.path, {}).get(method, {})
                paths.setdefault(route.path, {})[method] = _control(
                    route, method, fastapi_operation
                )
    for operation in GATEWAY_OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _gateway(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": app.title,
            "version": app.version,
            "summary": app.summary,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted((schemas | component_schemas()).items())),
            "responses": {name: _error(name) for name in ("Problem", *ERRORS.values())},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _control(route: GuardedRoute, method: str, fastapi_operation: dict[str, Any]) -> dict[str, Any]:
    """An operation of control; `fastapi_operation` is FastAPI's description of it."""
    operation_id = "head_file" if method == "head" else route.name
    operation: dict[str, Any] = {"operationId": operation_id, "tags": list(route.tags)}
    if "requestBody" in fastapi_operation:
        operation["requestBody"] = fastapi_operation["requestBody"]
    doc = " ".join((route.endpoint.__doc__ or "").split())
    first = doc.partition(". ")[0].rstrip(".")
    operation["summary"] = first or operation_id.replace("_", " ").capitalize()
    if doc.rstrip(".") != first:
        operation["description"] = doc
    if operation_id == "put_file":
        operation["requestBody"] = {"required": True, "content": content_of("octets")}
    other = [p for p in fastapi_operation.get("parameters", ()) if p["in"] != "path"]
    operation |= _parameters(route.path, other)
    operation["responses"] = _responses(CONTROL_RESPONSES[operation_id], "Problem")
    operation["security"] = _security(str(scope_of(route)))
    return operation


def _gateway(operation: Operation) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.body:
        entry["requestBody"] = {"required": True, "content": content_of(operation.body)}
    entry |= _parameters(operation.path, [])
    error = ERRORS.get(operation.tag, "Problem")
    entry["responses"] = _responses({200: operation.response}, error)
    entry["security"] = _security(operation.scope)
    return entry


def _parameters(path: str, other: list[dict[str, Any]]) -> dict[str, Any]:
    """The parameters in `path` and others, if there are any."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    text = {"type": "string"}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS.get(name, text)}
        for name in names
    ]
    parameters += other
    return {"parameters": parameters} if parameters else {}


def _responses(bodies: dict[int, str], error: str) -> dict[str, Any]:
    """`bodies`: schemas by status; `error`: the schema of all other responses."""
    responses: dict[str, Any] = {}
    for status, body in bodies.items():
        description = _UNCHANGED if responses else _STATUS_TEXT[status]
        responses[str(status)] = {"description": description}
        if body:
            responses[str(status)]["content"] = content_of(body)
    responses["default"] = {"$ref": f"#/components/responses/{error}"}
    return responses


def _security(scope: str) -> list[dict[str, list[str]]]:
    return [{"bearer": [scope]}, {"key": [scope]}] if scope else []


def _error(name: str) -> dict[str, Any]:
    media_type = "application/problem+json" if name == "Problem" else "application/json"
    retry = {"schema": {"type": "integer", "minimum": 1, "maximum": 1 << 31},
             "description": "Seconds; with 503 if a later retry can succeed"}  # fmt: skip
    return {
        "description": "The request was refused or failed",
        "headers": {"Retry-After": retry},
        "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{name}"}}},
    }


def _tidied(value: Any) -> Any:
    """FastAPI's document with our names of schemas, without titles that only repeat a name, and
    with integers where FastAPI has whole floats."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, dict):
        return value
    tidied = {}
    for name, item in value.items():
        if name == "title" and isinstance(item, str):
            continue
        if name == "$ref":
            tidied[name] = "/".join(_RENAMED.get(p, p) for p in item.split("/"))
        else:
            tidied[_RENAMED.get(name, name)] = _tidied(item)
    return tidied
