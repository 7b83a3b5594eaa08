"""A WebSocket reader that costs little, so that two thousand of them fit beside the servers under test.

It speaks what the tests need of RFC 6455 and no more: the handshake, text frames from the server, its pings and its
close.  A client's frames are masked with zeros, which is a mask like any other.  There is no queue: each frame is
handed on by a plain call in the turn of the loop in which it came, with nothing kept for it.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import Any

import msgspec

OPEN_TIMEOUT_S = 3.0
ABNORMAL = 1006  # the close code of a connection that ended without one

_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_SHORT_BYTES_MAX, _MEDIUM_BYTES_MAX = 125, 0xFFFF

Frame = dict[str, Any]
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Refused(OSError):
    """The server answered, but not with a WebSocket."""


class SocketLine(asyncio.Protocol):
    """One connection.  `on_frame` gets each frame; `closed` has the close code once it is over."""

    def __init__(self, host: str, port: int, on_frame: Callable[[Frame], None]) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[int] = loop.create_future()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.last_at = loop.time()
        self._loop = loop
        self._host = f"{host}:{port}"
        self._on_frame = on_frame
        self._data = bytearray()
        self._code = ABNORMAL
        self._transport: asyncio.Transport | None = None

    # ------------------------------------------------------------------ what the test does

    def send(self, frame: Frame) -> None:
        if self._transport is not None and not self.closed.done():
            self._write(_TEXT, _encode(frame))

    def abort(self) -> None:
        """Leave without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, opcode: int, payload: bytes) -> None:
        assert self._transport is not None
        size = len(payload)
        if size <= _SHORT_BYTES_MAX:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size <= _MEDIUM_BYTES_MAX:
            head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
        else:
            head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
        self._transport.write(head + b"\0\0\0\0" + payload)

    # ------------------------------------------------------------------ what the loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self.last_at = self._loop.time()
        self._data += data
        if not self.opened.done() and not self._handshake_over():
            return
        while self._one_frame():
            pass

    def _handshake_over(self) -> bool:
        head, found, rest = bytes(self._data).partition(b"\r\n\r\n")
        if not found:
            return False
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            self.opened.set_exception(Refused(head[:80].decode(errors="replace")))
            self.abort()
            return False
        self.opened.set_result(None)
        self._data = bytearray(rest)
        return True

    def _one_frame(self) -> bool:
        data = self._data
        if len(data) < 2:
            return False
        size, at = data[1], 2
        if size > _SHORT_BYTES_MAX:
            at = 4 if size == 126 else 10
            if len(data) < at:
                return False
            size = int.from_bytes(data[2:at], "big")
        if len(data) < at + size:
            return False
        opcode, payload = data[0] & 0x0F, bytes(data[at : at + size])
        del data[: at + size]
        if opcode == _TEXT:
            self._on_frame(_decode(payload))
        elif opcode == _PING:
            self._write(_PONG, payload)
        elif opcode == _CLOSE:
            self._code = int.from_bytes(payload[:2], "big") or ABNORMAL
            self._write(_CLOSE, payload[:2])
            assert self._transport is not None
            self._transport.close()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(Refused("closed before it was open"))
            self.opened.exception()
        if not self.closed.done():
            self.closed.set_result(self._code)


async def open_line(host: str, port: int, on_frame: Callable[[Frame], None]) -> SocketLine:
    """Connect.  Raises OSError where there is no server, or it refuses, or does not answer within OPEN_TIMEOUT_S."""
    loop = asyncio.get_running_loop()
    line: SocketLine | None = None
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            _, line = await loop.create_connection(lambda: SocketLine(host, port, on_frame), host, port)
            await line.opened
    except BaseException:
        if line is not None:
            line.abort()
        raise
    return line
