"""An artifact store in an S3 bucket.

A file is verified on this machine before it is uploaded, so the bucket never has a damaged one. It
appears atomically: a small file by a conditional create, a large one when its last part is in.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from maas.domain.errors import InvalidInput, NotFound, StorageFailed, Unavailable
from maas.domain.names import checked_sha256, shown
from maas.storage import files

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential

MULTIPART_BYTES = 64 << 20
"""Files above this size are uploaded in parts; smaller ones in one request from memory."""
PART_BYTES = 16 << 20
"""S3 accepts at most 10,000 parts: files up to 156 GiB."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/|$))*")
_ERROR_CODE = re.compile(r"<Code>(\w{1,60})</Code>")


@dataclass(frozen=True)
class S3Options:
    """Access to an S3 service; empty fields mean AWS and its default credentials."""

    endpoint: str = ""
    """For example `http://127.0.0.1:8333`; empty: AWS."""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    staging: Path | None = None
    """Folder for uploads during verification; None: the system's temporary folder."""

    def __post_init__(self) -> None:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise InvalidInput(
                "s3_access_key_id and s3_secret_access_key must be set together; only one is set",
                field="s3_access_key_id",
            )
        if not self.endpoint:
            return
        parts = urlsplit(self.endpoint)
        # obstore aborts on anything else, and error messages would repeat a password.
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise InvalidInput(
                "s3_endpoint must be http://host:port or https://host:port", field="s3_endpoint"
            )


class ObjectArtifacts:
    """An `ArtifactStore` in an S3 bucket."""

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        """Does no I/O. Raises InvalidInput for an invalid bucket or prefix."""
        if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix):
            # Not repeated if it may contain a password.
            actual = "" if "@" in bucket else f"; got {shown(f's3://{bucket}/{prefix}')}"
            raise InvalidInput(
                "artifacts_url must be s3://bucket/prefix with letters, digits, '.', '_' and '-'"
                + actual,
                field="artifacts_url",
            )
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._staging = options.staging
        self._store = _connect(bucket, prefix, options)

    def size(self, sha256: str) -> int | None:
        with self._service_errors("look up"):
            try:
                return int(obstore.head(self._store, _key(sha256))["size"])
            except FileNotFoundError:
                return None

    def put(self, sha256: str, chunks: Iterable[bytes]) -> int:
        present = self.size(sha256)
        if present is not None:
            return present
        with files.storage_errors("stage a file"):
            if self._staging is not None:
                files.make_private_dir(self._staging)
            # It has no name, so the system removes it even if this process is killed.
            with tempfile.TemporaryFile(dir=self._staging) as staged:
                size = files.copy_verified(chunks, sha256, staged)
                staged.seek(0)
                self._upload(sha256, staged, size)
        return size

    def get(self, sha256: str) -> Iterator[bytes]:
        with self._service_errors("read"):
            try:
                response = obstore.get(self._store, _key(sha256))
            except FileNotFoundError as missing:
                if _error_code(missing) == "NoSuchBucket":
                    raise
                raise NotFound(
                    f"there is no file {sha256} in the artifact store", sha256=sha256
                ) from None

        def chunks() -> Iterator[bytes]:
            with self._service_errors("read"):
                for chunk in response.stream(min_chunk_size=files.CHUNK_BYTES):
                    yield bytes(chunk)

        return files.verified(chunks(), sha256, f"{self.url}/{_key(sha256)}")

    def fetch(self, sha256: str, to: Path) -> Path:
        return files.fetch_verified(lambda: self.get(sha256), sha256, to)

    def sweep(self, older_than_s: float) -> int:
        """Nothing to do, because staged files have no name.

        Parts of an upload whose process was killed stay in the bucket, invisible, until the
        bucket's lifecycle rule for incomplete uploads removes them.
        """
        return 0

    def _upload(self, sha256: str, staged: IO[bytes], size: int) -> None:
        with self._service_errors("store"):
            if size > MULTIPART_BYTES:
                # No condition is needed: every writer of this key writes the same bytes.
                obstore.put(
                    self._store, _key(sha256), staged, chunk_size=PART_BYTES, max_concurrency=4
                )
                return
            try:
                obstore.put(self._store, _key(sha256), staged, mode="create")
            except AlreadyExistsError:
                # Another writer stored the same bytes, or this one did and the response was lost.
                return

    @contextmanager
    def _service_errors(self, action: str) -> Iterator[None]:
        """Translates errors of the service into StorageFailed or Unavailable.

        The message repeats only the error code of the response, because responses contain headers
        and parts of the signature.
        """
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StorageFailed(
                f"the artifact store {self.url} refused to {action} a file with these "
                f"credentials ({_error_code(error) or 403})"
            ) from None
        except FileNotFoundError:
            raise StorageFailed(
                f"the artifact store {self.url} cannot {action} a file: the bucket does not exist"
            ) from None
        except BaseError as error:
            reason = _error_code(error) or str(error).split("\n")[0].rpartition(" - ")[2]
            message = (
                f"the artifact store {self.url} failed to {action} a file: {shown(reason, 120)}"
            )
            if isinstance(error, GenericError):
                # No connection, or an error inside the service: a retry may succeed.
                raise Unavailable(message, retry_after=1) from None
            raise StorageFailed(message) from None


def _connect(bucket: str, prefix: str, options: S3Options) -> S3Store:
    credential: S3Credential = {
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
        "expires_at": None,
    }
    config: S3Config = {"region": options.region}
    if options.endpoint:
        config["endpoint"] = options.endpoint
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        # A session token in the environment belongs to other credentials, so configured keys
        # replace the environment's entirely.
        credential_provider=(lambda: credential) if options.access_key_id else None,
        client_options={
            "allow_http": options.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=30),
            # For a whole request with its body, which may be large; a stall times out earlier.
            "timeout": timedelta(hours=1),
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
    )


def _key(sha256: str) -> str:
    return f"sha256/{checked_sha256(sha256)[:2]}/{sha256}"


def _error_code(error: Exception) -> str:
    """The S3 error code in a response, for example `NoSuchBucket`; '' if there is none."""
    match = _ERROR_CODE.search(str(error))
    return match[1] if match else ""
