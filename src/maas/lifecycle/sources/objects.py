"""Objects of S3, Google Cloud Storage and Azure Blob Storage, resumed where they stopped."""

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
    """`s3://BUCKET/KEY`, or with a `/` at the end all that lies below it."""
    match = _SOURCE.fullmatch(request.source)
    if match is None:
        # Not repeated when it may hold a password.
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
    """Its SHA-256."""
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
    """A bucket, with its errors in our words. What a service answers stays out of them but for its
    error code, since answers repeat parts of the signature."""

    def __init__(self, url: str, store: Any) -> None:
        self.url = url
        self._store = store

    def head(self, key: str) -> tuple[str, int]:
        """(ETag, size)"""
        with self._in_our_words(key):
            metadata = obstore.head(self._store, key)
            return str(metadata["e_tag"] or ""), int(metadata["size"])

    def read(self, key: str, start: int, etag: str) -> Iterator[bytes]:
        """The object from byte `start` on, if it is still the same."""
        with self._in_our_words(key):
            options: dict[str, Any] = {"range": {"offset": start}} if start else {}
            if etag:
                options["if_match"] = etag
            answer = obstore.get(self._store, key, options=options)  # type: ignore[arg-type]
            for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    def entries(self, prefix: str) -> list[SourceEntry]:
        """All objects below a prefix, by their path from there."""
        entries: list[SourceEntry] = []
        with self._in_our_words(prefix):
            for page in obstore.list(self._store, prefix.rstrip("/")):
                for item in page:
                    path = str(item["path"]).removeprefix(prefix)
                    entries.append(SourceEntry(path, int(item["size"])))
                if len(entries) > MAX_LISTED:
                    raise InvalidInput(f"{self.url}/{prefix} has more than {MAX_LISTED} objects")
        if not entries:
            raise NotFound(f"there is nothing below {self.url}/{prefix}")
        return sorted(entries, key=lambda e: e.path)

    @contextmanager
    def _in_our_words(self, key: str) -> Iterator[None]:
        where = f"{self.url}/{shown(key, 200)[1:-1]}"
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"there is no {where}") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Forbidden(
                f"{where} may not be read with these credentials ({_code(error) or 403}); see the "
                "settings of [pull]"
            ) from None
        except PreconditionError:
            raise StorageFailed(f"{where} became another while it was read") from None
        except BaseError as error:
            reason = _code(error) or str(error).split("\n")[0].rpartition(" - ")[2]
            kind = Unavailable if isinstance(error, GenericError) else StorageFailed
            raise kind(f"{where} was not sent: {shown(reason, 120)}") from None


def _open(scheme: str, bucket: str, access: ObjectStoreAccess) -> Any:
    """The store; asks nobody yet."""
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
        # The library's words may repeat what it was given.
        raise InvalidInput(
            f"the settings of [pull] for {scheme}:// cannot be used; docs/howto/pull.md says which "
            "are needed"
        ) from None


def _code(error: Exception) -> str:
    """The error code in an answer, for example `NoSuchBucket`; '' if there is none."""
    match = _ERROR_CODE.search(str(error))
    return match[1] if match else ""
