"""A connection over a unix socket that carries frames and joins the writes of one loop tick."""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import cast

from maas.serving.wire.messages import MAX_FRAME_BYTES, Buffer, ProtocolViolation

log = logging.getLogger(__name__)

_LENGTH = struct.Struct("<I")


class Channel(asyncio.Protocol):
    """Splits received bytes into frames, and joins the frames sent within one tick into one write.

    Subclasses implement `frame_received` and `closed`, and may implement `congestion_changed`.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._arrived = bytearray()
        self._to_send: list[Buffer] = []
        self.is_congested = False
        """Whether the peer does not read what was sent; more would only fill memory."""
        self._loop = asyncio.get_running_loop()

    # -- for subclasses ---------------------------------------------------------------------

    def frame_received(self, kind: int, body: memoryview) -> None:
        raise NotImplementedError

    def opened(self) -> None:
        """Called when the connection is established."""

    def closed(self, reason: Exception | None) -> None:
        """Called when the connection is lost or closed; no frame follows."""

    def congestion_changed(self) -> None:
        """Called when `is_congested` changes."""

    # -- for users --------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, parts: list[Buffer]) -> None:
        """Send a frame at the end of this tick. It is dropped if the connection is lost."""
        if not self._to_send:
            self._loop.call_soon(self._flush)
        self._to_send.extend(parts)

    def send_now(self, parts: list[Buffer]) -> None:
        """Send a frame, and all others of this tick, at once.

        For the last frame of a tick, which another iteration of the loop would only delay.
        """
        self._to_send.extend(parts)
        self._flush()

    def close(self) -> None:
        """Close the connection after all frames are written."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once; unsent frames are lost."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._to_send.clear()
        self.closed(exc)

    def pause_writing(self) -> None:
        self.is_congested = True
        self.congestion_changed()

    def resume_writing(self) -> None:
        self.is_congested = False
        self.congestion_changed()

    def data_received(self, data: bytes) -> None:
        # Most reads hold whole frames. Only an incomplete rest is copied.
        arrived: bytes | bytearray = data
        if self._arrived:
            self._arrived += data
            # A frame over the limit is refused below, without waiting for its end.
            if len(self._arrived) < 4 or len(self._arrived) - 4 < self._length() <= MAX_FRAME_BYTES:
                return
            arrived, self._arrived = self._arrived, bytearray()
        view = memoryview(arrived)
        at, end = 0, len(view)
        try:
            while end - at >= 4:
                (length,) = _LENGTH.unpack_from(view, at)
                if not 1 <= length <= MAX_FRAME_BYTES:
                    raise ProtocolViolation(
                        f"a frame has 1 to {MAX_FRAME_BYTES} bytes, not {length}"
                    )
                if end - at - 4 < length:
                    break
                self.frame_received(view[at + 4], view[at + 5 : at + 4 + length])
                at += 4 + length
        except ProtocolViolation as error:
            log.error("closing a channel after a protocol violation: %s", error)
            self.abort()
            return
        if at < end:
            self._arrived = bytearray(view[at:])

    def _length(self) -> int:
        """The length of the incomplete frame."""
        (length,) = _LENGTH.unpack_from(self._arrived)
        return int(length)

    def _flush(self) -> None:
        parts, self._to_send = self._to_send, []
        if parts and self._transport is not None and not self._transport.is_closing():
            # Joining saves system calls, but large tensors are not worth the copy.
            if sum(map(len, parts)) <= 1 << 18:
                self._transport.write(b"".join(parts))
            else:
                self._transport.writelines(parts)
