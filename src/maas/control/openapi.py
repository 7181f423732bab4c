"""The OpenAPI document: control's routes as FastAPI knows them, and the gateway's own by hand."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from maas.domain.signature import DATATYPES

_PROBLEM = {
    "description": "A problem document (RFC 9457)",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "A sentence for people"},
            "code": {"type": "string", "description": "Stable; for programs"},
            "request_id": {"type": "string"},
            "retry_after": {"type": "number", "description": "Seconds"},
        },
    },
    "Rows": {
        "type": "object",
        "description": "A value per input or output: one row in its per-row shape, or a list of "
        "rows",
        "additionalProperties": True,
    },
    "Tensor": {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": {"type": "string", "enum": sorted(DATATYPES)},
            "parameters": {"type": "object"},
            "data": {"type": "array", "items": {}},
        },
    },
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {"type": "array", "items": {"type": "object"}},
            "parameters": {"type": "object"},
        },
    },
    "InferResponse": {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
}
_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"
_OIP = "Open Inference Protocol v2"

# path, method, tag, summary, schema of the body, schema of the answer; '' for neither
_GATEWAY: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("/predict", "post", "predict", "Predict with the default deployment", "Rows", "Rows"),
    ("/predict/{deployment}", "post", "predict", "Predict", "Rows", "Rows"),
    ("/v2", "get", _OIP, "About this server", "", ""),
    ("/v2/health/live", "get", _OIP, "Whether the server lives", "", ""),
    ("/v2/health/ready", "get", _OIP, "Whether the server takes requests", "", ""),
    (_MODEL, "get", _OIP, "Inputs and outputs of a deployment", "", ""),
    (_VERSION, "get", _OIP, "Inputs and outputs of a version", "", ""),
    (_MODEL + "/ready", "get", _OIP, "Whether a deployment answers", "", ""),
    (_VERSION + "/ready", "get", _OIP, "Whether a version answers", "", ""),
    (_MODEL + "/infer", "post", _OIP, "Infer", "InferRequest", "InferResponse"),
    (_VERSION + "/infer", "post", _OIP, "Infer with a version", "InferRequest", "InferResponse"),
    ("/livez", "get", "health", "Whether the gateway lives; needs no key", "", ""),
    ("/readyz", "get", "health", "Whether it can route; needs no key", "", ""),
    ("/metrics", "get", "health", "Metrics for Prometheus", "", ""),
)


def describe(app: FastAPI) -> dict[str, Any]:
    """The document; made once and kept."""
    if app.openapi_schema is None:
        document = app.openapi()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(_SCHEMAS)
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{"bearer": []}, {"key": []}]
        for path, method, tag, summary, body, answer in _GATEWAY:
            operation = _operation(path, tag, summary, body, answer)
            document["paths"].setdefault(path, {})[method] = operation
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _PROBLEM
        for generated in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(generated, None)
        app.openapi_schema = document
    return app.openapi_schema


def _operation(path: str, tag: str, summary: str, body: str, answer: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [tag],
        "summary": summary,
        "parameters": [
            {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
            for part in path.split("/")
            if part.startswith("{")
        ],
        "responses": {"200": {"description": "Done"}},
    }
    if body:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    if answer:
        operation["responses"]["200"]["content"] = _json(answer)
    if path in ("/livez", "/readyz"):
        operation["security"] = []
    return operation


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
