"""Types of control's answers, for the OpenAPI document.

Control builds its answers from the domain's objects, which know nothing of JSON Schema; the types
here describe them, and tests/contract/test_openapi.py compares them with real answers. A type's
name in the document is its name without `View`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from maas.domain.errors import ERRORS_BY_CODE
from maas.domain.keys import Scope
from maas.domain.names import SHA256
from maas.domain.signature import MAX_ELEMENTS
from maas.protocols.bounds import MAX_EXACT, Count, DeploymentName

Name = DeploymentName
Digest = Annotated[str, Meta(pattern=f"^{SHA256.pattern}$")]
Time = Annotated[float, Meta(description="Seconds since the epoch, UTC")]
Positive = Annotated[int, Meta(ge=1, le=MAX_EXACT)]
VersionNumber = Annotated[int, Meta(ge=1, le=999_999_999)]
Element = Annotated[int, Meta(ge=0, le=MAX_ELEMENTS)]
Size = Annotated[int, Meta(ge=1, le=MAX_ELEMENTS)]
ScopeName = Annotated[str, Meta(extra_json_schema={"enum": [str(scope) for scope in Scope]})]


def _body(name: str) -> Meta:
    """A reference to the schema of a request body of control, which answers repeat."""
    return Meta(extra_json_schema={"$ref": f"#/components/schemas/{name}"})


Evidence = Annotated[Any, _body("Evidence")]
Job = Annotated[Any, _body("Job")]
Manifest = Annotated[Any, _body("Manifest")]
Scaling = Annotated[Any, _body("Scaling")]
Target = Annotated[Any, _body("Target")]
Variant = Annotated[Any, _body("Variant")]


class FieldErrorView(Struct):
    """One of several errors in a request."""

    field: str
    detail: str


class ProblemView(Struct, kw_only=True):
    """A problem document (RFC 9457). Some codes have further fields."""

    type: Annotated[str, Meta(description="urn:maas:error:CODE")]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: Annotated[
        str,
        Meta(description="A sentence for people: the field, what was expected and what came"),
    ]
    code: Annotated[
        str,
        Meta(description=f"Stable, for programs. Today: {', '.join(sorted(ERRORS_BY_CODE))}"),
    ]
    field: Annotated[str | UnsetType, Meta(description="The input or setting at fault")] = UNSET
    errors: list[FieldErrorView] | UnsetType = UNSET
    request_id: Annotated[str | UnsetType, Meta(description="X-Request-ID of the request")] = UNSET
    retry_after: Annotated[float | UnsetType, Meta(description="Seconds after which to retry")] = (
        UNSET
    )


# -- models -----------------------------------------------------------------------------------


class ModelSummaryView(Struct):
    """A model in a list."""

    name: Name
    task: str
    versions: Annotated[Positive, Meta(description="Number of versions")]
    latest: Annotated[VersionNumber, Meta(description="Number of the newest version")]
    created_at: Time
    updated_at: Time


class ModelListView(Struct):
    models: list[ModelSummaryView]


class VersionSummaryView(Struct):
    """A version in a list."""

    number: VersionNumber
    created_at: Time
    created_by: str
    digest: Digest
    task: str
    variants: list[Name]


class ModelView(Struct):
    """A model with its versions."""

    name: Name
    versions: list[VersionSummaryView]


class PublishedView(Struct):
    """The version that a publication created."""

    model: Name
    number: VersionNumber
    digest: Annotated[Digest, Meta(description="SHA-256 of the manifest")]
    created_at: Time


class VersionView(PublishedView):
    """A version with its manifest and evidence."""

    created_by: Annotated[str, Meta(description="Name of the key that published it")]
    manifest: Manifest
    variants: list[Variant]
    evidence: list[Evidence]


class StoredFileView(Struct):
    sha256: Digest
    size: Count


# -- deployments ------------------------------------------------------------------------------


class DeploymentView(Struct):
    """The desired state of a deployment, and whether it has been reached."""

    name: Name
    model: Name
    targets: list[Target]
    scaling: Scaling
    default: Annotated[bool, Meta(description="Whether `/predict` without a name calls it")]
    gate: Annotated[
        str, Meta(description="Rule over evidence that a variant must satisfy; empty: none")
    ]
    revision: Annotated[Positive, Meta(description="Counts the deployment's changes")]
    ready: Annotated[Count, Meta(description="Replicas that are ready")]
    desired: Annotated[Count, Meta(description="Desired number of replicas")]
    state: Literal["ready", "starting", "updating", "failed", "stopped"]
    reason: Annotated[str, Meta(description="Why the desired state is not reached; empty if it is")]


class DeploymentListView(Struct):
    deployments: list[DeploymentView]


class ReplicaView(Struct):
    """A process that serves one variant, with its latest statistics."""

    id: str
    deployment: Name
    version: VersionNumber
    variant: Name
    spec_digest: Annotated[
        str, Meta(description="Replicas with the same digest are interchangeable")
    ]
    state: Literal["starting", "ready", "draining", "failed"]
    pid: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
    started_at: Time
    socket: Annotated[str, Meta(description="Path of its unix socket on the server")]
    reason: Annotated[str, Meta(description="Why it is not ready")]
    rss_bytes: Annotated[Count, Meta(description="Resident memory")] | None
    served: Annotated[Count, Meta(description="Requests answered")] | None
    queued: Annotated[Count, Meta(description="Requests waiting")] | None


class DeploymentStatusView(DeploymentView):
    """A deployment with its replicas."""

    replicas: list[ReplicaView]


# -- the server -------------------------------------------------------------------------------


class GatewayView(Struct):
    source: str
    requests: Count


class MachineView(Struct):
    """The machine on which the server runs."""

    processor: str
    cores: Annotated[Positive, Meta(description="Cores that the server may use")]
    memory_bytes: Count
    system: str


class InstalledRuntimeView(Struct):
    """A runtime that this server supports."""

    name: str
    library: Annotated[
        str | None, Meta(description="The library that loads its models; null if it is missing")
    ]


class StatusView(Struct):
    """The desired state, the actual state, and why they differ."""

    version: Annotated[str, Meta(description="Version of OpenMaaS")]
    uptime_s: float
    deployments: list[DeploymentStatusView]
    gateways: list[GatewayView]
    artifacts_url: str
    database: Annotated[str, Meta(description="URL without its password")]
    machine: MachineView
    runtimes: list[InstalledRuntimeView]


# -- keys, usage and jobs ---------------------------------------------------------------------


class KeyView(Struct):
    """A key without its token."""

    id: str
    name: Name
    scopes: list[ScopeName]
    created_at: Time
    revoked_at: Time | None


class CreatedKeyView(KeyView):
    """A key with its token, which is shown only once."""

    token: str


class KeyListView(Struct):
    keys: list[KeyView]


class UsageView(Struct):
    """Totals of one key for one deployment, operation and day."""

    key_id: str
    key_name: str
    deployment: Name
    operation: Literal[
        "predict",
        "explain",
        "chat",
        "completions",
        "embeddings",
        "transcriptions",
        "messages",
        "rerank",
    ]
    day: Annotated[str, Meta(description="YYYY-MM-DD, UTC")]
    requests: Annotated[Count, Meta(description="Answers with status 200")]
    rows: Count
    errors: Annotated[
        Count, Meta(description="Requests that were refused or failed after the key was accepted")
    ]
    compute_us: Annotated[Count, Meta(description="Share of the model's run time, microseconds")]
    prompt_tokens: Annotated[Count, Meta(description="As counted by the engines")]
    completion_tokens: Annotated[
        Count, Meta(description="Includes tokens generated after the client disconnected")
    ]


class UsageListView(Struct):
    usage: list[UsageView]


class JobListView(Struct):
    jobs: list[Job]


# -- explanations -----------------------------------------------------------------------------


class AttributionView(Struct):
    """The contribution of one feature, or of one patch of an image."""

    name: str
    input: str
    region: Annotated[
        list[list[Element]], Meta(description="[start, stop) along each axis of the input's row")
    ]
    shapley: Annotated[float, Meta(description="In the output's units")]
    standard_error: float
    value: Annotated[float, Meta(description="The row's value; for a patch, its mean")]
    background: Annotated[float, Meta(description="Mean value of the background")]
    units: str | None


class ImageLayoutView(Struct):
    """The layout of an input that is an image."""

    input: str
    height: Size
    width: Size
    channels: Element
    layout: str
    patch: Annotated[Size, Meta(description="Side of a patch, pixels")]


class ExplanationView(Struct):
    """Sampled Shapley values of one element of one output for one row."""

    deployment: Name
    model: Name
    version: VersionNumber
    variant: Name
    output: str
    target: Annotated[Element, Meta(description="Flat index of the element in the output")]
    label: Annotated[str, Meta(description="The element's name, if it has one")] | None
    units: str | None
    prediction: Annotated[float, Meta(description="The model's output for the row")]
    baseline: Annotated[float, Meta(description="Mean output for the background")]
    attributions: list[AttributionView]
    additivity_error: Annotated[
        float, Meta(description="prediction − baseline − the sum of the values")
    ]
    calls: Annotated[Count, Meta(description="Calls of the model")]
    rows: Annotated[Count, Meta(description="Rows that the model predicted")]
    samples: Annotated[int, Meta(ge=1, le=10_000, description="Maximum number of rows")]
    permutations: Annotated[
        Count, Meta(description="Sampled orders of the features; 0: the values are exact")
    ]
    background_rows: Count
    seed: Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
    method: str
    background: Annotated[str, Meta(description="`given`, or `zeros` if none was sent")]
    image: ImageLayoutView | None
