"""The operations of the HTTP API, with their bodies and responses.

Control's operations are known to FastAPI except for their responses; the gateway's are listed
here. `tests/contract/test_openapi.py` compares both lists with the routes.
"""

from __future__ import annotations

from typing import NamedTuple

_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"
_OIP, _OPENAI, _ANTHROPIC, _RERANK = "Open Inference Protocol v2", "OpenAI", "Anthropic", "rerank"

ERRORS = {
    _OIP: "InferError",
    _OPENAI: "OpenAIError",
    _ANTHROPIC: "AnthropicError",
    _RERANK: "OpenAIError",
}
"""By tag, the schema of errors where they have their protocol's shape."""

CONTROL_RESPONSES: dict[str, dict[int, str]] = {
    "list_models": {200: "ModelList"},
    "get_model": {200: "Model"},
    "get_version": {200: "Version"},
    "publish_version": {201: "Published", 200: "Published"},
    "add_evidence": {201: "Evidence"},
    "add_variant": {201: "Variant", 200: "Variant"},
    "get_file": {200: "octets"},
    "head_file": {200: ""},
    "put_file": {201: "StoredFile", 200: "StoredFile"},
    "list_deployments": {200: "DeploymentList"},
    "get_deployment": {200: "Deployment"},
    "put_deployment": {200: "Deployment"},
    "delete_deployment": {204: ""},
    "rollback_deployment": {200: "Deployment"},
    "list_keys": {200: "KeyList"},
    "create_key": {201: "CreatedKey"},
    "revoke_key": {200: "Key"},
    "get_usage": {200: "UsageList"},
    "list_jobs": {200: "JobList"},
    "get_job": {200: "Job"},
    "create_job": {201: "Job"},
    "update_job": {200: "Job"},
    "cancel_job": {200: "Job"},
    "get_log": {200: "text"},
    "get_status": {200: "Status"},
    "explain": {200: "Explanation"},
    "get_openapi": {200: "any"},
}
"""By operation and status, the schema of the body, empty for an empty body. A second status means
that nothing changed."""


class Operation(NamedTuple):
    """An operation of the gateway."""

    path: str
    method: str
    id: str
    tag: str
    scope: str
    """Empty if no key is needed."""
    summary: str
    response: str
    """Schema of the body, or `text`."""
    body: str = ""
    """Schema of the request's body, empty if it has none."""


GATEWAY_OPERATIONS = (
    Operation("/predict", "post", "predict_default", "predict", "call",
              "Call the default deployment", "Outputs", "Inputs"),
    Operation("/predict/{deployment}", "post", "predict", "predict", "call", "Call a deployment",
              "Outputs", "Inputs"),
    Operation("/v2", "get", "oip_server", _OIP, "call", "Describe this server", "ServerMetadata"),
    Operation("/v2/health/live", "get", "oip_live", _OIP, "call", "Whether the server is alive",
              "ServerLive"),
    Operation("/v2/health/ready", "get", "oip_ready", _OIP, "call",
              "Whether the server accepts requests", "ServerReady"),
    Operation(_MODEL, "get", "oip_model", _OIP, "call", "Inputs and outputs of a deployment",
              "ModelMetadata"),
    Operation(_VERSION, "get", "oip_version", _OIP, "call", "Inputs and outputs of a version",
              "ModelMetadata"),
    Operation(_MODEL + "/ready", "get", "oip_model_ready", _OIP, "call",
              "Whether a deployment is ready", "ModelReady"),
    Operation(_VERSION + "/ready", "get", "oip_version_ready", _OIP, "call",
              "Whether a version is ready", "ModelReady"),
    Operation(_MODEL + "/infer", "post", "oip_infer", _OIP, "call", "Infer", "InferResponse",
              "InferRequest"),
    Operation(_VERSION + "/infer", "post", "oip_infer_version", _OIP, "call",
              "Infer with a version", "InferResponse", "InferRequest"),
    Operation("/livez", "get", "livez", "health", "", "Whether the gateway is alive", "text"),
    Operation("/readyz", "get", "readyz", "health", "",
              "Whether the gateway has keys and deployments", "text"),
    Operation("/metrics", "get", "metrics", "health", "read",
              "Counters in Prometheus' text format", "text"),
    Operation("/v1/models", "get", "openai_models", _OPENAI, "call",
              "List the deployments that `/v1` can call", "OpenAIModelList"),
    Operation("/v1/models/{model}", "get", "openai_model", _OPENAI, "call",
              "Describe a deployment", "OpenAIModel"),
    Operation("/v1/chat/completions", "post", "openai_chat", _OPENAI, "call", "Chat",
              "ChatCompletion", "ChatRequest"),
    Operation("/v1/completions", "post", "openai_completions", _OPENAI, "call",
              "Continue a text", "Completion", "CompletionRequest"),
    Operation("/v1/embeddings", "post", "openai_embeddings", _OPENAI, "call", "Embed texts",
              "EmbeddingList", "EmbeddingRequest"),
    Operation("/v1/audio/transcriptions", "post", "openai_transcriptions", _OPENAI, "call",
              "Transcribe speech", "Transcription", "SpeechForm"),
    Operation("/v1/audio/translations", "post", "openai_translations", _OPENAI, "call",
              "Translate speech to English text", "Transcription", "SpeechForm"),
    Operation("/v1/messages", "post", "anthropic_messages", _ANTHROPIC, "call", "Chat",
              "MessagesAnswer", "MessagesRequest"),
    Operation("/v1/messages/count_tokens", "post", "anthropic_count", _ANTHROPIC, "call",
              "Count the tokens of a prompt", "CountedTokens", "CountRequest"),
    Operation("/v1/rerank", "post", "rerank", _RERANK, "call",
              "Order documents by how well they match a query", "RerankResults",
              "RerankRequest"),
    Operation("/rerank", "post", "rerank_plain", _RERANK, "call", "Same as `/v1/rerank`",
              "RerankResults", "RerankRequest"),
)  # fmt: skip
