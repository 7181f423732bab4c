"""Schemas of request bodies. Unknown fields are refused, and values are not coerced."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from maas.domain.deployments import Scaling
from maas.domain.jobs import Job, JobState, Progress
from maas.domain.keys import Scope
from maas.domain.models import Evidence, Manifest, Variant
from maas.domain.signature import MAX_ELEMENTS

ScopeName = Literal["call", "read", "write", "admin"]
JobKind = Literal["build", "evaluate", "optimize"]
StateName = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]
Count = Annotated[int, Field(ge=0, le=1 << 53)]
VersionNumber = Annotated[int, Field(ge=1, le=999_999_999)]
# The domain checks these ranges and words the errors; here they only document the API.
Dimension = Annotated[int, Field(json_schema_extra={"minimum": -1, "maximum": MAX_ELEMENTS})]
Weight = Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": 1000})]
Replicas = Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": 64})]
Rows = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": 65536})]
Threads = Annotated[int, Field(json_schema_extra={"minimum": 1, "maximum": 256})]
Element = Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": MAX_ELEMENTS})]
Text = Annotated[str, Field(max_length=65536)]
ShortText = Annotated[str, Field(max_length=512)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TensorBody(Body):
    name: str
    datatype: str
    shape: list[Dimension] = []
    units: ShortText | None = None
    description: Text | None = None
    labels: list[ShortText] = []
    default: ShortText | float | bool | None = None
    nested: bool = False


class SignatureBody(Body):
    inputs: list[TensorBody]
    outputs: list[TensorBody]
    example: dict[str, Any] = {}
    max_rows: Annotated[int, Field(ge=1, le=(1 << 31) - 1)] | None = None


class FileBody(Body):
    name: str
    sha256: str
    size: Count


class VariantBody(Body):
    name: str
    runtime: ShortText
    files: Annotated[list[FileBody], Field(max_length=256)]
    options: dict[str, Any] = {}

    def to_domain(self) -> Variant:
        return Variant.from_dict(self.model_dump())


class ManifestBody(Body):
    model: str
    task: Literal[
        "regression",
        "binary-classification",
        "multiclass-classification",
        "text-generation",
        "embedding",
        "transcription",
        "translation",
        "image-classification",
        "text-classification",
        "other",
    ] = "other"
    signature: SignatureBody
    variants: Annotated[list[VariantBody], Field(max_length=64)]
    description: Text = ""
    metadata: dict[str, Any] = {}

    def to_domain(self) -> Manifest:
        return Manifest.from_dict(self.model_dump())


class EvidenceBody(Body):
    kind: str
    values: dict[str, Any]
    how: dict[str, Any]
    variant: str | None = None
    file: FileBody | None = None
    created_at: float = 0.0

    def to_domain(self) -> Evidence:
        return Evidence.from_dict(self.model_dump())


class TargetBody(Body):
    version: VersionNumber
    variant: str | None = None
    """Default: the first variant of the version."""
    weight: Weight = 100


class ScalingBody(Body):
    replicas: Replicas | None = None
    max_batch: Rows | None = None
    queue_limit: Rows | None = None
    threads: Threads | None = None

    def over(self, present: Scaling) -> Scaling:
        """`present` with the fields that this body sets."""
        return replace(present, **self.model_dump(exclude_none=True))


class DeploymentBody(Body):
    """Omitted fields keep their value, or get their default in a new deployment. With only a model,
    all traffic moves to its newest version."""

    model: str
    version: VersionNumber | None = None
    variant: str | None = None
    """Default: the variant that the deployment has for this version, if there is exactly one, else
    the version's first. `auto`: the variant that the newest optimization marked best."""
    targets: Annotated[list[TargetBody], Field(max_length=64)] | None = None
    scaling: ScalingBody | None = None
    default: bool | None = None
    """true: this deployment answers requests that name none, instead of the present default. false
    has no effect, because a default remains until another deployment replaces it."""
    gate: ShortText | None = None
    """Rule that the evidence of every target must satisfy, for example `accuracy>=-0.01`; empty: no
    rule."""


class KeyBody(Body):
    name: str
    scopes: Annotated[list[ScopeName], Field(min_length=1)]

    def to_scopes(self) -> list[Scope]:
        return sorted({Scope(s) for s in self.scopes}, key=list(Scope).index)


class ProgressBody(Body):
    done: Count = 0
    total: Count = 0
    message: ShortText = ""
    values: dict[ShortText, float] = {}
    eta_seconds: float | None = None

    def to_domain(self) -> Progress:
        return Progress(**self.model_dump())


class JobBody(Body):
    """As `Job.to_dict()` returns it. The server sets the times and the cancel flag."""

    kind: JobKind
    name: str
    id: str | None = None
    state: StateName = "queued"
    progress: ProgressBody = ProgressBody()
    spec: dict[str, Any] = {}
    result: dict[str, Any] = {}
    error: Text = ""
    cancel_requested: bool = False
    created_at: float = 0.0
    updated_at: float = 0.0

    def to_domain(self, job_id: str) -> Job:
        return Job(
            id=job_id,
            kind=self.kind,
            name=self.name,
            state=JobState(self.state),
            progress=self.progress.to_domain(),
            spec=self.spec,
            result=self.result,
            error=self.error,
        )


class JobChangeBody(Body):
    state: StateName | None = None
    progress: ProgressBody | None = None
    result: dict[str, Any] | None = None
    error: Text | None = None


class ExplainBody(Body):
    inputs: dict[str, Any]
    """One row: a value per input of the signature."""
    output: str | None = None
    target: Element | str | None = None
    """Element of the output: its index or its label."""
    samples: Annotated[int, Field(ge=64, le=10_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
    background: dict[str, Any] | None = None
    """Background rows: a list of values per input."""
