"""Detection of files that contain pickles, by their content, during the upload.

Gateway and control never unpickle, so this is not a defense against attackers: it tells an owner
when publishing, and not at the first prediction, that such a file will not be loaded. It recognizes
pickles (including joblib's compressed ones), NumPy arrays of objects, HDF5 (Keras) and zip archives
that contain any of these (`.pt`, `.pth`, `.npz`, `.keras`).
"""

from __future__ import annotations

import bz2
import lzma
import pickletools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator

from maas.domain.errors import InvalidInput, UnsafeArtifact
from maas.domain.names import shown

HEAD_BYTES = 64 << 10
"""Bytes that are checked at the start of a file."""
_MAX_LAYERS = 4
_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_ENTRY_HEAD_BYTES = 4096
_STORED, _DEFLATED = 0, 8
_UNSAFE_NAME = re.compile(r"\.(pkl|pickle|pt|pth|joblib|h5|hdf5)$|(^|/)data\.pkl$", re.IGNORECASE)
_NPY_OBJECT = re.compile(rb"'[|<>=]?O\d*'")
_MANY_OPCODES = 200
_MAX_ENTRIES = 10_000
_PICKLE_CODE = {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "BUILD", "OBJ", "NEWOBJ"}

_Inflate = Callable[[bytes], bytes]


def refuse_unsafe(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields `chunks`; raises UnsafeArtifact as soon as they turn out to contain a pickle."""
    head = bytearray()
    zip_scan: _ZipScan | None = None
    checked = False
    for chunk in chunks:
        if not checked:
            head += chunk
            if len(head) >= HEAD_BYTES:
                checked = True
                check_head(bytes(head[:HEAD_BYTES]))
        if zip_scan is None and len(head) >= 4 and head.startswith(_LOCAL_HEADER):
            zip_scan = _ZipScan()
            zip_scan.feed(bytes(head))
        elif zip_scan is not None:
            zip_scan.feed(chunk)
        yield chunk
    if not checked:
        check_head(bytes(head))
    if zip_scan is not None:
        zip_scan.end()


def check_head(head: bytes, what: str = "this file", layer: int = 0) -> None:
    """Raises UnsafeArtifact if a file that starts with `head` contains a pickle."""
    if _is_pickle(head):
        raise _unsafe(f"{what} is a pickle")
    if head.startswith(b"\x93NUMPY") and _NPY_OBJECT.search(head[:HEAD_BYTES]):
        raise _unsafe(f"{what} is a NumPy array of Python objects, which is a pickle")
    if any(head.startswith(b"\x89HDF\r\n\x1a\n", at) for at in (0, 512, 1024, 2048, 4096)):
        raise _unsafe(f"{what} is HDF5, in which Keras models can contain code")
    if head.startswith((b"\x04\x22\x4d\x18", b"ZF")):
        raise _unsafe(f"{what} is compressed in a format that joblib uses for pickles")
    inflate = _inflater(head)
    if inflate is not None and layer < _MAX_LAYERS:
        check_head(inflate(head), f"{what}, once decompressed,", layer + 1)


def _unsafe(reason: str) -> UnsafeArtifact:
    return UnsafeArtifact(
        f"{reason}, and loading it could run code. Convert the model on a machine where you trust "
        "it, for example to ONNX with client.publish(model, ...)"
    )


def _is_pickle(head: bytes) -> bool:
    """Recognizes protocol 2 and newer by their header, older ones by opcodes that run code."""
    opcodes = _opcodes(head)
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return "PROTO" in opcodes
    return bool(opcodes & _PICKLE_CODE) and "STOP" in opcodes


def _opcodes(head: bytes) -> set[str]:
    """Names of the pickle opcodes that `head` starts with; nothing is executed."""
    names = set()
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(head):
            names.add(opcode.name)
            count += 1
            if count > _MANY_OPCODES:
                break
    except (ValueError, IndexError, OverflowError):
        pass  # truncated at the end of the head, or not a pickle
    if count > _MANY_OPCODES and len(names) > 2:
        # No other format parses as a pickle for this long, so later opcodes may run code, too.
        names |= {"STOP", "GLOBAL"}
    return names


def _inflater(head: bytes) -> _Inflate | None:
    if head.startswith(b"\x1f\x8b"):
        return lambda data: _zlib(data, 31)
    if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0:
        return lambda data: _zlib(data, 15)
    if head.startswith(b"BZh"):
        return _bzip2
    if head.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
        return _xz
    return None


def _zlib(data: bytes, window: int) -> bytes:
    try:
        return zlib.decompressobj(window).decompress(data, HEAD_BYTES)
    except zlib.error:
        return b""


def _bzip2(data: bytes) -> bytes:
    try:
        return bz2.BZ2Decompressor().decompress(data, HEAD_BYTES)
    except OSError:
        return b""


def _xz(data: bytes) -> bytes:
    try:
        return lzma.LZMADecompressor(memlimit=1 << 28).decompress(data, HEAD_BYTES)
    except lzma.LZMAError:
        return b""


class _ZipScan:
    """Checks the name and the first bytes of every entry of a zip archive while it streams.

    Entries are found by their local headers and not by the directory at the end, when the content
    of the entries has already passed.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._entries = 0

    def feed(self, chunk: bytes) -> None:
        data = self._rest + chunk
        at = 0
        while (at := data.find(_LOCAL_HEADER, at)) >= 0:
            after = self._entry_end(data, at)
            if len(data) < after:
                self._rest = data[at:]
                return
            self._check_entry(data, at)
            at += len(_LOCAL_HEADER)
        self._rest = data[-(len(_LOCAL_HEADER) - 1) :]

    def end(self) -> None:
        """Checks the last entries, which may be shorter than _ENTRY_HEAD_BYTES."""
        data, at = self._rest, 0
        while (at := data.find(_LOCAL_HEADER, at)) >= 0:
            if len(data) >= at + _LOCAL_HEADER_BYTES:
                self._check_entry(data, at)
            at += len(_LOCAL_HEADER)

    def _entry_end(self, data: bytes, at: int) -> int:
        if len(data) < at + _LOCAL_HEADER_BYTES:
            return at + _LOCAL_HEADER_BYTES
        name, extra = _lengths(data, at)
        return at + _LOCAL_HEADER_BYTES + name + extra + _ENTRY_HEAD_BYTES

    def _check_entry(self, data: bytes, at: int) -> None:
        self._entries += 1
        if self._entries > _MAX_ENTRIES:
            raise InvalidInput(f"this archive has more than {_MAX_ENTRIES} entries")
        name_bytes, extra_bytes = _lengths(data, at)
        start = at + _LOCAL_HEADER_BYTES
        name = data[start : start + name_bytes].decode("utf-8", "replace")
        if _UNSAFE_NAME.search(name):
            raise _unsafe(f"this archive contains {shown(name)}")
        start += name_bytes + extra_bytes
        content = data[start : start + _ENTRY_HEAD_BYTES]
        method = int.from_bytes(data[at + 8 : at + 10], "little")
        if method == _DEFLATED:
            content = _zlib(content, -15)
        elif method != _STORED:
            return
        check_head(content, f"{shown(name)} in this archive")


def _lengths(data: bytes, at: int) -> tuple[int, int]:
    """Length of the name and length of the extra field of the local header at `at`."""
    return (
        int.from_bytes(data[at + 26 : at + 28], "little"),
        int.from_bytes(data[at + 28 : at + 30], "little"),
    )
