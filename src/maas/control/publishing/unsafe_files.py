"""Finds files that carry pickles, by their bytes, while they are uploaded.

Nothing in gateway or control ever unpickles, so this is no wall against an attacker: it tells
honest owners at publish, and not at the first call, that such a file will not be loaded. Known by
their first bytes are pickles (also joblib's compressed ones), NumPy arrays of objects, HDF5 (Keras)
and zip archives that hold any of these (`.pt`, `.pth`, `.npz`, `.keras`).
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
"""How much of a file, or of an entry of an archive, is looked at."""
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
    """`chunks` again; raises UnsafeArtifact as soon as they turn out to carry a pickle."""
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
    """Raises UnsafeArtifact if a file that starts with `head` carries a pickle."""
    if _is_pickle(head):
        raise _unsafe(f"{what} is a pickle")
    if head.startswith(b"\x93NUMPY") and _NPY_OBJECT.search(head[:HEAD_BYTES]):
        raise _unsafe(f"{what} is a NumPy array of Python objects, which is a pickle")
    if any(head.startswith(b"\x89HDF\r\n\x1a\n", at) for at in (0, 512, 1024, 2048, 4096)):
        raise _unsafe(f"{what} is HDF5, which Keras models can hide code in")
    if head.startswith((b"\x04\x22\x4d\x18", b"ZF")):
        raise _unsafe(f"{what} is compressed in a way that joblib uses for pickles")
    inflate = _inflater(head)
    if inflate is not None and layer < _MAX_LAYERS:
        check_head(inflate(head), f"{what}, once decompressed,", layer + 1)


def _unsafe(why: str) -> UnsafeArtifact:
    return UnsafeArtifact(
        f"{why}, and loading it could run code. Convert the model where you trust it, for example "
        "with client.publish(model, ...), which makes ONNX of it"
    )


def _is_pickle(head: bytes) -> bool:
    """Protocol 2 and newer announce themselves; older ones are recognized by opcodes that run."""
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return _opcodes(head) >= {"PROTO"}
    found = _opcodes(head)
    return bool(found & _PICKLE_CODE) and "STOP" in found


def _opcodes(head: bytes) -> set[str]:
    """Names of the pickle opcodes that `head` starts with; nothing is executed."""
    found = set()
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(head):
            found.add(opcode.name)
            count += 1
            if count > _MANY_OPCODES:
                break
    except (ValueError, IndexError, OverflowError):
        pass  # cut off at the end of the head, or no pickle after all
    if count > _MANY_OPCODES and len(found) > 2:
        # No other kind of file reads like this for so long, so what comes later may run, too.
        found |= {"STOP", "GLOBAL"}
    return found


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
    """Looks at the name and the first bytes of every entry of an archive as it streams by.

    Entries are found by their local headers and not by the directory at the end, because by then
    the entries' bytes are gone.
    """

    def __init__(self) -> None:
        self._kept = b""
        self._entries = 0

    def feed(self, chunk: bytes) -> None:
        data = self._kept + chunk
        at = 0
        while (at := data.find(_LOCAL_HEADER, at)) >= 0:
            after = self._entry_end(data, at)
            if len(data) < after:
                self._kept = data[at:]
                return
            self._check_entry(data, at)
            at += len(_LOCAL_HEADER)
        self._kept = data[-(len(_LOCAL_HEADER) - 1) :]

    def end(self) -> None:
        """The last entries may be shorter than what was waited for."""
        data, at = self._kept, 0
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
            raise _unsafe(f"this archive has {shown(name)} in it")
        start += name_bytes + extra_bytes
        content = data[start : start + _ENTRY_HEAD_BYTES]
        method = int.from_bytes(data[at + 8 : at + 10], "little")
        if method == _DEFLATED:
            content = _zlib(content, -15)
        elif method != _STORED:
            return
        check_head(content, f"{shown(name)} in this archive")


def _lengths(data: bytes, at: int) -> tuple[int, int]:
    """(length of the name, length of the extra field) of the local header at `at`"""
    return (
        int.from_bytes(data[at + 26 : at + 28], "little"),
        int.from_bytes(data[at + 28 : at + 30], "little"),
    )
