"""uvicorn's HTTP protocol, guarded: deadlines and bounds for what a client sends and takes.

uvicorn waits for the end of a request for ever, takes a head of any length, and never drops a peer that does not read.
Here a request has stages, each with its bound; the timer is one of the connection's:

    connected, or the first byte of the next request
        |  head: URL_BYTES_MAX; beside it HEAD_BYTES_MAX and HEADERS_MAX; within `head_s`     else 414, 431, 426, 408
        v
    head complete ---- the gate (gate.py): has this address, has this process room?      else 429, 503
        |  body: within `body_s`                                                         else 408
        v
    request complete --- the answer: a peer that takes nothing of it for `write_s`       is aborted

The answer to a bad head is made here, before there is a request that an application could be asked about.  Who is
turned away may still be sending: the socket is half closed then, and what comes is dropped for a moment, since a reset
would take the answer away from him.

A WebSocket begins as a request, and is counted at the gate until its socket is gone.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from everstream.gateway.gate import Gate, TurnedAway
from everstream.gateway.transport import StuckPeer
from everstream.runtime.counters import Counters

logger = structlog.get_logger(__name__)

HEAD_BYTES_MAX: Final = 16_384
URL_BYTES_MAX: Final = 65_536  # for GET /stream, whose prompt is in it, escaped
HEADERS_MAX: Final = 128
LINGER_S: Final = 1.0

_TOO_LONG: Final = TurnedAway(431, "the head of this request is too long", 0)
_URL_TOO_LONG: Final = TurnedAway(414, "the address of this request is too long", 0)
_TOO_OLD: Final = TurnedAway(426, "HTTP/1.0 has no upgrade", 0)
_TOO_SLOW: Final = TurnedAway(408, "this request did not come in time", 0)
_CODES: Final = {429: "limit.rate", 503: "limit.rate"}  # of all others `request.invalid`


class GuardedHttp(HttpToolsProtocol):
    """See the module's text.  Times are in seconds."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        gate: Gate,
        counters: Counters,
        head_s: float,
        body_s: float,
        write_s: float,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._gate, self._counters = gate, counters
        self._head_s, self._body_s, self._write_s = head_s, body_s, write_s
        self._deadline: asyncio.TimerHandle | None = None
        self.url = b""
        self._in_head = True
        self._head_bytes = 0  # since the head began
        self._inside: str | None = None  # the address that is counted at the gate
        self._turned_away = False

    # ------------------------------------------------------------------ the socket

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._stuck = StuckPeer(transport, self.loop, self._write_s, self._abort)
        self._within(self._head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._within(None)
        self._stuck.forget()
        self._leave()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck.forget()

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # A head that came whole was looked at when it was complete; behind it there may be a body.
        if self._in_head and not self._turned_away and not self.transport.is_closing():
            if len(self.url) > URL_BYTES_MAX:
                self._turn_away(_URL_TOO_LONG)
            elif self._head_bytes - len(self.url) > HEAD_BYTES_MAX:
                self._turn_away(_TOO_LONG)

    # ------------------------------------------------------------------ the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:  # another request on the same connection
            self._in_head, self._head_bytes = True, 1  # at least
            if self._deadline is None:
                self._within(self._head_s)

    def on_headers_complete(self) -> None:
        self._in_head = False
        fault = self._fault_of_head()
        if fault is None:
            fault = self._enter()
        if fault is not None:
            self._turn_away(fault)
            return
        self._within(self._body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._turned_away:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._turned_away:
            self._within(None)
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if self._turned_away:
            return
        self._within(None)
        super().handle_websocket_upgrade()
        if self._inside is not None:
            self.transport.get_protocol().on_lost = partial(self._gate.leave, self._inside)  # type: ignore[attr-defined]
            self._inside = None
        # The socket is another protocol's now: without these two, which know this one, it goes at once and all it read
        # goes too.  (The collector of cycles comes late here, see GC_THRESHOLDS.)
        del self.parser, self._stuck

    # ------------------------------------------------------------------ verdicts

    def _fault_of_head(self) -> TurnedAway | None:
        if len(self.url) > URL_BYTES_MAX:
            return _URL_TOO_LONG
        if self.parser.should_upgrade() and self.parser.get_http_version() == "1.0":
            return _TOO_OLD  # RFC 9110 section 7.8
        size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return _TOO_LONG if size > HEAD_BYTES_MAX or len(self.headers) > HEADERS_MAX else None

    def _enter(self) -> TurnedAway | None:
        """Count this connection for whom the request comes from, which a proxy's next request may say anew."""
        address = self._gate.address_of(self.client[0] if self.client else "", self.headers)
        if address == self._inside:
            return None
        self._leave()
        refusal = self._gate.enter(address)
        if refusal is None:
            self._inside = address
        else:
            self._counters.connections_turned_away += 1
            logger.warning("a connection was turned away", address=address, reason=refusal.message)
        return refusal

    def _leave(self) -> None:
        if self._inside is not None:
            self._gate.leave(self._inside)
            self._inside = None

    def _within(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        if self._in_head and self._head_bytes == 0:
            self._abort()  # it never said a word, and waits for none
        else:
            self._turn_away(_TOO_SLOW)

    def _turn_away(self, refusal: TurnedAway) -> None:
        self._turned_away = True
        self._within(None)
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # who answers it speaks to nobody from now on
            cycle.message_event.set()
            if cycle.response_started:
                self._abort()
                return
        self.transport.write(_answer(refusal))
        if not self.transport.can_write_eof():
            self.transport.close()  # TLS has no half of a connection
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        self.transport.abort()


def _answer(refusal: TurnedAway) -> bytes:
    fault: dict[str, Any] = {
        "code": _CODES.get(refusal.status, "request.invalid"),
        "message": refusal.message,
        "retryable": refusal.status in (408, 429, 503),
    }
    head = [STATUS_LINE[refusal.status]]
    if refusal.retry_after_s:
        fault["retry_after_ms"] = refusal.retry_after_s * 1000
        head.append(b"retry-after: %d\r\n" % refusal.retry_after_s)
    body = msgspec.json.encode({"error": fault})
    head.append(
        b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\ncache-control: no-store\r\n"
        b"x-content-type-options: nosniff\r\n\r\n" % len(body)
    )
    return b"".join(head) + body
