"""The process: sockets, signals, and the order of coming and going.

    come    socket bound ▶ node started (store, lease, orphans) ▶ uvicorn serves ▶ "ready" printed
    go      not ready ▶ `goaway` to every client ▶ short answers finish, clients leave ▶ sockets closed ▶ node stopped

uvicorn by itself closes every WebSocket the moment a signal comes, before anybody could say goodbye, and dies by the
signal afterwards.  `Server` puts the drain in front of its shutdown, and leaves with exit code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import structlog
import uvicorn
import uvloop

from everstream.core.errors import EverstreamError
from everstream.gateway.app import create_app
from everstream.gateway.transport import DirectProtocol
from everstream.gateway.websocket import Connections
from everstream.providers.registry import registry_of
from everstream.runtime.node import Node
from everstream.settings import Settings
from everstream.store.urls import store_of

logger = structlog.get_logger(__name__)

EXIT_STORE = 3
EXIT_PORT = 4
BACKLOG = 2048
INTERRUPT_SPREAD_MS = 500  # after Ctrl-C nobody wants to wait for clients to leave in turn
LAST_FRAMES_S = 1  # for uvicorn to write what is under way
# A busy node makes many short-lived objects and no cycles: collecting less often costs nothing but saves the loop
# from pauses over thousands of long-lived ones.
GC_THRESHOLDS = (50_000, 20, 50)


class Server(uvicorn.Server):
    """uvicorn with a drain in front of its shutdown."""

    def __init__(self, config: uvicorn.Config, node: Node, connections: Connections) -> None:
        super().__init__(config)
        self._node = node
        self._connections = connections

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        settings = self._node.settings
        interrupted = signal.SIGINT in self._captured_signals
        spread_ms = min(settings.goaway_spread_ms, INTERRUPT_SPREAD_MS) if interrupted else settings.goaway_spread_ms
        self._node.draining = True
        logger.info("draining", connections=len(self._connections), generating=self._node.generating)
        for connection in self._connections:
            connection.goaway(spread_ms, "draining")
        drained = asyncio.create_task(self._drained(spread_ms / 1000, settings.drain_ms / 1000))
        forced = asyncio.create_task(self._forced())
        await asyncio.wait({drained, forced}, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        forced.cancel()
        await asyncio.gather(drained, forced, return_exceptions=True)
        await super().shutdown(sockets)

    async def _drained(self, spread_s: float, drain_s: float) -> None:
        await asyncio.gather(self._clients_left(spread_s), self._node.drain(drain_s))

    async def _clients_left(self, timeout_s: float) -> None:
        """The promise of `goaway`: a connection works until its time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while len(self._connections) and loop.time() < deadline:
            await asyncio.sleep(0.02)

    async def _forced(self) -> None:
        """Until somebody presses Ctrl-C a second time."""
        while not self.force_exit:
            await asyncio.sleep(0.1)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was obeyed is not raised again: a clean stop has exit code 0."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(settings: Settings) -> int:
    """Run a server until a signal stops it; the process's exit code."""
    _configure_logs(settings)
    try:
        listener = _bind(settings.host, settings.port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "another program listens there" if taken else error.strerror or str(error)
        print(f"everstream: cannot listen on {settings.host}:{settings.port}: {why}", file=sys.stderr)
        return EXIT_PORT
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> int:
    node = Node(settings, store_of(settings), registry_of(settings))
    try:
        await _start(node)
    except EverstreamError as error:
        print(f"everstream: {error.message}", file=sys.stderr)
        return EXIT_STORE
    except asyncio.CancelledError:  # a signal came before there was anything to drain
        return 0
    connections = Connections()
    config = uvicorn_config(node, connections)
    server = Server(config, node, connections)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    announcement = asyncio.create_task(_announce(server, listener))
    try:
        await server.serve([listener])
    finally:
        announcement.cancel()
        await asyncio.gather(announcement, return_exceptions=True)
        await node.stop()
    return 0


def uvicorn_config(node: Node, connections: Connections) -> uvicorn.Config:
    """uvicorn as this server wants it."""
    settings = node.settings
    return uvicorn.Config(
        create_app(node, connections),
        ws=DirectProtocol,
        ws_max_size=settings.frame_bytes,
        ws_ping_interval=settings.ping_interval_s,
        ws_ping_timeout=settings.ping_timeout_s,
        ws_per_message_deflate=False,  # doubles a connection's memory and triples the cost of a frame
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=LAST_FRAMES_S,
    )


async def _start(node: Node) -> None:
    """Start the node.  A SIGTERM meanwhile gives back what was taken (a share in the embedded store, say)."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await node.start()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _announce(server: Server, listener: socket.socket) -> None:
    while not server.started:
        await asyncio.sleep(0.005)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"Everstream is ready: http://{shown}:{port}/  (WebSocket: ws://{shown}:{port}/ws; Ctrl-C stops)", flush=True)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _configure_logs(settings: Settings) -> None:
    """One line an event, to standard error."""
    level = getattr(logging, settings.log_level.upper())
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    renderer = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
