"""The OpenAPI document of the whole HTTP API: control's routes as FastAPI knows them, and the
gateway's own by hand.

api/openapi.json is this document as it was agreed: api/make_openapi.py writes it, and
tests/contract/test_openapi.py compares the two and finds every route of gateway and control in it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from maas.control.api.principal import GuardedRoute, scope_of
from maas.control.openapi.api_schemas import NAME, SCHEMAS, SHA256, Schema, ref
from maas.control.openapi.modality_schemas import (
    FORMS,
    MODALITY_ANSWERS,
    MODALITY_OPERATIONS,
    MODALITY_SCHEMAS,
    file_content,
    text_content,
)
from maas.control.openapi.text_schemas import (
    ANTHROPIC,
    OPENAI,
    STREAMED,
    TEXT_ANSWERS,
    TEXT_OPERATIONS,
    TEXT_SCHEMAS,
    stream_content,
)

# operation, status of success, what it answers; '' for an empty body.
_ANSWERS: dict[str, tuple[tuple[int, str], ...]] = {
    "list_models": ((200, "ModelList"),),
    "get_model": ((200, "Model"),),
    "get_version": ((200, "Version"),),
    "publish_version": ((201, "Published"), (200, "Published")),
    "add_evidence": ((201, "Evidence"),),
    "add_variant": ((201, "Variant"), (200, "Variant")),
    "get_file": ((200, "octets"),),
    "head_file": ((200, ""),),
    "put_file": ((201, "StoredFile"), (200, "StoredFile")),
    "list_deployments": ((200, "DeploymentList"),),
    "get_deployment": ((200, "Deployment"),),
    "put_deployment": ((200, "Deployment"),),
    "delete_deployment": ((204, ""),),
    "rollback_deployment": ((200, "Deployment"),),
    "list_keys": ((200, "KeyList"),),
    "create_key": ((201, "CreatedKey"),),
    "revoke_key": ((200, "Key"),),
    "get_usage": ((200, "UsageList"),),
    "list_jobs": ((200, "JobList"),),
    "get_job": ((200, "Job"),),
    "create_job": ((201, "Job"),),
    "update_job": ((200, "Job"),),
    "cancel_job": ((200, "Job"),),
    "get_log": ((200, "text"),),
    "get_status": ((200, "Status"),),
    "explain": ((200, "Explanation"),),
    "get_openapi": ((200, "any"),),
    "predict_default": ((200, "Outputs"),),
    "predict": ((200, "Outputs"),),
    "oip_server": ((200, "ServerMetadata"),),
    "oip_live": ((200, "ServerLive"),),
    "oip_ready": ((200, "ServerReady"),),
    "oip_model": ((200, "ModelMetadata"),),
    "oip_version": ((200, "ModelMetadata"),),
    "oip_model_ready": ((200, "ModelReady"),),
    "oip_version_ready": ((200, "ModelReady"),),
    "oip_infer": ((200, "InferResponse"),),
    "oip_infer_version": ((200, "InferResponse"),),
    "livez": ((200, "text"),),
    "readyz": ((200, "text"),),
    "metrics": ((200, "text"),),
    **TEXT_ANSWERS,
    **MODALITY_ANSWERS,
}
_STATUS_TEXT = {200: "Done", 201: "Made", 204: "Done; nothing to say"}
_ALREADY = "It was there already"

_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"
_OIP = "Open Inference Protocol v2"
_ERRORS = {_OIP: "InferError", OPENAI: "OpenAIError", ANTHROPIC: "AnthropicError",
           "rerank": "OpenAIError"}  # fmt: skip
"""By tag, where errors keep their protocol's shape."""

# path, method, operation, tag, scope ('' for none at all), summary, schema of the body
_GATEWAY: tuple[tuple[str, str, str, str, str, str, str], ...] = (
    ("/predict", "post", "predict_default", "predict", "call",
     "Call the default deployment", "Inputs"),
    ("/predict/{deployment}", "post", "predict", "predict", "call", "Call a deployment", "Inputs"),
    ("/v2", "get", "oip_server", _OIP, "call", "About this server", ""),
    ("/v2/health/live", "get", "oip_live", _OIP, "call", "Whether the server lives", ""),
    ("/v2/health/ready", "get", "oip_ready", _OIP, "call", "Whether it takes requests", ""),
    (_MODEL, "get", "oip_model", _OIP, "call", "Inputs and outputs of a deployment", ""),
    (_VERSION, "get", "oip_version", _OIP, "call", "Inputs and outputs of a version", ""),
    (_MODEL + "/ready", "get", "oip_model_ready", _OIP, "call",
     "Whether a deployment answers", ""),
    (_VERSION + "/ready", "get", "oip_version_ready", _OIP, "call",
     "Whether a version answers", ""),
    (_MODEL + "/infer", "post", "oip_infer", _OIP, "call", "Infer", "InferRequest"),
    (_VERSION + "/infer", "post", "oip_infer_version", _OIP, "call", "Infer with a version",
     "InferRequest"),
    ("/livez", "get", "livez", "health", "", "Whether the gateway lives", ""),
    ("/readyz", "get", "readyz", "health", "", "Whether it knows keys and deployments", ""),
    ("/metrics", "get", "metrics", "health", "read", "Counters in Prometheus' text format", ""),
    *TEXT_OPERATIONS,
    *MODALITY_OPERATIONS,
)  # fmt: skip
_PARAMETERS: dict[str, Schema] = {
    "deployment": NAME,
    "model": NAME,
    "name": NAME,
    "sha256": SHA256,
    "number": {"type": "string", "pattern": "^([0-9]{1,9}|latest)$"},
    "version": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}
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
_ABOUT = """\
Every call needs a key, in `Authorization: Bearer KEY` or `X-API-Key: KEY`, but for `/livez` and
`/readyz`. Each operation names the scope that the key must have; `admin` stands for all of
them. Errors are problem documents (RFC 9457), except under `/v1` and `/v2`, which keep their
protocols' shapes. `X-Request-ID` is echoed. `X-Request-Timeout-Ms` asks for an answer within that
time.
"""


