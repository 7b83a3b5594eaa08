"""A node as a process: signals, and the order of coming and going.

    come    socket bound ▶ node started (store, lease, orphans) ▶ uvicorn serves ▶ ready, and says so
    go      not ready ▶ `goaway` to every client, each with a time of its own ▶ answers finish or are handed over,
            clients leave; who is still there when its time is over is closed ▶ sockets closed ▶ node stopped

uvicorn by itself closes every WebSocket the moment a signal comes, before anybody could say goodbye, and dies by the
signal afterwards.  `Server` puts the drain in front of its shutdown, and leaves with exit code 0.

While it drains a node still accepts: a balancer takes seconds to see `/readyz`, and a refused connection is an error
to somebody.  Only a node that leaves while its siblings stay (`parent.py`) closes the port before, since theirs is the
same; its parent says when.

Each client is told a time between half of `goaway_spread_ms` and all of it.  Those that obey leave at a time of their
own within theirs, those that do not are closed at it, so that neither kind comes to the other nodes all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from types import FrameType
from typing import cast

import structlog
import uvicorn
import uvloop

from everstream.core.errors import EverstreamError
from everstream.gateway.app import app_around
from everstream.gateway.application import App
from everstream.gateway.auth import Authenticate
from everstream.gateway.authenticator import authenticator_of
from everstream.gateway.connections import Connected, Connections
from everstream.gateway.gate import Gate, room_for
from everstream.gateway.lifeline import Lifeline, Word
from everstream.gateway.startup import EXIT_PORT, EXIT_STORE, announce, bind, configure_logs, tell_systemd
from everstream.gateway.transport import DirectProtocol
from everstream.gateway.transport_http import GuardedHttp
from everstream.providers.registry import registry_of
from everstream.runtime.node import Node
from everstream.settings import Settings
from everstream.store.urls import store_of

logger = structlog.get_logger(__name__)

BACKLOG = 2048
CLOSE_DRAINING = 4001
INTERRUPT_SPREAD_MS = 500  # after Ctrl-C nobody wants to wait for clients to leave in turn
LAST_FRAMES_S = 1  # for uvicorn to write what is under way
LOOK_EVERY_S = 0.02  # for clients whose time is over
# A busy node makes many short-lived objects and no cycles: collecting less often costs nothing but saves the loop
# from pauses over thousands of long-lived ones.
GC_THRESHOLDS = (50_000, 20, 50)


class Server(uvicorn.Server):
    """uvicorn with a drain in front of its shutdown."""

    def __init__(
        self, config: uvicorn.Config, node: Node, connections: Connections, lifeline: Lifeline | None = None
    ) -> None:
        super().__init__(config)
        self._node = node
        self._connections = connections
        self._lifeline = lifeline
        self._answered = asyncio.Event()  # the parent knows that this node goes
        self._aside = asyncio.Event()  # the port is to be left to others
        self._interrupted = False

    # ------------------------------------------------------------------ being told

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the drain, the second one ends it."""
        self._leave(interrupted=sig == signal.SIGINT, forced=self.should_exit)

    def obey(self, word: Word | None) -> None:
        """What the parent says; None: there is no parent any more, and nobody else to start this node again."""
        self._answered.set()
        if word in (Word.ASIDE, None):
            self._aside.set()
        self._leave(interrupted=word is Word.INTERRUPT, forced=word is Word.FORCE)

    def _leave(self, *, interrupted: bool, forced: bool) -> None:
        self._node.draining = True  # here and not when uvicorn looks: no balancer shall send one client more
        self._interrupted |= interrupted
        self.force_exit |= forced
        self.should_exit = True

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

    # ------------------------------------------------------------------ going

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._node.draining = True
        settings = self._node.settings
        spread_ms = (
            min(settings.goaway_spread_ms, INTERRUPT_SPREAD_MS) if self._interrupted else settings.goaway_spread_ms
        )
        logger.info("draining", connections=len(self._connections), generating=self._node.generating)
        drained = asyncio.create_task(self._drained(spread_ms, settings.drain_ms / 1000))
        forced = asyncio.create_task(self._forced())
        aside = asyncio.create_task(self._step_aside())
        await asyncio.wait({drained, forced}, return_when=asyncio.FIRST_COMPLETED)
        for task in (drained, forced, aside):
            task.cancel()
        await asyncio.gather(drained, forced, aside, return_exceptions=True)
        await super().shutdown(sockets)

    async def _drained(self, spread_ms: int, drain_s: float) -> None:
        goodbyes = self._say_goodbye(spread_ms)
        await asyncio.gather(self._clients_left(goodbyes), self._node.drain(drain_s), self._released())

    def _say_goodbye(self, spread_ms: int) -> list[tuple[float, Connected]]:
        """Tell every client how long it may stay: what was promised, in the loop's time, the first to go last."""
        now = asyncio.get_running_loop().time()
        self._connections.leave_by = now + spread_ms / 1000
        promised = []
        for connection in self._connections:
            after_ms = random.randint(spread_ms // 2, spread_ms)
            connection.goaway(after_ms, "draining")
            promised.append((now + after_ms / 1000, connection))
        return sorted(promised, key=lambda promise: promise[0], reverse=True)

    async def _clients_left(self, promised: list[tuple[float, Connected]]) -> None:
        """Until all that were told have gone: a connection works until its time is over, and is closed then."""
        loop = asyncio.get_running_loop()
        while promised and len(self._connections):
            await asyncio.sleep(LOOK_EVERY_S)
            due = []
            while promised and promised[-1][0] <= loop.time():
                due.append(promised.pop()[1])
            if due:
                here = set(self._connections)
                closing = (connection.close(CLOSE_DRAINING, "draining") for connection in due if connection in here)
                await asyncio.gather(*closing, return_exceptions=True)

    async def _released(self) -> None:
        """A node that leaves alone stays until somebody else has the port, however little there is to do."""
        if self._lifeline is not None:
            await self._answered.wait()

    async def _forced(self) -> None:
        """Until somebody presses Ctrl-C a second time."""
        while not self.force_exit:
            await asyncio.sleep(0.1)

    async def _step_aside(self) -> None:
        """A node that leaves alone stops accepting, so that new clients come to its siblings and its successor."""
        if self._lifeline is None:
            tell_systemd("STOPPING=1")
            return
        self._lifeline.tell(Word.DRAINING)
        await self._aside.wait()
        for listening in self.servers:
            listening.close()


def serve(settings: Settings, app: App | None = None) -> int:
    """Run one node, and the application around it, until a signal stops it; the process's exit code."""
    configure_logs(settings)
    listener = bind(settings)
    if listener is None:
        return EXIT_PORT
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run_node(settings, listener, app=app))


