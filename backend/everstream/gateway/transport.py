"""What knows the insides of uvicorn's WebSockets: frames written straight to the socket, and what the socket says back.

`DirectProtocol` is uvicorn's WebSocket protocol, which keeps handshake, reading, pings and close.  It adds a way
round ASGI for writing: ready-made frames go to the transport in one call, without a task or a queue.  In return the
transport's own flow control is visible: a socket that stops taking bytes is *full*, and a full one that takes nothing
for the write deadline is aborted.  (Neither uvicorn nor websockets ever drops a peer that does not read.)

Under another server, or a test client, `AsgiOutlet` writes the same frames through ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from everstream.core.pace import Bucket
from everstream.core.wire import Encoding
from everstream.gateway.frames import FRAMED, PLAIN, PlainEncoder

EXTENSION = "everstream.direct"
CLOSE_NO_TEXT = 1007  # RFC 6455 section 7.4.1
# Frames from one client, of any kind, pieces and pings too: faster than a person or a page has reason to.
FRAMES_AT_ONCE = 2_000
FRAMES_PER_S = 500
SLICE_BYTES = 4_096  # of empty frames these are 680


class Outlet(Protocol):
    """Where a connection's frames go."""

    encoder: PlainEncoder

    @property
    def full(self) -> bool:
        """The peer does not keep up: write nothing more until `on_room` is called."""
        ...

    def open(self, on_room: Callable[[], None], on_stuck: Callable[[], None]) -> None:
        """`on_room`: there is room again.  `on_stuck`: the peer took nothing for too long and is cut off."""
        ...

    async def room(self) -> None:
        """Wait while the outlet is full, at most until the peer is cut off."""
        ...

    def write(self, frames: list[bytes]) -> None: ...

    async def close(self, code: int, reason: str) -> None: ...

    def shut(self) -> None:
        """The connection is over: stop timers and tasks."""
        ...


class StuckPeer:
    """Cuts off a peer that takes nothing for `timeout_s` while there is something for it.  A slow one is let be."""

    __slots__ = ("_cut_off", "_deadline", "_loop", "_timeout_s", "_transport", "_unsent")

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        cut_off: Callable[[], None],
    ) -> None:
        self._transport, self._loop, self._timeout_s, self._cut_off = transport, loop, timeout_s, cut_off
        self._deadline: asyncio.TimerHandle | None = None
        self._unsent = 0

    def watch(self) -> None:
        """More is written than the peer takes."""
        self.forget()
        self._unsent = self._transport.get_write_buffer_size()
        self._deadline = self._loop.call_later(self._timeout_s, self._expired)

    def forget(self) -> None:
        """It keeps up again, or is gone."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        if self._transport.get_write_buffer_size() < self._unsent:
            self.watch()
        else:
            self._cut_off()


class DirectProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol with a door for ready-made frames."""

    on_flow: Callable[[bool], None] | None = None
    on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._frames_pace = Bucket(FRAMES_AT_ONCE, FRAMES_PER_S, self.loop.time())
        self._frames_seen = 0
        self._unread = bytearray()  # what came while nothing is read
        self._pause: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """A read may hold thousands of frames: it is taken in slices, and no further than the pace allows."""
        if self._pause is not None:
            self._unread += data
            self.transport.pause_reading()
            return
        for start in range(0, len(data), SLICE_BYTES):
            piece = data[start : start + SLICE_BYTES] if len(data) > SLICE_BYTES else data
            self._frames_seen = 0
            super().data_received(piece)
            if self.transport.is_closing():
                return
            wait_s = self._frames_pace.take(self.loop.time(), self._frames_seen) if self._frames_seen else 0.0
            if wait_s:
                self._unread += data[start + SLICE_BYTES :]
                self.transport.pause_reading()
                self._pause = self.loop.call_later(wait_s, self._go_on)
                return

    def _go_on(self) -> None:
        self._pause = None
        unread, self._unread = bytes(self._unread), bytearray()
        if self.disconnected or self.transport.is_closing():
            return
        self._frames_pace.take(self.loop.time(), self._frames_seen)  # what was seen before is paid for now
        if not self.read_paused:
            self.transport.resume_reading()
        if unread:
            self.data_received(unread)

    def handle_events(self) -> None:
        self._frames_seen += len(self.conn.events)
        super().handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._pause is not None:
            self._pause.cancel()
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][EXTENSION] = {"protocol": self}

    def send_receive_event_to_app(self) -> None:
        """What is no text is refused here: uvicorn's own refusal writes a traceback to the log for each."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(CLOSE_NO_TEXT)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answer; but not a peer that pings without ever reading.  (A later pong answers for all pings before.)"""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_flow is not None:
            self.on_flow(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_flow is not None:
            self.on_flow(False)


class DirectOutlet:
    """Writes ready-made frames to the transport."""

    def __init__(
        self,
        websocket: WebSocket,
        protocol: DirectProtocol,
        encoding: Encoding,
        high_water_bytes: int,
        timeout_s: float,
    ) -> None:
        self.encoder: PlainEncoder = FRAMED[encoding]
        self.full = False
        self._websocket = websocket
        self._protocol = protocol
        # To be aborted and not closed, which would wait for a buffer that never drains.
        self._stuck = StuckPeer(protocol.transport, protocol.loop, timeout_s, self._cut_off)
        protocol.transport.set_write_buffer_limits(high=high_water_bytes)

    def open(self, on_room: Callable[[], None], on_stuck: Callable[[], None]) -> None:
        self._on_room, self._on_stuck = on_room, on_stuck
        self._protocol.on_flow = self._flow

    async def room(self) -> None:
        await self._protocol.writable.wait()  # set when the connection is lost, too

    def write(self, frames: list[bytes]) -> None:
        protocol = self._protocol
        if not protocol.close_sent and not protocol.transport.is_closing():
            protocol.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))

    async def close(self, code: int, reason: str) -> None:
        if self._protocol.writable.is_set():
            await self._websocket.close(code, reason)
        else:
            self._protocol.transport.abort()

    def shut(self) -> None:
        self._protocol.on_flow = None
        self._stuck.forget()

    def _flow(self, full: bool) -> None:
        self.full = full
        if full:
            self._stuck.watch()
        else:
            self._stuck.forget()
            self._on_room()

    def _cut_off(self) -> None:
        self._on_stuck()
        self._protocol.transport.abort()


