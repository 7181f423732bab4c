"""Types of fields that several protocols share, with their bounds."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from maas.domain.names import NAME

MAX_MESSAGES = 4096
MAX_TOOLS = 128
MAX_TOKENS = 1 << 24
MAX_TOKEN_ID = (1 << 31) - 1
MAX_EXACT = (1 << 53) - 1
"""The largest integer that every JSON reader keeps exactly."""

DeploymentName = Annotated[str, Meta(pattern=f"^{NAME.pattern}$")]
ModelName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        description="Name of the deployment",
        extra_json_schema={"pattern": f"^{NAME.pattern}$"},
    ),
]
"""The pattern is documented, not checked: another name is a deployment that does not exist."""
Stop = Annotated[str, Meta(min_length=1, max_length=1024)]
Probability = Annotated[float, Meta(ge=0, le=1)]
TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
TokenLimit = Annotated[
    int, Meta(ge=1, le=MAX_TOKENS, description="Maximum number of tokens to generate")
]
FunctionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CallId = Annotated[str, Meta(min_length=1, max_length=256)]
Description = Annotated[str, Meta(max_length=16_384)]
Count = Annotated[int, Meta(ge=0, le=MAX_EXACT)]
Index = Annotated[int, Meta(ge=0, le=1 << 16)]
Timestamp = Annotated[int, Meta(ge=0, le=MAX_EXACT, description="Seconds since the epoch, UTC")]
JsonObject = dict[str, Any]
