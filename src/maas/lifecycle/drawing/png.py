"""PNG: writes 8-bit RGB images (W3C PNG Specification, third edition)."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def png(pixels: Pixels) -> bytes:
    """A PNG file of [height, width, 3] bytes: red, green, blue."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 [height, width, 3]; got {pixels.shape}")
    height, width, _ = pixels.shape
    # Each scan line starts with its filter type; 0 means no filter.
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def enlarged(pixels: Pixels, factor: int) -> Pixels:
    """Every pixel as a square of `factor` by `factor` pixels."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
