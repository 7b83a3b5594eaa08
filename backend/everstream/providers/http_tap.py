"""A tap on a connection: the body of an answer, in the very turn of the loop in which it arrived.

    socket ─▶ transport ─▶ Tap ──whole chunks──▶ take
                            │  ▲
                            ▼  │ what came out
                    aiohttp's own protocol

aiohttp parses a body in C, but hands it on through a future, a task's wake-up and two coroutines: for a paced token
that is half of what the token costs.  So once the headers are there, the tap stands between the transport and
aiohttp's protocol.  A segment that is nothing but whole chunks (RFC 9112, section 7.1), which a paced token nearly
always is, is unwrapped here and handed on by a plain call; the protocol never sees it.  Everything else goes through
the protocol as ever, and what comes out is handed on: half a chunk, the last one, the end of the connection.

The protocol's own state stays right, because all it ever misses is whole chunks between two chunks.  That takes
knowing that it *is* between two chunks (a body may hold what looks like one).  So the tap begins out of step, and
gets in step only by proof: the last byte of a segment is given to the protocol alone, and if a chunk ends with
precisely that byte, the next byte begins another.

A tap lives for one `flow` and holds no bytes, so the protocol can take its place back at any moment.  It stops when
the taker says so, when the body ends and when the connection is lost; what comes then, the protocol holds for whoever
reads next, under its own flow control.

All that is looked at inside aiohttp is looked for first (`tap_on`); where something is missing there is no tap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

_SIZE_LINE_BYTES_MAX = 10
_HANDLER_PARTS = ("data_received", "eof_received", "connection_lost", "pause_writing", "resume_writing")
_CONTENT_PARTS = ("read_nowait", "is_eof", "exception", "total_bytes", "_http_chunk_splits")


def whole_chunks(data: bytes) -> bytes:
    """The payload of `data` where it is nothing but whole chunks with something in them, else b""."""
    start = data.find(b"\r\n", 0, _SIZE_LINE_BYTES_MAX)
    payload = data[start + 2 : -2]
    # Nearly always it is one chunk.  Writing the size down and comparing is cheaper than reading it with due distrust.
    if payload and data[:start] == b"%x" % len(payload) and data[-2:] == b"\r\n":
        return payload
    return _whole_chunks(data)


def _whole_chunks(data: bytes) -> bytes:
    payload: list[bytes] = []
    at = 0
    while at < len(data):
        start = data.find(b"\r\n", at, at + _SIZE_LINE_BYTES_MAX)
        size = _chunk_size(data[at:start]) if start > at else 0
        at = start + 2 + size
        if not size or data[at : at + 2] != b"\r\n":
            return b""
        payload.append(data[at - size : at])
        at += 2
    return b"".join(payload)


def _chunk_size(digits: bytes) -> int:
    """0 for what is no plain hexadecimal number: extensions and spaces are the protocol's matter."""
    try:
        return int(digits, 16) if digits.isalnum() and digits[1:2] not in (b"x", b"X") else 0
    except ValueError:
        return 0


def tap_on(response: Any) -> Tap | None:
    """A tap on an aiohttp response's connection; None where the answer is not chunked, or nothing is to be tapped."""
    connection = getattr(response, "connection", None)
    transport, handler = getattr(connection, "transport", None), getattr(connection, "protocol", None)
    content = getattr(response, "content", None)
    headers = getattr(response, "headers", {})
    if (
        headers.get("transfer-encoding", "").lower() != "chunked"
        or headers.get("content-encoding", "identity").lower() != "identity"
        or not all(hasattr(handler, part) for part in (*_HANDLER_PARTS, "_reading_paused"))
        or not all(hasattr(content, part) for part in _CONTENT_PARTS)
        or getattr(handler, "read_timeout", None) is not None  # a clock that would have to see every byte
        or getattr(transport, "get_protocol", lambda: None)() is not handler
    ):
        return None
    return Tap(transport, handler, content)


class Tap(asyncio.Protocol):
    """See the module's text.  `handler` is aiohttp's protocol, `content` its reader of this body."""

    def __init__(self, transport: Any, handler: Any, content: Any) -> None:
        self._transport = transport
        self._handler = handler
        self._content = content
        self._in_step = False
        self._take: Callable[[bytes], bool] = _refuse
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def flow(self, take: Callable[[bytes], bool]) -> bool:
        """Hand on what arrives until `take` returns False, and return True; False at the end of it all.

        The end may be that of the body or of the connection: whoever reads the body next will hear which.  Raises
        what `take` raises.
        """
        self._take = take
        self._hand_over()
        if self._over.done():
            self._over.result()
        elif not self._ended():
            self._transport.set_protocol(self)
            try:
                await self._over
            finally:
                self._stop()
        return not self._ended()

    # ------------------------------------------------------------------ what the transport calls

    def data_received(self, data: bytes) -> None:
        if self._in_step and (payload := whole_chunks(data)):
            self._give(payload)
            return
        handler, content = self._handler, self._content
        if data[-1:] != b"\n":
            handler.data_received(data)
            self._in_step = False
        else:
            handler.data_received(data[:-1])
            before, ended = content.total_bytes, _chunks_end(content)
            handler.data_received(data[-1:])
            self._in_step = before == content.total_bytes == _chunks_end(content) != ended and (
                not handler._reading_paused  # a parser that was stopped in its tracks has bytes left
            )
        self._hand_over()
        if self._ended():
            self._stop()

    def eof_received(self) -> bool | None:
        kept: bool | None = self._handler.eof_received()
        return kept

    def connection_lost(self, error: Exception | None) -> None:
        self._handler.connection_lost(error)
        self._stop()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    # ------------------------------------------------------------------

    def _ended(self) -> bool:
        return bool(self._content.is_eof()) or self._content.exception() is not None

    def _hand_over(self) -> None:
        """Give what the protocol's reader holds.  Reading may let it parse more, so look again."""
        content = self._content
        while not self._over.done() and content.exception() is None:
            payload = content.read_nowait()
            if not payload:
                return
            self._give(payload)

    def _give(self, payload: bytes) -> None:
        try:
            if not self._take(payload):
                self._stop()
        except Exception as error:  # it is the reader's, and must not end in the transport
            self._stop(error)

    def _stop(self, error: Exception | None = None) -> None:
        if self._transport.get_protocol() is self:
            self._transport.set_protocol(self._handler)
        if not self._over.done():
            if error is None:
                self._over.set_result(None)
            else:
                self._over.set_exception(error)


def _chunks_end(content: Any) -> int:
    """Where in the body the last chunk that the protocol saw whole ends; -1 before the first."""
    ends = content._http_chunk_splits
    return ends[-1] if ends else -1


def _refuse(_: bytes) -> bool:
    return False
