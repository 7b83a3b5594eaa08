"""`python -m tests.bench.hall TURNS`: a whole server in one process, and its readers without a socket beside it.

    Metronome ▶ relay ▶ log ▶ commit (a store in memory) ▶ feed ─┬▶ stuck readers, if any
                                                                 ├▶ readers in this process
                                                                 └▶ connections ▶ sockets ▶ load.c, a process of its own

TURNS is a JSON list of `Turn`s; each is a new stream, read by so many, and one line of JSON on stdout (`Told`).  The
readers attach before the stream begins, in the order of the drawing: sockets are served last, after everybody else.

CPU is this process's own (`time.process_time`: all its threads, none of its children), from the first token to the
last delivery.  Memory is what the process's resident set grew by while readers attached.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from everstream.core.events import DeltaText, Message, Request
from everstream.core.order import Phase
from everstream.core.wire import Encoding
from everstream.gateway.auth import ANONYMOUS
from everstream.gateway.connections import Connections
from everstream.gateway.frames import FRAMED
from everstream.gateway.server import GC_THRESHOLDS, Server, uvicorn_config
from everstream.gateway.startup import configure_logs
from everstream.gateway.transport import DirectProtocol
from everstream.providers.registry import Registry
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node
from everstream.settings import Settings
from everstream.store.memory import MemoryStore
from tests.bench.audience import (
    START,
    CountingEncoder,
    Metronome,
    Reader,
    StuckReader,
    WatchedReader,
    frames_with_tokens,
    stamps,
)
from tests.bench.build import program
from tests.bench.fanout_turn import Stuck, Told, Turn
from tests.bench.micro import calibrate
from tests.bench.process import allow_files

WATCHED_EVERY = 97  # readers in the process; the first and the last are watched in any case
SPARE_FILES = 200
WAIT_LIMIT_S = 30.0
STUCK_LIMIT_S = 120  # the stuck client ends by itself then, if nobody ends it
LOOK_EVERY_S = 0.02
LOOKS = 5
UNIT_ROUNDS = 5
QUIET: dict[str, Any] = {
    "discover": False,
    "drain_ms": 0,
    "goaway_spread_ms": 0,
    "log_level": "warning",
    "write_timeout_s": STUCK_LIMIT_S,  # a stuck socket is not cut off while it is measured
    "ping_interval_s": 3600,  # and nothing else is written to it
    "heartbeat_ms": 600_000,
}


@dataclass
class Audience:
    """Who reads in one turn."""

    readers: list[Reader] = field(default_factory=list)
    inside_bytes: float | None = None
    socket_bytes: float | None = None
    load: Process | None = None
    stuck_reader: StuckReader | None = None
    stuck_socket: Any = None  # its Connection


class Hall:
    """A node, a server around it on a port, and who listens."""

    def __init__(self, node: Node, model: Metronome, encoder: CountingEncoder, port: int) -> None:
        self._node = node
        self._model = model
        self._encoder = encoder
        self._port = port
        self._loop = asyncio.get_running_loop()

    async def play(self, turn: Turn) -> Told:
        """Raises RuntimeError where the readers do not come, or the stream does not end, in time."""
        model = self._model
        model.go, model.tokens, model.per_s = asyncio.Event(), turn.tokens, turn.per_s
        feed = await self._begin("beat")
        async with contextlib.AsyncExitStack() as leaving:
            audience = Audience()
            if turn.stuck:
                await leaving.enter_async_context(self._stuck(feed, audience))
            await self._gather(turn, feed, audience)
            stuck_count = len(feed.cursors) - turn.inside - turn.sockets
            kept = self._kept(feed, audience)
            encoded, cpu = self._encoder.frames, _cpu_s()
            model.go.set()
            await until(lambda: feed.log.settled and len(feed.cursors) == stuck_count, turn.tokens / turn.per_s)
            used = [after - before for before, after in zip(cpu, _cpu_s(), strict=True)]
            encoded = self._encoder.frames - encoded
            told: dict[str, Any] = {}
            if audience.load is not None:
                async with asyncio.timeout(WAIT_LIMIT_S):
                    told = json.loads((await audience.load.communicate())[0])
            return _summed(turn, feed, audience, told, used, encoded, self._lag(kept, feed, audience))

    async def _begin(self, model: str) -> Feed:
        request = Request(f"metronome/{model}", [Message("user", "go")])
        feed = await self._node.generate(request, ANONYMOUS.id, None)
        wanted = Phase.ENDED if model == "bulk" else Phase.ANSWERED
        await until(lambda: feed.log.phase is wanted and not feed.log.dirty)
        return feed

    # ------------------------------------------------------------------ who comes

    async def _gather(self, turn: Turn, feed: Feed, audience: Audience) -> None:
        here = len(feed.cursors)
        before = resident_bytes()
        for place in range(turn.inside):
            is_watched = place % WATCHED_EVERY == 0 or place == turn.inside - 1
            reader = (WatchedReader if is_watched else Reader)(self._loop, self._encoder)
            audience.readers.append(reader)
            feed.attach(reader, START)
        await until(lambda: all(reader.frames for reader in audience.readers))
        between = resident_bytes()
        if turn.inside:
            audience.inside_bytes = (between - before) / turn.inside
        if turn.sockets:
            words = ("listen", self._port, feed.stream, turn.sockets, 1, WAIT_LIMIT_S + turn.tokens / turn.per_s, 0)
            audience.load = await self._client(*words, turn.tokens, "-")
            await until(lambda: len(feed.cursors) == here + turn.inside + turn.sockets)
            taking = list(feed.cursors.values())[here:]
            await until(lambda: all(cursor.offset == feed.log.committed for cursor in taking))
            audience.socket_bytes = (resident_bytes() - between) / turn.sockets

    @asynccontextmanager
    async def _stuck(self, feed: Feed, audience: Audience) -> AsyncIterator[None]:
        """A socket whose window is full before the stream begins, and a reader in the process: both before all
        others, where they would harm most."""
        audience.stuck_reader = StuckReader()
        feed.attach(audience.stuck_reader, START)
        bulk = await self._begin("bulk")
        client = await self._client("stuck", self._port, feed.stream, 1, 1, STUCK_LIMIT_S, 0, 0, bulk.stream)
        try:
            await until(lambda: len(feed.cursors) == 2 and len(bulk.cursors) == 1)
            (audience.stuck_socket,) = bulk.cursors
            sizes: list[int] = []

            def settled() -> bool:
                """The kernel takes no more."""
                sizes.append(self._kept(feed, audience)[1])
                return audience.stuck_socket._outlet.full and len(sizes) > LOOKS and len(set(sizes[-LOOKS:])) == 1

            await until(settled)
            yield
        finally:
            client.kill()
            await client.wait()
            feed.detach(audience.stuck_reader)
            await until(lambda: not feed.cursors)

    async def _client(self, *words: Any) -> Process:
        return await asyncio.create_subprocess_exec(program("load"), *map(str, words), stdout=PIPE)

    def _kept(self, feed: Feed, audience: Audience) -> tuple[int, int]:
        """The sum of the stuck cursors' offsets, and the bytes unsent."""
        if audience.stuck_reader is None:
            return 0, 0
        offsets = [feed.cursors[reader].offset for reader in (audience.stuck_reader, audience.stuck_socket)]
        protocol: DirectProtocol = audience.stuck_socket._outlet._protocol
        return sum(offsets), protocol.transport.get_write_buffer_size()

    def _lag(self, before: tuple[int, int], feed: Feed, audience: Audience) -> Stuck | None:
        if audience.stuck_reader is None:
            return None
        offsets, held = self._kept(feed, audience)
        return Stuck(audience.stuck_reader.woken, offsets - before[0], before[1], held)


