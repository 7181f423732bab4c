"""Every error that OpenMaaS reports, with its stable code, its HTTP status and its title.

The docstring of a class is the title of its problem document (RFC 9457), and the detail of an
error that is raised without a message.

MaasError
├── BadRequest 400 ─ MalformedBody 400, ContextLengthExceeded 400
├── Unauthenticated 401
├── Forbidden 403
├── NotFound 404 ─ ModelNotFound 404
├── MethodNotAllowed 405
├── RequestTimeout 408
├── Conflict 409
├── BodyTooLarge 413
├── UnsupportedMediaType 415
├── InvalidInput 422 ─ UnsafeArtifact 422, InferenceFailed 422
├── HeadersTooLarge 431
├── StorageFailed 502 ─ ArtifactCorrupt 502
├── Unavailable 503 ─ Overloaded 503, ReplicaLost 503
├── DeadlineExceeded 504
└── OutOfSpace 507
"""

from __future__ import annotations

from typing import Any, ClassVar


class MaasError(Exception):
    """Internal server error."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(
        self, message: str | None = None, *, retry_after: float | None = None, **details: Any
    ) -> None:
        """`retry_after` is in seconds. `details` are JSON values; clients see them."""
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.retry_after = retry_after
        self.details = details

    @property
    def message(self) -> str:
        return str(self.args[0])

    def to_problem(self, request_id: str | None = None) -> dict[str, Any]:
        """This error as an RFC 9457 problem document."""
        problem: dict[str, Any] = {
            "type": f"urn:maas:error:{self.code}",
            "title": (type(self).__doc__ or "").strip().split("\n")[0],
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            **self.details,
        }
        if request_id:
            problem["request_id"] = request_id
        if self.retry_after is not None:
            problem["retry_after"] = self.retry_after
        return problem


class BadRequest(MaasError):
    """The request is malformed."""

    code = "bad_request"
    status = 400


class MalformedBody(BadRequest):
    """The body does not match its content type."""

    code = "malformed_body"


class ContextLengthExceeded(BadRequest):
    """The input exceeds the model's context length."""

    code = "context_length_exceeded"


class Unauthenticated(MaasError):
    """A valid API key is required: send `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    code = "unauthenticated"
    status = 401


class Forbidden(MaasError):
    """Permission denied."""

    code = "forbidden"
    status = 403


class NotFound(MaasError):
    """Not found."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """No deployment of this name supports this operation."""

    code = "model_not_found"


class MethodNotAllowed(MaasError):
    """Method not allowed."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(MaasError):
    """The request did not arrive in time."""

    code = "request_timeout"
    status = 408


class Conflict(MaasError):
    """The request conflicts with the current state."""

    code = "conflict"
    status = 409


class BodyTooLarge(MaasError):
    """The request body is too large."""

    code = "body_too_large"
    status = 413


class UnsupportedMediaType(MaasError):
    """Unsupported media type."""

    code = "unsupported_media_type"
    status = 415


class InvalidInput(MaasError):
    """The input is invalid."""

    code = "invalid_input"
    status = 422


class UnsafeArtifact(InvalidInput):
    """The file could run code when it is loaded, or refers to data outside itself."""

    code = "unsafe_artifact"


class InferenceFailed(InvalidInput):
    """The model could not process this input."""

    code = "inference_failed"


class HeadersTooLarge(MaasError):
    """The request headers are too large."""

    code = "headers_too_large"
    status = 431


class StorageFailed(MaasError):
    """The artifact store failed."""

    code = "storage_failed"
    status = 502


class ArtifactCorrupt(StorageFailed):
    """A stored file differs from the one that was published."""

    code = "artifact_corrupt"


class Unavailable(MaasError):
    """Temporarily unavailable."""

    code = "unavailable"
    status = 503


class Overloaded(Unavailable):
    """The server is overloaded."""

    code = "overloaded"


class ReplicaLost(Unavailable):
    """The replica exited before it answered."""

    code = "replica_lost"


class DeadlineExceeded(MaasError):
    """The deadline passed before the answer was ready."""

    code = "deadline_exceeded"
    status = 504


class OutOfSpace(MaasError):
    """Insufficient storage."""

    code = "out_of_space"
    status = 507


def _classes_by_code(root: type[MaasError]) -> dict[str, type[MaasError]]:
    classes = {root.code: root}
    for child in root.__subclasses__():
        classes.update(_classes_by_code(child))
    return classes


ERRORS_BY_CODE: dict[str, type[MaasError]] = _classes_by_code(MaasError)
_STANDARD_MEMBERS = frozenset(
    ("type", "title", "status", "detail", "code", "request_id", "retry_after")
)


def error_from_problem(problem: dict[str, Any]) -> MaasError:
    """The error that a problem document (RFC 9457) describes; `MaasError` for an unknown code."""
    kind = ERRORS_BY_CODE.get(str(problem.get("code")), MaasError)
    details = {str(k): v for k, v in problem.items() if k not in _STANDARD_MEMBERS}
    retry_after = problem.get("retry_after")
    return kind(
        str(problem.get("detail") or problem.get("title") or kind.__doc__),
        retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
        **details,
    )
