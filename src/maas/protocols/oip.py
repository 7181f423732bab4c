"""Requests and answers of the Open Inference Protocol v2.

Bounds of shapes and datatypes are documented here and checked against the model's signature.
Source: the protocol's `inference_rest.md` and Triton's `extension_binary_data.md`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from maas.domain.signature import DATATYPES, MAX_ELEMENTS
from maas.protocols.bounds import DeploymentName

Integer = Annotated[int, Meta(extra_json_schema={"minimum": -(1 << 63), "maximum": (1 << 63) - 1})]
Parameters = dict[str, str | Integer | float | bool]
Datatype = Annotated[str, Meta(extra_json_schema={"enum": sorted(DATATYPES)})]
Dimension = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": MAX_ELEMENTS})]
AnyDimension = Annotated[int, Meta(extra_json_schema={"minimum": -1, "maximum": MAX_ELEMENTS})]
"""-1: any size."""


class Tensor(Struct):
    """A named tensor.

    `data` is flat or nested as the shape, or follows the JSON part in binary (parameter
    `binary_data_size`).
    """

    name: str
    shape: list[Dimension]
    datatype: Datatype
    parameters: Parameters | None = None
    data: Annotated[Raw, Meta(extra_json_schema={"type": "array", "items": {}})] | UnsetType = UNSET


class RequestedOutput(Struct):
    name: str
    parameters: Parameters | None = None


class InferRequest(Struct):
    inputs: list[Tensor]
    outputs: list[RequestedOutput] | None = None
    id: str | None = None
    parameters: Parameters | None = None


class InferResponse(Struct):
    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str | UnsetType = UNSET


class InferError(Struct):
    """An error in the protocol's own shape."""

    error: str


class ServerMetadata(Struct):
    name: str
    version: str
    extensions: list[str]


class ServerLive(Struct):
    live: bool


class ServerReady(Struct):
    ready: bool


class ModelReady(Struct):
    name: DeploymentName
    ready: bool


class TensorMetadata(Struct):
    name: str
    datatype: Datatype
    shape: list[AnyDimension]


class ModelMetadata(Struct):
    """A deployment as a model of the protocol."""

    name: DeploymentName
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
