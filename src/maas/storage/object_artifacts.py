"""An artifact store in an S3 bucket.

A file is checked on this machine before it is sent, so the bucket never shows a wrong one. It then
appears in one step: small files by a conditional create, large ones when their last part is in.
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
"""Files above this size travel in parts; below, in one request that is held in memory."""
PART_BYTES = 16 << 20
"""S3 takes 10,000 parts at most: files up to 156 GiB."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/|$))*")
_ERROR_CODE = re.compile(r"<Code>(\w{1,60})</Code>")


@dataclass(frozen=True)
class S3Options:
    """How to reach an S3 service; empty fields mean AWS and its usual credentials."""

    endpoint: str = ""
    """For example `http://127.0.0.1:8333`; empty: AWS."""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    staging: Path | None = None
    """Folder for uploads while they are checked; None: the system's temporary folder."""

    def __post_init__(self) -> None:
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise InvalidInput(
                "s3_access_key_id and s3_secret_access_key go together; only one is set",
                field="s3_access_key_id",
            )
        if not self.endpoint:
            return
        parts = urlsplit(self.endpoint)
        # The library below aborts on anything else, and a password here would reach messages.
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise InvalidInput(
                "s3_endpoint must be http://host:port or https://host:port", field="s3_endpoint"
            )


class ObjectArtifacts:
    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        """Asks nobody yet. Raises InvalidInput for a bucket or prefix that cannot be."""
        if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix):
            # Not repeated when it may hold a password.
            got = "" if "@" in bucket else f"; got {shown(f's3://{bucket}/{prefix}')}"
            raise InvalidInput(
                "artifacts_url must be s3://bucket/prefix, of letters, digits, '.', '_' and '-'"
                + got,
                field="artifacts_url",
            )
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._staging = options.staging
        self._store = _connect(bucket, prefix, options)

    def size(self, sha256: str) -> int | None:
        with self._in_our_words("look at"):
            try:
                return int(obstore.head(self._store, _key(sha256))["size"])
            except FileNotFoundError:
                return None

    def put(self, sha256: str, chunks: Iterable[bytes]) -> int:
        present = self.size(sha256)
        if present is not None:
            return present
        with files.in_our_words("stage a file"):
            if self._staging is not None:
                files.make_private_dir(self._staging)
            # It has no name, so that it is gone with this process however that ends.
            with tempfile.TemporaryFile(dir=self._staging) as staged:
                size = files.copy_verified(chunks, sha256, staged)
                staged.seek(0)
                self._upload(sha256, staged, size)
        return size

    def get(self, sha256: str) -> Iterator[bytes]:
        with self._in_our_words("read"):
            try:
                answer = obstore.get(self._store, _key(sha256))
            except FileNotFoundError as missing:
                if _error_code(missing) == "NoSuchBucket":
                    raise
                raise NotFound(
                    f"there is no file {sha256} in the artifact store", sha256=sha256
                ) from None

        def pieces() -> Iterator[bytes]:
            with self._in_our_words("read"):
                for piece in answer.stream(min_chunk_size=files.CHUNK_BYTES):
                    yield bytes(piece)

        return files.verified(pieces(), sha256, f"{self.url}/{_key(sha256)}")

    def fetch(self, sha256: str, to: Path) -> Path:
        return files.fetch_verified(lambda: self.get(sha256), sha256, to)

    def sweep(self, older_than_s: float) -> int:
        """Nothing to do: staged files have no name. Parts of an upload whose process was killed
        stay in the bucket, invisible, until its lifecycle rule for incomplete uploads runs."""
        return 0

    def _upload(self, sha256: str, staged: IO[bytes], size: int) -> None:
        with self._in_our_words("store"):
            if size > MULTIPART_BYTES:
                # No condition is needed: whoever else writes this key writes the same bytes.
                obstore.put(
                    self._store, _key(sha256), staged, chunk_size=PART_BYTES, max_concurrency=4
                )
                return
            try:
                obstore.put(self._store, _key(sha256), staged, mode="create")
            except AlreadyExistsError:
                # Somebody else stored the same bytes, or we did and the answer was lost.
                return

    @contextmanager
    def _in_our_words(self, doing: str) -> Iterator[None]:
        """Errors of the service as StorageFailed or Unavailable. What it answered stays out of
        the message but for its error code, since answers repeat headers and parts of the
        signature."""
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as wrong:
            raise StorageFailed(
                f"the artifact store {self.url} refused to {doing} a file with these "
                f"credentials ({_error_code(wrong) or 403})"
            ) from None
        except FileNotFoundError:
            raise StorageFailed(
                f"the artifact store {self.url} cannot {doing} a file: is there such a bucket?"
            ) from None
        except BaseError as wrong:
            reason = _error_code(wrong) or str(wrong).split("\n")[0].rpartition(" - ")[2]
            said = f"the artifact store {self.url} did not {doing} a file: {shown(reason, 120)}"
            if isinstance(wrong, GenericError):
                # Nobody there, or an error of the service's own: another time it may do it.
                raise Unavailable(said, retry_after=1) from None
            raise StorageFailed(said) from None


def _connect(bucket: str, prefix: str, options: S3Options) -> S3Store:
    known: S3Credential = {
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
        # Given keys are all there is: a session token in the environment belongs to others.
        credential_provider=(lambda: known) if options.access_key_id else None,
        client_options={
            "allow_http": options.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=30),
            # Of a whole request with its body, which may be large; a stall ends earlier.
            "timeout": timedelta(hours=1),
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
    )


def _key(sha256: str) -> str:
    return f"sha256/{checked_sha256(sha256)[:2]}/{sha256}"


def _error_code(wrong: Exception) -> str:
    """The S3 error code in an answer, for example `NoSuchBucket`; '' if there is none."""
    match = _ERROR_CODE.search(str(wrong))
    return match[1] if match else ""
