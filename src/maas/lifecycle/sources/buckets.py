"""Objects in S3, Google Cloud Storage and Azure Blob Storage, with resumed downloads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from maas.domain.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    StorageFailed,
    Unavailable,
)
from maas.domain.names import shown
from maas.lifecycle.sources.base import (
    Fetched,
    ObjectStoreAccess,
    SourceEntry,
    SourceRequest,
    checked_file_name,
    choose,
    named,
)
from maas.lifecycle.sources.local import from_path
from maas.lifecycle.sources.workspace import DownloadLimits, ExpectedDigest, PartialDownload

MAX_LISTED = 10_000
ATTEMPTS = 5
PIECE_BYTES = 1 << 20
_SOURCE = re.compile(r"(s3|gs|az)://([a-z0-9][a-z0-9._-]{1,62})/([^?#]{1,1024})")
_ERROR_CODE = re.compile(r"<Code>(\w{1,60})</Code>")


def fetch(request: SourceRequest, folder: Path) -> Fetched:
    """Fetches `s3://BUCKET/KEY` (or `gs://`, `az://`); a `/` at the end means all objects below."""
    match = _SOURCE.fullmatch(request.source)
    if match is None:
        # An address with "@" may contain a password.
        got = "" if "@" in request.source else f"; got {shown(request.source)}"
        raise InvalidInput(f"a source in a bucket is s3://bucket/key{got}", field="source")
    scheme, bucket, key = match.groups()
    store = _Bucket(f"{scheme}://{bucket}", _open(scheme, bucket, request.access.stores))
    origin: dict[str, Any] = {"kind": scheme, "uri": request.source}
    if not key.endswith("/"):
        target = folder / checked_file_name(request.file or key)
        origin["sha256"] = _download(store, key, target, request)
        return from_path(target, replace(request, file=None), folder, origin)
    entries = store.entries(key)
    files = {}
    for entry in choose(entries, request.file, request.source):
        target = folder / named(entry.path)
        _download(store, key + entry.path, target, replace(request, sha256=None))
        files[target.name] = target
    return Fetched(files, origin)


def _download(store: _Bucket, key: str, target: Path, request: SourceRequest) -> str:
    """Downloads an object to `target` unless it is there, and returns its SHA-256."""
    if not target.exists():
        etag, size = store.head(key)
        partial = PartialDownload(target, f"{etag} {size}")
        limits = DownloadLimits(size, request.access.max_bytes, request.progress)
        for attempt in range(ATTEMPTS):
            before = partial.size
            if before >= size:
                break
            try:
                partial.grow(store.read(key, before, etag), before, limits)
            except Unavailable:
                if attempt == ATTEMPTS - 1 and partial.size <= before:
                    raise
        if partial.size != size:
            raise Unavailable(f"{store.url} sent {partial.size} of the {size} bytes of {key}")
        partial.finish(ExpectedDigest(request.sha256) if request.sha256 else None)
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Bucket:
    """A bucket whose errors are errors of OpenMaaS. Of a service's response they contain only the
    error code, because responses repeat parts of the request's signature."""

    def __init__(self, url: str, store: Any) -> None:
        self.url = url
        self._store = store

    def head(self, key: str) -> tuple[str, int]:
        """(ETag, size)"""
        with self._source_errors(key):
            metadata = obstore.head(self._store, key)
            return str(metadata["e_tag"] or ""), int(metadata["size"])

    def read(self, key: str, start: int, etag: str) -> Iterator[bytes]:
        """Chunks of the object from byte `start` on, if its ETag is unchanged."""
        with self._source_errors(key):
            options: dict[str, Any] = {"range": {"offset": start}} if start else {}
            if etag:
                options["if_match"] = etag
            answer = obstore.get(self._store, key, options=options)  # type: ignore[arg-type]
            for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    def entries(self, prefix: str) -> list[SourceEntry]:
        """All objects below a prefix, by their path relative to it."""
        entries: list[SourceEntry] = []
        with self._source_errors(prefix):
            for page in obstore.list(self._store, prefix.rstrip("/")):
                for item in page:
                    path = str(item["path"]).removeprefix(prefix)
                    entries.append(SourceEntry(path, int(item["size"])))
                if len(entries) > MAX_LISTED:
                    raise InvalidInput(f"{self.url}/{prefix} has more than {MAX_LISTED} objects")
        if not entries:
            raise NotFound(f"there is no object below {self.url}/{prefix}")
        return sorted(entries, key=lambda e: e.path)

    @contextmanager
    def _source_errors(self, key: str) -> Iterator[None]:
        where = f"{self.url}/{shown(key, 200)[1:-1]}"
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"there is no {where}") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Forbidden(
                f"these credentials do not permit reading {where} ({_code(error) or 403}); check "
                "the settings of [pull]"
            ) from None
        except PreconditionError:
            raise StorageFailed(f"{where} changed while it was read") from None
        except BaseError as error:
            reason = _code(error) or str(error).split("\n")[0].rpartition(" - ")[2]
            kind = Unavailable if isinstance(error, GenericError) else StorageFailed
            raise kind(f"{where} could not be read: {shown(reason, 120)}") from None


def _open(scheme: str, bucket: str, access: ObjectStoreAccess) -> Any:
    """The store of a bucket; does not connect yet."""
    client: Any = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(hours=12)}
    if access.s3_endpoint and scheme == "s3":
        parts = urlsplit(access.s3_endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise InvalidInput("pull.s3_endpoint must be http://host:port or https://host:port")
        client["allow_http"] = parts.scheme == "http"
    config: dict[str, Any] = {
        "s3": {
            "region": access.s3_region,
            "endpoint": access.s3_endpoint,
            "access_key_id": access.s3_access_key_id,
            "secret_access_key": access.s3_secret_access_key,
        },
        "gs": {"service_account": access.gs_service_account_file},
        "az": {"account_name": access.az_account, "account_key": access.az_access_key},
    }[scheme]
    settings = {name: value for name, value in config.items() if value}
    retries: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
    kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    try:
        return kinds[scheme](bucket, config=settings, client_options=client, retry_config=retries)
    except (BaseError, ValueError, TypeError):
        # The library's message may repeat the credentials.
        raise InvalidInput(
            f"the settings of [pull] for {scheme}:// are invalid; docs/howto/pull.md describes them"
        ) from None


def _code(error: Exception) -> str:
    """The error code in a response, for example `NoSuchBucket`; '' if there is none."""
    match = _ERROR_CODE.search(str(error))
    return match[1] if match else ""
