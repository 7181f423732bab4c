"""Files that contain pickles are recognized by their content; others pass."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from maas.control.publishing.unsafe_files import refuse_unsafe
from maas.domain.errors import InvalidInput, UnsafeArtifact


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


LARGE = {"weights": list(range(50_000)), "at the end": Evil()}


def pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def verdict(data: bytes, size: int = 1 << 16) -> bool:
    """Whether `data` is refused; asserts that data that passes is unchanged."""
    try:
        assert b"".join(refuse_unsafe(pieces(data, size))) == data
    except UnsafeArtifact as refusal:
        assert "client.publish" in refusal.message
        return True
    return False


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def npz(compressed: bool, **arrays: np.ndarray) -> bytes:
    out = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(out, **arrays)
    return out.getvalue()


def archive(method: int, **entries: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name.replace("__", "."), data)
    return out.getvalue()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [Evil(), LARGE], ids=["small", "large"])
def test_pickles_of_every_protocol_are_refused(protocol: int, value: object) -> None:
    data = pickle.dumps(value, protocol)
    assert verdict(data) and verdict(data, 1 << 10)


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, bz2.compress, lzma.compress,
                                      lambda d: lzma.compress(d, lzma.FORMAT_ALONE),
                                      lambda d: gzip.compress(zlib.compress(d))])  # fmt: skip
def test_compressed_pickles_as_joblib_writes_them_are_refused(compress: object) -> None:
    assert callable(compress)
    assert verdict(compress(pickle.dumps(LARGE)))
    assert not verdict(compress(b"only text, " * 9999))


def test_files_of_joblib_are_refused() -> None:
    joblib = pytest.importorskip("joblib")
    for how in (0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)):
        out = io.BytesIO()
        joblib.dump(LARGE, out, compress=how)
        assert verdict(out.getvalue()), how


def test_numpy_arrays_of_objects_are_refused_and_no_others() -> None:
    assert verdict(npy(np.array([Evil(), 1], dtype=object)))
    assert verdict(npy(np.zeros(2, dtype=[("a", "f4"), ("b", "O")])))
    assert not verdict(npy(np.zeros(100_000)))
    numbers = np.random.default_rng(0).random(50_000)
    for compressed in (False, True):
        assert not verdict(npz(compressed, a=numbers, b=np.arange(10)))
        assert verdict(npz(compressed, a=numbers, b=np.array([Evil()], dtype=object)))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [1, 4096, 1 << 20])
def test_archives_are_recognized_by_the_names_and_content_of_entries(
    method: int, size: int
) -> None:
    page = b"<html>" * 5000
    assert not verdict(archive(method, a__html=page, b__json=b"{}"), size)
    assert verdict(archive(method, a__html=page, data__pkl=b"nothing"), size)
    assert verdict(archive(method, a__html=page, b__json=pickle.dumps(Evil())), size)
    assert verdict(archive(method, weights__h5=b"\x89HDF\r\n\x1a\n" + page), size)


def test_torch_files_are_refused() -> None:
    torch = pytest.importorskip("torch")
    for as_zip in (True, False):
        out = io.BytesIO()
        torch.save({"w": torch.zeros(100_000)}, out, _use_new_zipfile_serialization=as_zip)
        assert verdict(out.getvalue()), as_zip


def test_hdf5_is_refused_even_behind_a_user_block() -> None:
    magic = b"\x89HDF\r\n\x1a\n"
    assert verdict(magic + bytes(100)) and verdict(bytes(512) + magic + bytes(100))


@pytest.mark.parametrize("data", [
    b"", b"c", b".", b"0.1,0.2\n" * 20_000, b"name,age\n1,2\n" * 9999, b'{"a": [1, 2]}',
    b"<!doctype html>" * 9999, b"\x08\x08" + np.random.default_rng(1).bytes(1 << 20),
    b"x" * 65536 + b"PK\x03\x04", bytes(1 << 17), b"x\x9c" + bytes(100), b"\x1f\x8b" + bytes(100),
    b"0" * (1 << 17), b"PK\x03\x04", b"PK\x03\x04" + b"\xff" * 26,
])  # fmt: skip
def test_other_files_pass(data: bytes) -> None:
    assert not verdict(data) and not verdict(data, 999)


def test_an_archive_with_too_many_entries_is_refused_early() -> None:
    header = b"PK\x03\x04" + bytes(26)
    with pytest.raises(InvalidInput, match="more than 10000 entries"):
        list(refuse_unsafe(pieces(header * 700_000, 1 << 16)))
