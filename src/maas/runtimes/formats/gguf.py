"""Reads and checks the header of a GGUF file, before a native parser opens the file.

Every count, length, type, dimension and offset in the file is checked against the size of the file,
or against a limit, before it is used. The format is that of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; what llama.cpp refuses is refused here,
too. Uses the standard library only.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

from maas.domain.errors import InvalidInput
from maas.domain.names import shown

# The limits bound the time. Each is several times the value of the largest known models, except
# that of strings: the largest vocabulary has 650,000 tokens and merges.
MAX_HEADER_BYTES = 32 << 20
MAX_KEYS = 1024
MAX_TENSORS = 8192
MAX_STRINGS = 800_000
"""Strings in all arrays."""
MAX_ARRAY = 1 << 26
MAX_KEY_BYTES = 65_535
MAX_TEXT_BYTES = 1 << 20
"""Size of a string value, for example a chat template."""
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
CHUNK_BYTES = 1 << 20

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_INTEGERS = (4, 5)
_SCALARS = {
    kind: struct.Struct(f"<{code}")
    for kind, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B",
        10: "Q", 11: "q", 12: "d",
    }.items()
}  # fmt: skip
_TENSOR_INFOS = tuple(struct.Struct(f"<{rank}QIQ") for rank in range(MAX_DIMENSIONS + 1))
"""By the number of dimensions: the dimensions, the type and the offset."""
_LEAST_KEY_BYTES = 8 + 1 + 4 + 1
_LEAST_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8

_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Per ggml type: its name, elements per block, bytes per block."""


