"""Every error that OpenMaaS reports, each with a stable code and the HTTP status of every door.

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
    """Something went wrong inside OpenMaaS."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(
        self, message: str | None = None, *, retry_after: float | None = None, **details: Any
    ) -> None:
        """`retry_after` is in seconds; `details` must be JSON values and reach the client."""
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.retry_after = retry_after
        self.details = details

    @property
    def message(self) -> str:
        return str(self.args[0])

    def to_problem(self, request_id: str | None = None) -> dict[str, Any]:
        """The RFC 9457 problem document of this error."""
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
    """The request is not well formed."""

    code = "bad_request"
    status = 400


class MalformedBody(BadRequest):
    """The body is not what its content type says."""

    code = "malformed_body"


class ContextLengthExceeded(BadRequest):
    """The input is longer than the model can read at once."""

    code = "context_length_exceeded"


class Unauthenticated(MaasError):
    """A valid key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    code = "unauthenticated"
    status = 401


class Forbidden(MaasError):
    """This key may not do that."""

    code = "forbidden"
    status = 403


class NotFound(MaasError):
    """There is no such thing here."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """No deployment of this name can do what is asked here."""

    code = "model_not_found"


class MethodNotAllowed(MaasError):
    """This path does not take that method."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(MaasError):
    """The request did not arrive in time."""

    code = "request_timeout"
    status = 408


class Conflict(MaasError):
    """The request contradicts the present state."""

    code = "conflict"
    status = 409


class BodyTooLarge(MaasError):
    """The body is larger than this route takes."""

    code = "body_too_large"
    status = 413


class UnsupportedMediaType(MaasError):
    """This content type is not taken here."""

    code = "unsupported_media_type"
    status = 415


class InvalidInput(MaasError):
    """An input does not fit what was expected."""

    code = "invalid_input"
    status = 422


class UnsafeArtifact(InvalidInput):
    """The file could run code when loaded, or reaches outside itself."""

    code = "unsafe_artifact"


class InferenceFailed(InvalidInput):
    """The model could not answer for this input."""

    code = "inference_failed"


class HeadersTooLarge(MaasError):
    """The request's headers are larger than the server takes."""

    code = "headers_too_large"
    status = 431


class StorageFailed(MaasError):
    """The artifact store did not do what was asked."""

    code = "storage_failed"
    status = 502


class ArtifactCorrupt(StorageFailed):
    """A stored file is not the file that was published."""

    code = "artifact_corrupt"


class Unavailable(MaasError):
    """This cannot be answered at the moment."""

    code = "unavailable"
    status = 503


class Overloaded(Unavailable):
    """More was asked than can be answered in time."""

    code = "overloaded"


class ReplicaLost(Unavailable):
    """The process that was to answer ended before it did."""

    code = "replica_lost"


class DeadlineExceeded(MaasError):
    """The answer was not ready by the request's deadline."""

    code = "deadline_exceeded"
    status = 504


class OutOfSpace(MaasError):
    """There is no space left to store this."""

    code = "out_of_space"
    status = 507


def _tree(root: type[MaasError]) -> dict[str, type[MaasError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


ERRORS_BY_CODE: dict[str, type[MaasError]] = _tree(MaasError)


def error_from_problem(problem: dict[str, Any]) -> MaasError:
    """The error that a problem document (RFC 9457) describes; `MaasError` for an unknown code."""
    kind = ERRORS_BY_CODE.get(str(problem.get("code")), MaasError)
    known = {"type", "title", "status", "detail", "code", "request_id", "retry_after"}
    details = {str(k): v for k, v in problem.items() if k not in known}
    retry_after = problem.get("retry_after")
    return kind(
        str(problem.get("detail") or problem.get("title") or kind.__doc__),
        retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
        **details,
    )
