"""The store in a bucket: refusals, lost responses and damage of the service."""

from __future__ import annotations

import urllib.request
from dataclasses import replace
from pathlib import Path

import obstore
import pytest

from maas.domain.errors import ArtifactCorrupt, StorageFailed, Unavailable
from maas.storage import bucket_artifacts
from maas.storage.artifacts import ObjectArtifacts, open_artifacts
from tests.integration.storage.conftest import options_of
from tests.integration.storage.examples import digest_of
from tests.support.servers.backends import S3Server, free_ports

DATA = b"model" * 300_000
NAME = digest_of(DATA)


def overwrite(server: S3Server, store: ObjectArtifacts, data: bytes) -> None:
    """Changes the stored bytes without the S3 service."""
    path = store.url.removeprefix(f"s3://{server.bucket}")
    target = f"{server.filer}/buckets/{server.bucket}{path}/sha256/{NAME[:2]}/{NAME}"
    request = urllib.request.Request(target, data=data, method="PUT")
    request.add_header("content-type", "application/octet-stream")
    with urllib.request.urlopen(request, timeout=10):
        pass


def test_it_opens_by_url(s3_server: S3Server) -> None:
    store = open_artifacts(f"s3://{s3_server.bucket}/by/url", options_of(s3_server))
    store.put(NAME, [DATA])
    with_slash = open_artifacts(f"s3://{s3_server.bucket}/by/url/", options_of(s3_server))
    assert with_slash.size(NAME) == len(DATA)
    assert open_artifacts(f"s3://{s3_server.bucket}", options_of(s3_server)).size(NAME) is None


def test_a_damaged_object_is_detected(
    s3_server: S3Server, s3_store: ObjectArtifacts, tmp_path: Path
) -> None:
    s3_store.put(NAME, [DATA])
    damaged = bytearray(DATA)
    damaged[1_000_000] ^= 1
    overwrite(s3_server, s3_store, bytes(damaged))
    with pytest.raises(ArtifactCorrupt, match=r"s3://.* is not the file"):
        list(s3_store.get(NAME))
    with pytest.raises(ArtifactCorrupt):
        s3_store.fetch(NAME, tmp_path)
    assert not (tmp_path / NAME).exists()


def test_damage_in_transfer_is_retried_once(
    s3_store: ObjectArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.put(NAME, [DATA])
    digests = []
    get = s3_store.get

    def damaged_once(sha256: str) -> object:
        digests.append(sha256)
        if len(digests) == 1:
            raise ArtifactCorrupt("damaged on the way")
        return get(sha256)

    monkeypatch.setattr(s3_store, "get", damaged_once)
    assert s3_store.fetch(NAME, tmp_path).read_bytes() == DATA
    assert len(digests) == 2


def test_large_files_are_uploaded_in_parts(
    s3_store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_artifacts, "MULTIPART_BYTES", 5 << 20)
    monkeypatch.setattr(bucket_artifacts, "PART_BYTES", 5 << 20)
    data = DATA * 8
    assert s3_store.put(digest_of(data), [data]) == len(data)
    assert s3_store.size(digest_of(data)) == len(data)
    assert b"".join(s3_store.get(digest_of(data))) == data


def test_a_lost_response_is_success(
    s3_store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt stored the file, then the connection broke."""
    s3_store.put(NAME, [DATA])
    monkeypatch.setattr(s3_store, "size", lambda sha256: None)
    assert s3_store.put(NAME, [DATA]) == len(DATA)
    assert b"".join(s3_store.get(NAME)) == DATA


def test_a_wrong_secret_is_refused_and_not_repeated(s3_server: S3Server) -> None:
    secret = "wrong-secret-0123456789"
    options = replace(options_of(s3_server), secret_access_key=secret)
    store = ObjectArtifacts(s3_server.bucket, "x", options)
    assert secret not in repr(options)
    for access in (
        lambda: store.size(NAME),
        lambda: store.put(NAME, [DATA]),
        lambda: store.get(NAME),
    ):
        with pytest.raises(StorageFailed, match="refused") as failed:
            access()
        text = failed.value.message + repr(failed.value.details)
        assert secret not in text
        assert s3_server.access_key_id not in text


def test_a_read_only_key_cannot_store(s3_server: S3Server, s3_store: ObjectArtifacts) -> None:
    s3_store.put(NAME, [DATA])
    options = replace(
        options_of(s3_server),
        access_key_id=s3_server.reader_key_id,
        secret_access_key=s3_server.reader_secret,
    )
    prefix = s3_store.url.removeprefix(f"s3://{s3_server.bucket}/")
    reader = ObjectArtifacts(s3_server.bucket, prefix, options)
    assert b"".join(reader.get(NAME)) == DATA
    with pytest.raises(StorageFailed, match=r"refused to store .*AccessDenied"):
        reader.put(digest_of(b"other"), [b"other"])


def test_a_missing_bucket_is_named(s3_server: S3Server) -> None:
    store = ObjectArtifacts("absent-bucket", "", options_of(s3_server))
    with pytest.raises(StorageFailed, match=r"s3://absent-bucket .*the bucket does not exist"):
        store.put(NAME, [DATA])
    with pytest.raises(StorageFailed, match=r"s3://absent-bucket .*the bucket does not exist"):
        store.get(NAME)


def test_a_service_that_is_down_is_an_error_within_seconds(s3_server: S3Server) -> None:
    options = replace(options_of(s3_server), endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    store = ObjectArtifacts("maas", "", options)
    with pytest.raises(Unavailable, match="failed to look up"):
        store.size(NAME)


def test_session_tokens_of_the_environment_are_not_used(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "somebody else's")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody else's")
    store = ObjectArtifacts(s3_server.bucket, "env", options_of(s3_server))
    assert store.put(NAME, [DATA]) == len(DATA)


def test_uploads_are_staged_without_a_name(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = tmp_path / "staging"
    options = replace(options_of(s3_server), staging=staging)
    store = ObjectArtifacts(s3_server.bucket, "staged", options)
    seen: list[list[Path]] = []
    put = obstore.put

    def noted(*arguments: object, **options: object) -> object:
        seen.append(list(staging.iterdir()))
        return put(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(obstore, "put", noted)
    store.put(NAME, [DATA])
    assert seen == [[]], "a killed upload leaves nothing to sweep"
    assert staging.stat().st_mode & 0o777 == 0o700