class AsgiOutlet:
    """Writes through ASGI, one batch at a time."""

    def __init__(self, websocket: WebSocket, encoding: Encoding, timeout_s: float) -> None:
        self.encoder: PlainEncoder = PLAIN[encoding]
        self._websocket = websocket
        self._text = encoding is Encoding.JSON
        self._timeout_s = timeout_s
        self._waiting: list[bytes] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        return bool(self._waiting)

    def open(self, on_room: Callable[[], None], on_stuck: Callable[[], None]) -> None:
        self._on_room, self._on_stuck = on_room, on_stuck

    async def room(self) -> None:
        if self._task is not None and self.full:
            await asyncio.wait({self._task})

    def write(self, frames: list[bytes]) -> None:
        self._waiting += frames
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send(), name="websocket writer")

    async def _send(self) -> None:
        try:
            while self._waiting:
                frames, self._waiting = self._waiting, []
                for frame in frames:
                    async with asyncio.timeout(self._timeout_s):
                        if self._text:
                            await self._websocket.send_text(frame.decode())
                        else:
                            await self._websocket.send_bytes(frame)
                self._on_room()
        except TimeoutError:
            self._on_stuck()
        except (WebSocketDisconnect, RuntimeError):
            self._waiting = []  # the peer is gone; the reader's loop notices by itself

    async def close(self, code: int, reason: str) -> None:
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=self._timeout_s)
        await self._websocket.close(code, reason)

    def shut(self) -> None:
        if self._task is not None:
            self._task.cancel()


def outlet_of(websocket: WebSocket, encoding: Encoding, high_water_bytes: int, timeout_s: float) -> Outlet:
    direct = websocket.scope.get("extensions", {}).get(EXTENSION)
    if direct is None:
        return AsgiOutlet(websocket, encoding, timeout_s)
    return DirectOutlet(websocket, direct["protocol"], encoding, high_water_bytes, timeout_s)
