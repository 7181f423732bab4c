"""Messages to and from the process that runs a candidate: 4 bytes of length, then MessagePack."""

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
    """The next message; None at the end of the stream, or if the message is incomplete."""
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
    """Arrays by name as dtype, shape and data; str and bytes elements as a list."""
    return {name: _packed(array) for name, array in arrays.items()}


def _packed(array: Array) -> dict[str, Any]:
    is_text = array.dtype.kind in "OU"
    data = array.ravel().tolist() if is_text else np.ascontiguousarray(array).tobytes()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": data}


def unpacked(message: Mapping[str, Any]) -> dict[str, Array]:
    """Inverse of `packed`."""
    arrays: dict[str, Array] = {}
    for name, array in message.items():
        if isinstance(array["data"], list):
            flat = np.empty(len(array["data"]), dtype=object)
            flat[:] = array["data"]
        else:
            flat = np.frombuffer(array["data"], dtype=array["dtype"])
        arrays[name] = flat.reshape(array["shape"])
    return arrays
