"""Validation of URLs and values before anything is opened or stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from maas.domain.errors import InvalidInput
from maas.storage.artifacts import LocalArtifacts, ObjectArtifacts, S3Options, open_artifacts
from maas.storage.schema import to_json


def test_a_file_url_is_a_directory(tmp_path: Path) -> None:
    spaced = tmp_path / "with space"
    store = open_artifacts(spaced.as_uri())
    assert isinstance(store, LocalArtifacts)
    assert store.size("a" * 64) is None
    assert not spaced.exists(), "opening writes nothing"


@pytest.mark.parametrize("url", ["s3://models", "s3://models/", "s3://my.models/a/b_c/d-e/"])
def test_an_s3_url_is_a_bucket(url: str) -> None:
    options = S3Options(endpoint="http://127.0.0.1:1", access_key_id="k", secret_access_key="s")
    store = open_artifacts(url, options)
    assert isinstance(store, ObjectArtifacts)
    assert store.url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/tmp/x",
        "file://",
        "file://host/path",
        "http://h/b",
        "s3://",
        "s3://B",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://k:secret@bucket/x",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="artifacts_url must be ") as refused:
        open_artifacts(url)
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:8333", "ftp://h", "http://", "http://u:secret@h", "https:///x"]
)
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInput, match="s3_endpoint must be http://host:port") as refused:
        S3Options(endpoint=endpoint)
    assert "secret" not in refused.value.message


def test_half_a_credential_is_refused() -> None:
    with pytest.raises(InvalidInput, match="must be set together"):
        S3Options(access_key_id="k")
    with pytest.raises(InvalidInput, match="must be set together"):
        S3Options(secret_access_key="s")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes", object()])
def test_values_that_json_lacks_are_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="spec must be JSON"):
        to_json({"x": value}, "spec")


def test_stored_json_is_plain_ascii() -> None:
    """PostgreSQL stores neither NUL nor a lone surrogate in text."""
    assert to_json({"x": "é\x00\ud800"}, "spec") == '{"x":"\\u00e9\\u0000\\ud800"}'