class Readable(Protocol):
    """A file that is read from its start on."""

    def read(self, count: int, /) -> bytes:
        """Up to `count` bytes; none at the end."""


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as the header describes it."""

    name: str
    type: str
    elements: int
    bytes: int
    offset: int
    """Bytes from the start of the tensor data."""
    rank: int = 0
    """Number of dimensions."""


@dataclass(frozen=True)
class GgufSummary:
    """The content of a valid header."""

    version: int
    tensors: int
    keys: int
    architecture: str
    """`llama`, `qwen2`, `bert`, …"""
    parameters: int
    """Elements of all tensors."""
    types: dict[str, int]
    """Bytes per quantization type, for example `{"Q4_1": 83607552, "F32": 140544}`."""
    header_bytes: int
    tensor_bytes: int
    size: int
    """Size of the file in bytes."""
    context_length: int | None
    """Tokens that the model was trained with; None if the file does not state it."""
    vocabulary: int | None
    """Number of tokens."""
    chat_template: bool
    name: str = ""
    license: str = ""
    splits: int = 1
    """Number of files that the model is split into."""
    template_tools: bool = False
    """Whether the chat template supports tools."""
    tokenizer: str = ""
    """Type of the tokenizer: `gpt2`, `llama`, `bert`, …"""
    pre_tokenizer: str = ""
    """How texts are split before they are tokenized: `smollm`, `llama-bpe`, …"""
    adds_space: bool | None = None
    """Whether a blank is added before a text; None if the file does not state it."""
    tokens_at: int | None = None
    token_types_at: int | None = None
    """Offsets of the texts and types of the tokens in the file; None without them."""
    token_types: int = 0
    """Number of tokens that have a type."""

    layers: tuple[GgufTensor, ...] = field(default=(), repr=False)

    @property
    def quantization(self) -> str:
        """The quantization type of most bytes."""
        return max(self.types, key=lambda name: self.types[name], default="")


def check_gguf(source: Path, name: str | None = None) -> GgufSummary:
    """The summary of a GGUF file with a valid header.

    `name` is the name of the file in messages; default: its own. Reads only the header. Raises
    InvalidInput, with one sentence, if anything in it is invalid.
    """
    with source.open("rb") as stream:
        return read_gguf(stream, source.stat().st_size, name or source.name)


def read_gguf(stream: Readable, size: int, name: str) -> GgufSummary:
    """As `check_gguf`, for an open file of `size` bytes that is at its start."""
    header = _Header(stream, size, name)
    version, tensor_count, key_count = _read_counts(header)
    keys = _Keys()
    for _ in range(key_count):
        _read_key(header, keys)
    tensors = [_read_tensor(header) for _ in range(tensor_count)]
    if len({t.name for t in tensors}) != len(tensors):
        raise header.error("two tensors have the same name")
    alignment = _alignment(header, keys)
    types = _check_places(header, tensors, alignment)
    architecture = keys.text("general.architecture")
    if not architecture:
        raise header.error("it has no general.architecture")
    return GgufSummary(
        version=version,
        tensors=tensor_count,
        keys=key_count,
        architecture=architecture,
        parameters=sum(t.elements for t in tensors),
        types=types,
        header_bytes=header.at,
        tensor_bytes=sum(types.values()),
        size=size,
        context_length=keys.number(f"{architecture}.context_length"),
        vocabulary=keys.lengths.get("tokenizer.ggml.tokens"),
        chat_template=bool(keys.text("tokenizer.chat_template")),
        name=keys.text("general.name"),
        license=keys.text("general.license"),
        splits=max(keys.number("split.count") or 1, 1),
        layers=tuple(tensors),
        template_tools="tools" in keys.text("tokenizer.chat_template"),
        tokenizer=keys.text("tokenizer.ggml.model"),
        pre_tokenizer=keys.text("tokenizer.ggml.pre"),
        adds_space=keys.flag("tokenizer.ggml.add_space_prefix"),
        tokens_at=keys.array_of("tokenizer.ggml.tokens", (_STRING,)),
        token_types_at=keys.array_of("tokenizer.ggml.token_type", _INTEGERS),
        token_types=keys.lengths.get("tokenizer.ggml.token_type", 0),
    )


@dataclass
class _Keys:
    """Metadata of a header: single values, and the lengths of arrays."""

    values: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Arrays: the type of the elements, and the offset of the first."""
    strings: int = 0

    def text(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        return value if isinstance(value, bool) else None

    def array_of(self, key: str, kinds: tuple[int, ...]) -> int | None:
        kind, at = self.places.get(key, (-1, 0))
        return at if kind in kinds else None

    def number(self, key: str) -> int | None:
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


class _Header:
    """Cursor over the start of a file; reads no further than the header."""

    def __init__(self, stream: Readable, size: int, name: str) -> None:
        self._stream = stream
        self._data = bytearray()
        self.size = size
        self.at = 0
        self._name = name

    def error(self, reason: str) -> InvalidInput:
        return InvalidInput(f"{self._name} is not a usable GGUF file: {reason}", field="files")

    def take(self, layout: struct.Struct) -> Any:
        return self.take_all(layout)[0]

    def take_all(self, layout: struct.Struct) -> tuple[Any, ...]:
        start = self._claim(layout.size)
        return layout.unpack_from(self._data, start)

    def text(self, what: str, limit: int) -> str:
        length = self.take(_U64)
        if length > limit:
            raise self.error(f"{what} would have {length} bytes; at most {limit} are possible")
        start = self._claim(length)
        try:
            return self._data[start : start + length].decode()
        except UnicodeDecodeError:
            raise self.error(f"{what} is not UTF-8") from None

    def skip(self, count: int) -> None:
        self._claim(count)

    def skip_strings(self, count: int) -> None:
        unpack, data, at = _U64.unpack_from, self._data, self.at
        left = repeat(None, count)
        while True:
            try:
                for _ in left:
                    at += unpack(data, at)[0] + 8
                break
            except (struct.error, OverflowError):  # beyond the data in memory
                self._read_to(at + 8)
                at += unpack(data, at)[0] + 8
        self._read_to(at)
        self.at = at

    def _claim(self, count: int) -> int:
        start = self.at
        end = start + count
        if end > len(self._data):
            self._read_to(end)
        self.at = end
        return start

    def _read_to(self, end: int) -> None:
        """Reads everything before `end` into memory. Raises InvalidInput if that is impossible."""
        if end > self.size:
            raise self.error(f"its header extends to byte {end}, and the file has {self.size}")
        if end > MAX_HEADER_BYTES:
            raise self.error(f"its header is larger than {MAX_HEADER_BYTES} bytes")
        while len(self._data) < end:
            chunk = self._stream.read(CHUNK_BYTES)
            if not chunk:
                raise self.error("it became shorter while it was being read")
            self._data += chunk


def _read_counts(header: _Header) -> tuple[int, int, int]:
    """(version, number of tensors, number of keys)"""
    if header.size < 24:
        raise header.error(f"it has only {header.size} bytes")
    magic = _U32.pack(header.take(_U32))
    if magic != _MAGIC:
        raise header.error(f"it starts with {shown(magic)} instead of 'GGUF'")
    version = header.take(_U32)
    if version not in _VERSIONS:
        actual = "it is big-endian" if not version & 0xFFFF else f"its version is {version}"
        raise header.error(f"{actual}; little-endian versions 2 and 3 are supported")
    tensors, keys = header.take(_U64), header.take(_U64)
    for what, count, limit, least in (
        ("tensors", tensors, MAX_TENSORS, _LEAST_TENSOR_BYTES),
        ("keys", keys, MAX_KEYS, _LEAST_KEY_BYTES),
    ):
        if count > limit or count * least > header.size:
            raise header.error(f"it claims {count} {what}")
    return version, tensors, keys


def _read_key(header: _Header, keys: _Keys) -> None:
    key = header.text("a key", MAX_KEY_BYTES)
    if not key or key in keys.kinds:
        raise header.error(f"it has the key {shown(key)} twice" if key else "it has an empty key")
    kind = keys.kinds[key] = header.take(_U32)
    if kind == _ARRAY:
        keys.lengths[key] = _skip_array(header, key, keys)
    elif kind == _STRING:
        keys.values[key] = header.text(f"the value of {shown(key)}", MAX_TEXT_BYTES)
    elif kind == _BOOL:
        flag = header.take(_SCALARS[kind])
        if flag > 1:
            raise header.error(f"{shown(key)} must be 0 or 1; got {flag}")
        keys.values[key] = bool(flag)
    elif kind in _SCALARS:
        keys.values[key] = header.take(_SCALARS[kind])
    else:
        raise header.error(f"{shown(key)} has the unknown type {kind}")


def _skip_array(header: _Header, key: str, keys: _Keys) -> int:
    """Skips an array and returns the number of its elements."""
    kind, count = header.take(_U32), header.take(_U64)
    if kind not in _SCALARS and kind != _STRING:
        problem = "is an array of arrays" if kind == _ARRAY else f"has elements of type {kind}"
        raise header.error(f"{shown(key)} {problem}, which is not supported")
    least = 8 if kind == _STRING else _SCALARS[kind].size
    if count > MAX_ARRAY or count * least > header.size:
        raise header.error(f"{shown(key)} claims {count} elements")
    keys.places[key] = kind, header.at
    if kind == _STRING:
        keys.strings += int(count)
        if keys.strings > MAX_STRINGS:
            raise header.error(f"its arrays have more than {MAX_STRINGS} strings")
        header.skip_strings(count)
    else:
        header.skip(count * least)
    return int(count)


def _read_tensor(header: _Header) -> GgufTensor:
    name = header.text("the name of a tensor", MAX_TENSOR_NAME_BYTES)
    rank = header.take(_U32)
    if rank > MAX_DIMENSIONS:
        raise header.error(f"tensor {shown(name)} has {rank} dimensions; at most 4 are possible")
    *shape, kind, offset = header.take_all(_TENSOR_INFOS[rank])
    if kind not in _TYPES:
        raise header.error(f"tensor {shown(name)} has the unknown type {kind}")
    if 0 in shape:
        raise header.error(f"tensor {shown(name)} has a dimension of 0")
    type_name, block, block_bytes = _TYPES[kind]
    elements = math.prod(shape)
    row = shape[0] if shape else 1
    if row % block:
        raise header.error(
            f"rows of tensor {shown(name)} have {row} elements, which is not "
            f"a multiple of {block}, the block size of {type_name}"
        )
    return GgufTensor(name, type_name, elements, elements // block * block_bytes, offset, rank)


def _alignment(header: _Header, keys: _Keys) -> int:
    key = "general.alignment"
    if key not in keys.kinds:
        return _DEFAULT_ALIGNMENT
    alignment = keys.number(key)
    if keys.kinds[key] != 4 or not alignment or alignment & (alignment - 1):
        raise header.error(f"{key} must be a power of two of type uint32")
    return alignment


def _check_places(header: _Header, tensors: list[GgufTensor], alignment: int) -> dict[str, int]:
    """Bytes per type. Raises InvalidInput if tensors have gaps, overlap, or exceed the file."""
    start = -(-header.at // alignment) * alignment
    expected = 0
    types: dict[str, int] = {}
    for tensor in tensors:
        if tensor.offset != expected:
            raise header.error(
                f"tensor {shown(tensor.name)} is at offset {tensor.offset} of the data; expected "
                f"{expected}, the end of the previous tensor"
            )
        end = start + tensor.offset + tensor.bytes
        if end > header.size:
            raise header.error(
                f"tensor {shown(tensor.name)} ends at byte {end}, and the file has {header.size}"
            )
        expected = -(-(tensor.offset + tensor.bytes) // alignment) * alignment
        types[tensor.type] = types.get(tensor.type, 0) + tensor.bytes
    return types
