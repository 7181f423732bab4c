"""Schemas of the OpenAPI document that no request body of control defines: answers, mostly.

Written by hand, because answers are made from the domain's nouns and the domain knows nothing of
JSON Schema; tests/contract/test_openapi.py holds them to what the nouns give.
"""

from __future__ import annotations

from typing import Any

from maas.domain.errors import ERRORS_BY_CODE
from maas.domain.keys import Scope
from maas.domain.signature import DATATYPES, MAX_ELEMENTS

Schema = dict[str, Any]

MOST = (1 << 53) - 1
"""The largest whole number that every JSON reader keeps exactly."""
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
TIME: Schema = {"type": "number", "description": "Seconds since the epoch, UTC"}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
ANYTHING: Schema = {"type": "object", "additionalProperties": True}
SCOPES = [str(scope) for scope in Scope]


def whole(low: int = 0, high: int = MOST, description: str = "") -> Schema:
    schema: Schema = {"type": "integer", "minimum": low, "maximum": high}
    return schema | {"description": description} if description else schema


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def says(schema: Schema, description: str) -> Schema:
    return schema | {"description": description}


def thing(description: str, optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object whose properties are all there but for the optional ones."""
    return {
        "type": "object",
        "description": description,
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


def listing(name: str, schema: str) -> Schema:
    return thing("", **{name: many(ref(schema))})


_PROBLEM = thing(
    "A problem document (RFC 9457); some codes say more than is listed here",
    ("request_id", "retry_after", "field", "errors"),
    type=says(TEXT, "urn:maas:error:CODE"),
    title=TEXT,
    status=whole(400, 599),
    detail=says(TEXT, "A sentence for people: the field, what was expected, what came"),
    code=says(TEXT, f"Stable, for programs. Today: {', '.join(sorted(ERRORS_BY_CODE))}"),
    field=says(TEXT, "The input or setting at fault"),
    errors=many(thing("One of several things that do not fit", field=TEXT, detail=TEXT)),
    request_id=says(TEXT, "X-Request-ID of the request"),
    retry_after=says(NUMBER, "Seconds after which to ask again"),
) | {"additionalProperties": True}
_REPLICA = thing(
    "One process that has one variant loaded, with what it said of itself last",
    id=TEXT,
    deployment=NAME,
    version=whole(1, 999_999_999),
    variant=NAME,
    spec_digest=says(TEXT, "Replicas with the same digest are interchangeable"),
    state={"type": "string", "enum": ["starting", "ready", "draining", "failed"]},
    pid=whole(0, (1 << 31) - 1),
    started_at=TIME,
    socket=says(TEXT, "Path of its unix socket on the server"),
    reason=says(TEXT, "Why it is not ready"),
    rss_bytes=maybe(whole(description="Resident memory")),
    served=maybe(whole(description="Requests answered")),
    queued=maybe(whole(description="Requests waiting")),
)
_DEPLOYMENT: dict[str, Schema] = {
    "name": NAME,
    "model": NAME,
    "targets": many(ref("Target")),
    "scaling": ref("Scaling"),
    "default": says(FLAG, "Whether `/predict` without a name calls it"),
    "gate": says(TEXT, "Rule over evidence that a variant must satisfy; empty: none"),
    "revision": whole(1, description="Counts its changes"),
    "ready": whole(description="Replicas that answer"),
    "desired": whole(description="Replicas that shall answer"),
    "state": {"type": "string", "enum": ["ready", "starting", "updating", "failed", "stopped"]},
    "reason": says(TEXT, "Why it is not as it shall be; empty if it is"),
}
_KEY: dict[str, Schema] = {
    "id": TEXT,
    "name": NAME,
    "scopes": many({"type": "string", "enum": SCOPES}),
    "created_at": TIME,
    "revoked_at": maybe(TIME),
}
_IDENTITY: dict[str, Schema] = {
    "model": NAME,
    "number": whole(1, 999_999_999),
    "digest": says(SHA256, "SHA-256 of the manifest"),
    "created_at": TIME,
}
_EXPLANATION = thing(
    "Shapley values by sampling, of one element of one output for one row",
    deployment=NAME,
    model=NAME,
    version=whole(1, 999_999_999),
    variant=NAME,
    output=TEXT,
    target=whole(0, MAX_ELEMENTS, "Which element of the output: its flat index"),
    label=maybe(says(TEXT, "The element's name, if it has one")),
    units=maybe(TEXT),
    prediction=says(NUMBER, "What the model says of this row"),
    baseline=says(NUMBER, "What it says of the background, on average"),
    attributions=many(ref("Attribution")),
    additivity_error=says(NUMBER, "prediction − baseline − the sum of the values"),
    calls=whole(description="Calls of the model that this took"),
    rows=whole(description="Rows that the model answered for this"),
    samples=whole(1, 10_000, "Most rows that it was meant to ask for"),
    permutations=whole(description="Orders of the features that were walked; 0: exact values"),
    background_rows=whole(),
    seed=whole(0, (1 << 32) - 1),
    method=TEXT,
    background=says(TEXT, "`given`, or `zeros` if none was"),
    image=maybe(ref("ImageLayout")),
)
_ATTRIBUTION = thing(
    "What one feature, or one patch of an image, contributed",
    name=TEXT,
    input=TEXT,
    region=says(
        many(many(whole(0, MAX_ELEMENTS))), "[start, stop) along each axis of the input's row"
    ),
    shapley=says(NUMBER, "In the output's units"),
    standard_error=NUMBER,
    value=says(NUMBER, "The row's value; a patch's mean"),
    background=says(NUMBER, "The background's mean value"),
    units=maybe(TEXT),
)
_IMAGE = thing(
    "How the input is laid out, if it is an image",
    input=TEXT,
    height=whole(1, MAX_ELEMENTS),
    width=whole(1, MAX_ELEMENTS),
    channels=whole(0, MAX_ELEMENTS),
    layout=TEXT,
    patch=whole(1, MAX_ELEMENTS, "Side of a patch, pixels"),
)
_TENSOR_METADATA = thing(
    "", name=TEXT, datatype={"type": "string", "enum": sorted(DATATYPES)},
    shape=many(whole(-1, MAX_ELEMENTS)),
)  # fmt: skip
_TENSOR = thing(
    "A named tensor; `data` is flat or nested as the shape, or follows the JSON part in binary "
    "(parameter `binary_data_size`)",
    ("parameters", "data"),
    name=TEXT,
    shape=many(whole(1, MAX_ELEMENTS)),
    datatype={"type": "string", "enum": sorted(DATATYPES)},
    parameters=ANYTHING,
    data={"type": "array", "items": {}},
)

_ROWS: Schema = {"type": "object", "additionalProperties": True}

SCHEMAS: dict[str, Schema] = {
    "Problem": _PROBLEM,
    "Inputs": _ROWS
    | {
        "description": "A value per input of the signature: one row in its shape, or a list of "
        "rows; all agree",
        "examples": [{"x": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}],
    },
    "Outputs": _ROWS
    | {
        "description": "A value per output of the signature: for one row its value, for a list of "
        "rows a list; a shape of [1] is a plain number",
        "examples": [{"y_pred": 0.5}],
    },
    "ModelList": listing("models", "ModelSummary"),
    "ModelSummary": thing(
        "A model in a line",
        name=NAME,
        task=TEXT,
        versions=whole(1, description="How many"),
        latest=whole(1, 999_999_999, "Number of the newest"),
        created_at=TIME,
        updated_at=TIME,
    ),
    "Model": thing("A model with its versions", name=NAME, versions=many(ref("VersionSummary"))),
    "VersionSummary": thing(
        "A version in a line",
        number=whole(1, 999_999_999),
        created_at=TIME,
        created_by=TEXT,
        digest=SHA256,
        task=TEXT,
        variants=many(NAME),
    ),
    "Published": thing("What a publication became", **_IDENTITY),
    "Version": thing(
        "A version with manifest and evidence",
        **_IDENTITY,
        created_by=says(TEXT, "Name of the key that published it"),
        manifest=ref("Manifest"),
        variants=many(ref("Variant")),
        evidence=many(ref("Evidence")),
    ),
    "StoredFile": thing("", sha256=SHA256, size=whole()),
    "Deployment": thing("What shall answer under a name, and whether it does", **_DEPLOYMENT),
    "DeploymentList": listing("deployments", "Deployment"),
    "DeploymentStatus": thing(
        "A deployment with its replicas", **_DEPLOYMENT, replicas=many(ref("Replica"))
    ),
    "Replica": _REPLICA,
    "Gateway": thing("", source=TEXT, requests=whole()),
    "Status": thing(
        "What shall run, what runs, and why the two differ",
        version=says(TEXT, "Of OpenMaaS"),
        uptime_s=NUMBER,
        deployments=many(ref("DeploymentStatus")),
        gateways=many(ref("Gateway")),
        artifacts_url=TEXT,
        database=says(TEXT, "Without its password"),
        machine=ref("Machine"),
        runtimes=many(ref("InstalledRuntime")),
    ),
    "Machine": thing(
        "What the server runs on",
        processor=TEXT,
        cores=whole(1, description="That the server may use"),
        memory_bytes=whole(),
        system=TEXT,
    ),
    "InstalledRuntime": thing(
        "A runtime that this server knows",
        name=TEXT,
        library=says(maybe(TEXT), "What it would load models with; null if that is missing"),
    ),
    "Key": thing("A key without its token", **_KEY),
    "CreatedKey": thing("A key with its token, which nothing shows again", **_KEY, token=TEXT),
    "KeyList": listing("keys", "Key"),
    "Usage": thing(
        "Totals of one key on one deployment, one operation and one day",
        key_id=TEXT,
        key_name=TEXT,
        deployment=NAME,
        operation={
            "type": "string",
            "enum": [
                "predict",
                "explain",
                "chat",
                "completions",
                "embeddings",
                "transcriptions",
                "messages",
                "rerank",
            ],
        },
        day=says(TEXT, "YYYY-MM-DD, UTC"),
        requests=whole(description="Answers with status 200"),
        rows=whole(),
        errors=whole(description="Requests that were refused or failed after the key was known"),
        compute_us=whole(description="Share of the model's run time, microseconds"),
        prompt_tokens=whole(description="As the engines counted them"),
        completion_tokens=whole(description="Also those of answers that nobody waited for"),
    ),
    "UsageList": listing("usage", "Usage"),
    "JobList": listing("jobs", "Job"),
    "Explanation": _EXPLANATION,
    "Attribution": _ATTRIBUTION,
    "ImageLayout": _IMAGE,
    "ServerMetadata": thing("", name=TEXT, version=TEXT, extensions=many(TEXT)),
    "ServerLive": thing("", live=FLAG),
    "ServerReady": thing("", ready=FLAG),
    "ModelReady": thing("", name=NAME, ready=FLAG),
    "ModelMetadata": thing(
        "A deployment as a model of the protocol",
        name=NAME,
        versions=many(TEXT),
        platform=TEXT,
        inputs=many(ref("TensorMetadata")),
        outputs=many(ref("TensorMetadata")),
    ),
    "TensorMetadata": _TENSOR_METADATA,
    "Tensor": _TENSOR,
    "RequestedOutput": thing("", ("parameters",), name=TEXT, parameters=ANYTHING),
    "InferRequest": thing(
        "",
        ("id", "outputs", "parameters"),
        id=TEXT,
        inputs=many(ref("Tensor")),
        outputs=many(ref("RequestedOutput")),
        parameters=ANYTHING,
    ),
    "InferResponse": thing(
        "", ("id",), id=TEXT, model_name=TEXT, model_version=TEXT, outputs=many(ref("Tensor"))
    ),
    "InferError": thing("The protocol's own shape of an error", error=TEXT),
}