# ---------------------------------------------------------------------- what it came to


def _summed(
    turn: Turn,
    feed: Feed,
    audience: Audience,
    told: dict[str, Any],
    used: list[float],
    encoded: int,
    stuck: Stuck | None,
) -> Told:
    text = b"".join(entry.text.encode() for entry in feed.log.entries if isinstance(entry, DeltaText))
    due = stamps(text)
    frames, faulty = frames_with_tokens(audience.readers, due)
    watched = [reader.arrivals() for reader in audience.readers if isinstance(reader, WatchedReader)]
    delays = [(at - stamp) / 1e3 for arrivals in watched for stamp, at in arrivals.items()]
    spread = [(watched[-1].get(stamp, at) - at) / 1e3 for stamp, at in watched[0].items()] if watched else []
    complaints = []
    if len(due) != turn.tokens:
        complaints.append(f"{len(due)} of {turn.tokens} tokens were said")
    if faulty:
        complaints.append(f"{faulty} of {turn.inside} readers in the process were not given each token once")
    if told and (told["ended"] != turn.sockets or told["partial"] or told["disordered"] or told["errors"]):
        parts = ", ".join(
            f"{name} {told[name]}" for name in ("ended", "partial", "disordered", "errors", "first_error")
        )
        complaints.append(f"{turn.sockets} sockets: {parts}")
    if stuck is not None:
        complaints += faults_of_stuck(stuck)
    return Told(
        name=turn.name,
        cpu_s=used[0],
        kernel_s=used[1],
        unit_ns=min(calibrate() for _ in range(UNIT_ROUNDS)),
        inside_frames=frames,
        socket_frames=told.get("delta_frames", 0),
        encoded=encoded,
        inside_bytes=audience.inside_bytes,
        socket_bytes=audience.socket_bytes,
        inside_delay_us=_percentiles(delays),
        socket_delay_us=tuple(told[name] for name in ("p50_us", "p99_us", "max_us")) if told else (),
        spread_us=_percentiles(spread),
        stuck=stuck,
        complaints=complaints,
    )