async def run_node(
    settings: Settings, listener: socket.socket, lifeline: Lifeline | None = None, app: App | None = None
) -> int:
    """One node on a bound socket, by itself or on its parent's lifeline, until it is told to go; the exit code."""
    store = store_of(settings)
    models, on_turn, tools = (app.models, app.on_turn, app.tools) if app is not None else (None, None, None)
    asked = authenticator_of(settings, store) if app is None or app.authenticate is None else None
    node = Node(settings, store, registry_of(settings, store, models), on_turn, tools)
    try:
        await _start(node, lifeline)
    except EverstreamError as error:
        if lifeline is None:
            print(f"everstream: {error.message}", file=sys.stderr)
        else:
            lifeline.tell(Word.FAILED, EXIT_STORE, error.message)
        return EXIT_STORE
    except asyncio.CancelledError:  # told to go before there was anything to drain
        return 0
    connections = Connections()
    server = Server(uvicorn_config(node, connections, app, asked), node, connections, lifeline)
    if lifeline is not None:
        lifeline.on_word = server.obey
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    announcement = asyncio.create_task(_announce(server, node, listener, lifeline))
    try:
        await server.serve([listener])
    finally:
        announcement.cancel()
        await asyncio.gather(announcement, return_exceptions=True)
        await node.stop()
    return 0


def uvicorn_config(
    node: Node, connections: Connections, app: App | None = None, authenticate: Authenticate | None = None
) -> uvicorn.Config:
    """uvicorn as this server wants it, with `app` or else the plain application around the node.

    `authenticate` is what the settings ask for; an application's own goes before it.
    """
    settings = node.settings
    if app is not None:
        app.serve(node, connections, authenticate)
    return uvicorn.Config(
        app_around(node, connections, authenticate) if app is None else app,
        ws=DirectProtocol,
        ws_max_size=settings.frame_bytes,
        ws_ping_interval=settings.ping_interval_s,
        ws_ping_timeout=settings.ping_timeout_s,
        ws_per_message_deflate=False,  # doubles a connection's memory and triples the cost of a frame
        http=guarded_http(node),
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=LAST_FRAMES_S,
    )


def guarded_http(node: Node) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, with the bounds of the settings and a gate of its own."""
    settings = node.settings
    gate = Gate(room_for(settings.connections), settings.connections_per_address, settings.trusted_proxies)
    bounded = partial(
        GuardedHttp,
        gate=gate,
        counters=node.counters,
        head_s=settings.head_timeout_s,
        body_s=settings.body_timeout_s,
        write_s=settings.write_timeout_s,
    )
    return cast(type[asyncio.Protocol], bounded)


async def _start(node: Node, lifeline: Lifeline | None) -> None:
    """Start the node.  A SIGTERM meanwhile gives back what was taken (a share in the embedded store, say)."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)

    def told(word: Word | None) -> None:
        task.cancel()

    if lifeline is not None:
        lifeline.on_word = told
    try:
        await node.start()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _announce(server: Server, node: Node, listener: socket.socket, lifeline: Lifeline | None) -> None:
    while not server.started:
        await asyncio.sleep(0.005)
    if lifeline is not None:
        lifeline.tell(Word.READY, node.id)
    else:
        announce(listener)
