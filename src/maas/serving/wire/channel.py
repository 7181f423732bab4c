"""A framed connection over a unix socket whose writes are joined once per tick of the loop."""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import cast

from maas.serving.wire.messages import MAX_FRAME_BYTES, Buffer, ProtocolViolation

log = logging.getLogger(__name__)

_LENGTH = struct.Struct("<I")


class Channel(asyncio.Protocol):
    """Splits what arrives into frames, and joins what is sent within one tick into one write.

    Subclasses implement `frame_received`, `closed` and, if they care, `congestion_changed`.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._arrived = bytearray()
        self._to_send: list[Buffer] = []
        self.is_congested = False
        """Whether the peer leaves what was sent to it lying; more would only fill our memory."""
        self._loop = asyncio.get_running_loop()

    # -- for subclasses ---------------------------------------------------------------------

    def frame_received(self, kind: int, body: memoryview) -> None:
        raise NotImplementedError

    def opened(self) -> None:
        """The connection stands."""

    def closed(self, reason: Exception | None) -> None:
        """The connection is gone; nothing more arrives."""

    def congestion_changed(self) -> None:
        """`is_congested` is another."""

    # -- for users --------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, parts: list[Buffer]) -> None:
        """Send a frame with the others of this tick; dropped if the connection is gone."""
        if not self._to_send:
            self._loop.call_soon(self._flush)
        self._to_send.extend(parts)

    def send_now(self, parts: list[Buffer]) -> None:
        """The same for who knows that this is the end of what the tick sends: another turn of the
        loop would only delay it."""
        self._to_send.extend(parts)
        self._flush()

    def close(self) -> None:
        """Close after what was sent has left."""
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def abort(self) -> None:
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
        # Most reads hold whole frames; only an incomplete rest is copied and kept.
        arrived: bytes | bytearray = data
        if self._arrived:
            self._arrived += data
            # A length beyond the limit is not waited for but refused below.
            if len(self._arrived) < 4 or len(self._arrived) - 4 < self._wanted() <= MAX_FRAME_BYTES:
                return
            arrived, self._arrived = self._arrived, bytearray()
        view = memoryview(arrived)
        at, end = 0, len(view)
        try:
            while end - at >= 4:
                (length,) = _LENGTH.unpack_from(view, at)
                if not 1 <= length <= MAX_FRAME_BYTES:
                    raise ProtocolViolation(f"a frame of {length} bytes")
                if end - at - 4 < length:
                    break
                self.frame_received(view[at + 4], view[at + 5 : at + 4 + length])
                at += 4 + length
        except ProtocolViolation as wrong:
            log.error("closing a channel: %s", wrong)
            self.abort()
            return
        if at < end:
            self._arrived = bytearray(view[at:])

    def _wanted(self) -> int:
        (length,) = _LENGTH.unpack_from(self._arrived)
        return int(length)

    def _flush(self) -> None:
        parts, self._to_send = self._to_send, []
        if parts and self._transport is not None and not self._transport.is_closing():
            # One joined write is one system call; big tensors are worth no extra copy.
            if sum(map(len, parts)) <= 1 << 18:
                self._transport.write(b"".join(parts))
            else:
                self._transport.writelines(parts)
