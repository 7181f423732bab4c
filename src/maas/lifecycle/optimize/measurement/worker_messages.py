"""Messages between an optimization and the process that runs one candidate: length, MessagePack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import msgspec
import numpy as np

from maas.lifecycle.optimize.results import Array

LARGEST = 1 << 31


def send(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    body = msgspec.msgpack.encode(message)
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next message; None where the other side has ended."""
    head = stream.read(4)
    size = int.from_bytes(head, "big")
    if len(head) < 4 or size > LARGEST:
        return None
    body = stream.read(size)
    if len(body) < size:
        return None
    message: dict[str, Any] = msgspec.msgpack.decode(body)
    return message


def packed(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Arrays by name, those of texts and bytes element by element."""
    return {
        name: {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "data": array.ravel().tolist()
            if array.dtype.kind in "OU"
            else np.ascontiguousarray(array).tobytes(),
        }
        for name, array in arrays.items()
    }


def unpacked(raw: Mapping[str, Any]) -> dict[str, Array]:
    """What `packed` was given."""
    found: dict[str, Array] = {}
    for name, array in raw.items():
        if isinstance(array["data"], list):
            flat = np.empty(len(array["data"]), dtype=object)
            flat[:] = array["data"]
        else:
            flat = np.frombuffer(array["data"], dtype=array["dtype"])
        found[name] = flat.reshape(array["shape"])
    return found
