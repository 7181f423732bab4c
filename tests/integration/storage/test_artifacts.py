"""Behavior that both artifact stores have in common."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maas.domain.errors import InvalidInput, NotFound, StorageFailed
from maas.storage.artifacts import ArtifactStore
from tests.integration.storage.examples import digest_of

DATA = bytes(range(256)) * 12_000
"""3 MB: several chunks."""


def chunks_of(data: bytes, size: int = 100_000) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "tiny", "large"])
def test_a_stored_file_is_read_back(store: ArtifactStore, data: bytes) -> None:
    name = digest_of(data)
    assert store.size(name) is None
    assert store.put(name, chunks_of(data)) == len(data)
    assert store.size(name) == len(data)
    assert b"".join(store.get(name)) == data


def test_a_stored_file_is_not_read_again(store: ArtifactStore) -> None:
    def never() -> Iterator[bytes]:
        raise AssertionError("read")
        yield b""

    store.put(digest_of(DATA), [DATA])
    assert store.put(digest_of(DATA), never()) == len(DATA)


def test_a_file_with_another_digest_is_refused_and_never_visible(store: ArtifactStore) -> None:
    name = digest_of(DATA)
    with pytest.raises(InvalidInput, match=name):
        store.put(name, chunks_of(DATA[:-1]))
    with pytest.raises(InvalidInput):
        store.put(name, [])
    assert store.size(name) is None
    with pytest.raises(NotFound):
        store.get(name)
    assert store.put(name, chunks_of(DATA)) == len(DATA)


def test_an_interrupted_upload_leaves_nothing(store: ArtifactStore) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA[:1_000_000]
        raise ConnectionAbortedError("the client went away")

    with pytest.raises((ConnectionAbortedError, StorageFailed)):
        store.put(digest_of(DATA), broken())
    assert store.size(digest_of(DATA)) is None


def test_an_absent_file_is_not_found(store: ArtifactStore, tmp_path: Path) -> None:
    absent = digest_of(b"absent")
    assert store.size(absent) is None
    with pytest.raises(NotFound, match=absent):
        store.get(absent)
    with pytest.raises(NotFound):
        store.fetch(absent, tmp_path / "cache")
    assert not (tmp_path / "cache" / absent).exists()


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "/..", "\ud800" * 64]
)
def test_names_other_than_digests_are_refused(
    store: ArtifactStore, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidInput, match="SHA-256"):
        store.size(name)
    with pytest.raises(InvalidInput, match="SHA-256"):
        store.put(name, [b"x"])
    with pytest.raises(InvalidInput, match="SHA-256"):
        store.get(name)
    with pytest.raises(InvalidInput, match="SHA-256"):
        store.fetch(name, tmp_path)


def test_a_second_fetch_returns_the_same_copy(store: ArtifactStore, tmp_path: Path) -> None:
    name = digest_of(DATA)
    store.put(name, [DATA])
    path = store.fetch(name, tmp_path / "cache")
    assert path == tmp_path / "cache" / name
    assert path.read_bytes() == DATA
    before = path.stat()
    assert store.fetch(name, tmp_path / "cache").stat().st_mtime_ns == before.st_mtime_ns
    assert list((tmp_path / "cache" / "staging").iterdir()) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "longer"])
def test_a_damaged_copy_is_fetched_again(store: ArtifactStore, tmp_path: Path, damage: str) -> None:
    name = digest_of(DATA)
    store.put(name, [DATA])
    path = store.fetch(name, tmp_path)
    flipped = bytearray(DATA)
    flipped[1_500_000] ^= 1
    damaged = {"truncate": DATA[:-1], "empty": b"", "longer": DATA + b"x", "flip": bytes(flipped)}
    path.write_bytes(damaged[damage])
    assert store.fetch(name, tmp_path).read_bytes() == DATA
    assert b"".join(store.get(name)) == DATA, "the copy is not the store's own file"


def test_concurrent_puts_and_fetches_agree(store: ArtifactStore, tmp_path: Path) -> None:
    name = digest_of(DATA)
    with ThreadPoolExecutor(8) as pool:
        sizes = set(pool.map(lambda _: store.put(name, chunks_of(DATA)), range(8)))
        paths = set(pool.map(lambda _: store.fetch(name, tmp_path), range(8)))
    assert sizes == {len(DATA)}
    assert paths == {tmp_path / name}
    assert (tmp_path / name).read_bytes() == DATA


def test_sweeping_an_idle_store_removes_nothing(store: ArtifactStore) -> None:
    assert store.sweep(0) == 0
    store.put(digest_of(DATA), [DATA])
    assert store.sweep(0) == 0
    assert store.size(digest_of(DATA)) == len(DATA)
