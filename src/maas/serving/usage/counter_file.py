"""Counters in a memory-mapped file, which survive a crash of the counting process.

Adding to a counter is one write to memory that the kernel owns: it needs no system call, and
`kill -9` loses nothing. Other processes may read the totals at any time. The writer locks the file
while it runs, so that a reader can tell when the totals are final.

Layout, little-endian: a page with `magic, width, used, capacity` (u64 each) and the source's name;
then records of a 256-byte label (UTF-8, zero-padded) and `width` u64 counters.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

MAGIC = 0x31544E434D414153
_HEAD_BYTES = 4096
_LABEL_BYTES = 256
_HEAD = struct.Struct("<QQQQ")


class CounterFile:
    """Writes counters. Not thread-safe: one event loop counts."""

    def __init__(self, path: Path, source: str, width: int, capacity: int = 16384) -> None:
        """Create `path`. The file is sparse, so that `capacity` costs address space but no disk.

        `width` is the number of counters per label. Raises FileExistsError if the file exists. The
        file is renamed when it is complete and locked: without the lock, it would look as if its
        writer had exited.
        """
        if path.exists():
            raise FileExistsError(f"{path} exists already")
        new_path = path.with_name(f"{path.name}.new")
        self.path = path
        self._record = _LABEL_BYTES + 8 * width
        self._width = width
        self._capacity = capacity
        self._slots: dict[str, memoryview] = {}
        self._fd = os.open(new_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.ftruncate(self._fd, _HEAD_BYTES + self._record * capacity)
        self._map = mmap.mmap(self._fd, 0)
        name = source.encode()[: _HEAD_BYTES - _HEAD.size - 1]
        self._map[_HEAD.size : _HEAD.size + len(name)] = name
        _HEAD.pack_into(self._map, 0, MAGIC, width, 0, capacity)
        new_path.rename(path)

    def slot(self, label: str) -> memoryview:
        """The counters of `label`: `width` u64 values to add to. They start at 0.

        When the file is full, further labels share the last slot, so that nothing is lost.
        """
        slot = self._slots.get(label)
        if slot is None:
            if len(self._slots) >= self._capacity - 1:
                label = ""
                if label in self._slots:
                    return self._slots[label]
            slot = self._slots[label] = self._make_slot(len(self._slots), label)
        return slot

    def _make_slot(self, number: int, label: str) -> memoryview:
        at = _HEAD_BYTES + number * self._record
        text = label.encode()
        if len(text) >= _LABEL_BYTES:
            raise ValueError(f"a label has at most {_LABEL_BYTES - 1} bytes, not {len(text)}")
        self._map[at : at + len(text)] = text
        # The count of records is updated after the label is complete.
        struct.pack_into("<Q", self._map, 16, number + 1)
        start = at + _LABEL_BYTES
        return memoryview(self._map)[start : start + 8 * self._width].cast("Q")

    def close(self) -> None:
        for slot in self._slots.values():
            slot.release()
        self._slots.clear()
        self._map.close()
        os.close(self._fd)


def read_counters(path: Path) -> tuple[str, dict[str, tuple[int, ...]], bool]:
    """The source, the totals by label, and whether the writer still runs.

    The lock is checked first, so that the totals of an exited writer are final. Raises ValueError
    if the file is not a counter file.
    """
    with path.open("rb") as file:
        alive = not _is_lockable(file.fileno())
        head = file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            raise ValueError(f"{path.name}: too short")
        magic, width, used, capacity = _HEAD.unpack_from(head)
        if magic != MAGIC or used > capacity or width > 1024:
            raise ValueError(f"{path.name}: not a counter file")
        source = head[_HEAD.size :].rstrip(b"\0").decode("utf-8", "replace")
        record = _LABEL_BYTES + 8 * width
        body = file.read(record * used)
    totals = {}
    for at in range(0, len(body) - record + 1, record):
        label = body[at : at + _LABEL_BYTES].rstrip(b"\0").decode("utf-8", "replace")
        totals[label] = struct.unpack_from(f"<{width}Q", body, at + _LABEL_BYTES)
    return source, totals, alive


def _is_lockable(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