def describe(app: FastAPI) -> dict[str, Any]:
    """The document; made once and kept."""
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
                made = generated["paths"].get(route.path, {}).get(method, {})
                operation_id = "head_file" if method == "head" else route.name
                operation = _of_control(operation_id, route, made)
                paths.setdefault(route.path, {})[method] = operation
    for path, method, operation_id, tag, scope, summary, body in _GATEWAY:
        made = {"tags": [tag], "summary": summary}
        if body:
            made["requestBody"] = {"required": True, "content": _content(body)}
        if body == "InferRequest":
            made["requestBody"]["content"] |= _content("octets")
        if body == "Inputs":
            made["requestBody"]["content"] |= file_content()
        shape = _ERRORS.get(tag, "Problem")
        paths.setdefault(path, {})[method] = _operation(operation_id, path, scope, made, shape)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": app.title,
            "version": app.version,
            "summary": app.summary,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted((schemas | SCHEMAS | TEXT_SCHEMAS | MODALITY_SCHEMAS).items())),
            "responses": {name: _error(name) for name in ("Problem", *_ERRORS.values())},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _of_control(operation_id: str, route: GuardedRoute, made: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"tags": list(route.tags)}
    kept |= {name: made[name] for name in ("requestBody", "parameters") if name in made}
    words = " ".join((route.endpoint.__doc__ or "").split())
    first = words.partition(". ")[0].rstrip(".")
    kept["summary"] = first or operation_id.replace("_", " ").capitalize()
    if words.rstrip(".") != first:
        kept["description"] = words
    if operation_id == "put_file":
        kept["requestBody"] = {"required": True, "content": _content("octets")}
    return _operation(operation_id, route.path, str(scope_of(route)), kept, "Problem")


def _operation(
    operation_id: str, path: str, scope: str, made: dict[str, Any], error: str
) -> dict[str, Any]:
    asked = [p for p in made.get("parameters", ()) if p["in"] != "path"]
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": _PARAMETERS.get(name, _TEXT)}
        for name in (part[1:-1] for part in path.split("/") if part.startswith("{"))
    ]
    responses: dict[str, Any] = {}
    for place, (status, answer) in enumerate(_ANSWERS[operation_id]):
        said: dict[str, Any] = {"description": _ALREADY if place else _STATUS_TEXT[status]}
        if answer:
            said["content"] = _content(answer)
        if answer == "InferResponse":
            said["content"] |= _content("octets")
        if operation_id in STREAMED:
            said["content"] |= stream_content()
        if answer == "Transcription":
            said["content"] |= text_content()
        responses[str(status)] = said
    responses["default"] = {"$ref": f"#/components/responses/{error}"}
    operation = {"operationId": operation_id} | made
    operation.pop("parameters", None)
    if in_path or asked:
        operation["parameters"] = in_path + asked
    operation["responses"] = responses
    operation["security"] = [{"bearer": [scope]}, {"key": [scope]}] if scope else []
    return operation


_TEXT: Schema = {"type": "string"}


def _content(name: str) -> dict[str, Any]:
    if name == "octets":
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    if name == "text":
        return {"text/plain": {"schema": _TEXT}}
    if name in FORMS:
        return {"multipart/form-data": {"schema": ref(name)}}
    if name == "any":
        return {"application/json": {"schema": {"type": "object"}}}
    return {"application/json": {"schema": ref(name)}}


def _error(name: str) -> dict[str, Any]:
    media_type = "application/problem+json" if name == "Problem" else "application/json"
    retry = {"schema": {"type": "integer", "minimum": 1, "maximum": 1 << 31},
             "description": "Seconds; with 503 when asking again later can help"}  # fmt: skip
    return {
        "description": "It was refused or failed, and why",
        "headers": {"Retry-After": retry},
        "content": {media_type: {"schema": ref(name)}},
    }


def _tidied(value: Any) -> Any:
    """FastAPI's document with our names, without titles that only repeat a name, and with whole
    numbers where whole numbers are meant."""
    if isinstance(value, list):
        return [_tidied(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, dict):
        return value
    out = {}
    for name, item in value.items():
        if name == "title" and isinstance(item, str):
            continue
        if name == "$ref":
            out[name] = "/".join(_RENAMED.get(p, p) for p in item.split("/"))
        else:
            out[_RENAMED.get(name, name)] = _tidied(item)
    return out
