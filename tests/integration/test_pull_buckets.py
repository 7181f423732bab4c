"""Models in a bucket of a real S3 service."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from maas.domain.errors import Forbidden, InvalidInput, MaasError, NotFound, OutOfSpace
from maas.lifecycle.sources import buckets
from maas.lifecycle.sources.base import Fetched, ObjectStoreAccess, SourceAccess, SourceRequest
from maas.lifecycle.sources.kinds import fetch
from maas.lifecycle.sources.workspace import workspace
from tests.support.servers.backends import S3Server

CONTENT = random.Random(2).randbytes(5_000_000)


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> S3Store:
    store = S3Store(
        s3_server.bucket,
        config={
            "endpoint": s3_server.endpoint,
            "region": "us-east-1",
            "access_key_id": s3_server.access_key_id,
            "secret_access_key": s3_server.secret_access_key,
        },
        client_options={"allow_http": True},
    )
    obstore.put(store, "models/a.gguf", CONTENT)
    obstore.put(store, "encoder/model.safetensors", b"weights")
    obstore.put(store, "encoder/config.json", b"{}")
    obstore.put(store, "encoder/train.log", b"long")
    return store


@pytest.fixture
def request_(s3_server: S3Server, bucket: S3Store, tmp_path: Path) -> SourceRequest:
    stores = ObjectStoreAccess(
        s3_endpoint=s3_server.endpoint,
        s3_access_key_id=s3_server.reader_key_id,
        s3_secret_access_key=s3_server.reader_secret,
    )
    access = SourceAccess(tmp_path / "pulls", stores=stores)
    return SourceRequest(f"s3://{s3_server.bucket}/models/a.gguf", access)


def pull(request: SourceRequest) -> Fetched:
    with workspace(request) as folder:
        return fetch(request, folder)


def test_an_object(request_: SourceRequest) -> None:
    seen: list[int] = []
    fetched = pull(replace(request_, progress=lambda name, done, total: seen.append(done)))
    assert fetched.files["a.gguf"].read_bytes() == CONTENT
    assert fetched.origin["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert seen[-1] == len(CONTENT)


def test_all_objects_below_a_prefix(request_: SourceRequest, s3_server: S3Server) -> None:
    fetched = pull(replace(request_, source=f"s3://{s3_server.bucket}/encoder/"))
    assert {n: p.read_bytes() for n, p in fetched.files.items()} == {
        "model.safetensors": b"weights",
        "config.json": b"{}",
    }


def test_an_interrupted_download_resumes(
    request_: SourceRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, done: int, total: int | None) -> None:
        if done > 2_000_000:
            raise OutOfSpace("no room")

    with pytest.raises(OutOfSpace):
        pull(replace(request_, progress=full))
    starts: list[int] = []
    real = buckets._Bucket.read

    def read(self: buckets._Bucket, key: str, start: int, etag: str) -> object:
        starts.append(start)
        return real(self, key, start, etag)

    monkeypatch.setattr(buckets._Bucket, "read", read)
    assert pull(request_).files["a.gguf"].read_bytes() == CONTENT
    assert starts[0] > 1_000_000


def test_a_changed_object_is_downloaded_again(request_: SourceRequest, bucket: S3Store) -> None:
    def full(name: str, done: int, total: int | None) -> None:
        raise OutOfSpace("no room")

    obstore.put(bucket, "models/b.gguf", b"old" * 1_000_000)
    request = replace(request_, source=request_.source.replace("a.gguf", "b.gguf"))
    with pytest.raises(OutOfSpace):
        pull(replace(request, progress=full))
    obstore.put(bucket, "models/b.gguf", b"new" * 1_000_000)
    assert pull(request).files["b.gguf"].read_bytes() == b"new" * 1_000_000


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (("a.gguf", "z.gguf"), NotFound),
        (("models/a.gguf", "nothing/"), NotFound),
        (("maas/", "no-such-bucket/"), MaasError),
        (("s3://", "s3:///"), InvalidInput),
        (("a.gguf", "a.gguf?versionId=3"), InvalidInput),
    ],
)
def test_a_missing_source_is_not_found(
    request_: SourceRequest, change: tuple[str, str], kind: type[MaasError]
) -> None:
    with pytest.raises(kind):
        pull(replace(request_, source=request_.source.replace(*change, 1)))


def test_an_error_contains_no_secret(request_: SourceRequest, s3_server: S3Server) -> None:
    stores = replace(request_.access.stores, s3_secret_access_key="wrong-and-secret")
    request = replace(request_, access=replace(request_.access, stores=stores))
    with pytest.raises(Forbidden) as caught:
        pull(request)
    for secret in ("wrong-and-secret", s3_server.reader_key_id, "Signature"):
        assert secret not in caught.value.message
    assert "wrong-and-secret" not in repr(request)


def test_another_digest(request_: SourceRequest) -> None:
    with pytest.raises(InvalidInput, match="should have the SHA-256"):
        pull(replace(request_, sha256="0" * 64))


@pytest.mark.parametrize("source", ["gs://bucket/a.gguf", "az://container/a.gguf"])
def test_stores_without_credentials_are_refused(
    request_: SourceRequest, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without these services, the test checks only that the error is an error of OpenMaaS."""
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", "/nothing/here.json")
    with pytest.raises(InvalidInput, match=r"settings of \[pull\]"):
        pull(replace(request_, source=source))