def faults_of_stuck(stuck: Stuck) -> list[str]:
    found = []
    if stuck.moved or not stuck.held_before:
        found.append(f"the stuck readers were not stuck: {stuck}")
    if stuck.held_after != stuck.held_before:
        found.append(f"something was kept for the stuck readers: {stuck}")
    return found


def _percentiles(values: list[float]) -> tuple[float, ...]:
    ordered = sorted(values)
    return tuple(ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in (0.5, 0.99, 1.0) if ordered)


def _cpu_s() -> tuple[float, float]:
    """Of this process so far: all, and what the kernel used of it."""
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_stime


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def until(condition: Callable[[], bool], expected_s: float = 0.0) -> None:
    """Raises RuntimeError when it takes WAIT_LIMIT_S longer than expected."""
    limit = time.monotonic() + expected_s + WAIT_LIMIT_S
    while not condition():
        if time.monotonic() > limit:
            raise RuntimeError("the readers did not come, or the stream did not end, in time")
        await asyncio.sleep(LOOK_EVERY_S)  # pause: between two looks at a condition


async def serve(turns: list[Turn]) -> None:
    """Start a server, play the turns, print each, and stop."""
    settings = Settings(store="memory://", **QUIET)
    configure_logs(settings)
    encoder = CountingEncoder()
    FRAMED[Encoding.JSON] = encoder  # the connections' too: one object for all readers of a wire
    model = Metronome()
    node = Node(settings, MemoryStore(), Registry({model.name: lambda: model}))
    await node.start()
    connections = Connections()
    server = Server(uvicorn_config(node, connections), node, connections)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        running = asyncio.create_task(server.serve([listener]))
        try:
            hall = Hall(node, model, encoder, listener.getsockname()[1])
            await until(lambda: server.started)
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)
            for turn in turns:
                told = await hall.play(turn)
                await until(lambda: not len(connections))
                print(msgspec.json.encode(told).decode(), flush=True)
        finally:
            server.should_exit = True
            await running
            await node.stop()


def main(words: list[str]) -> int:
    turns = msgspec.json.decode(words[0], type=list[Turn])
    allow_files(max(turn.sockets for turn in turns) + SPARE_FILES)
    program("load")  # compiled before anything is measured
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(turns))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
