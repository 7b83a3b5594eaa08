"""A client that comes back by itself, to whichever server answers, and remembers all that it was shown.

It does what the protocol asks of a client: one `hello` names every open stream and its position; a hole is never
bridged; `goaway` is obeyed at a moment of its own; a server that is silent for two heartbeats is left.  Commands that
had no reply when the connection went are sent again.  Unlike a person's client it tries again at once (within
`AGAIN_S`), so that what is measured is the servers' part of a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.chaos.oracle import Shown
from tests.chaos.socket_line import Frame, SocketLine, open_line

AGAIN_S = 0.05
SUBSCRIBE_AGAIN_S = 0.2
SILENCE_S = 5.0  # before the server has said how often it sends a heartbeat
NEVER_S = 86_400.0
ASK_S = 30.0
HEARTBEATS_MISSED_MAX = 2

Address = tuple[str, int]


class Viewer:
    """`addresses` are the servers, the preferred one first.  `patient`: it never leaves a server for being silent.

    Use as an async context manager: leaving it closes the connection and its task.
    """

    def __init__(self, addresses: Sequence[Address], chance: random.Random, *, patient: bool = False) -> None:
        self.streams: dict[str, Shown] = {}
        self.refusals: dict[str, int] = {}
        self.goaways: list[float] = []  # when
        self.connections: list[tuple[float, Address]] = []  # when, and where
        self._addresses = list(addresses)
        self._chance = chance
        self._patient = patient
        self._line: SocketLine | None = None
        self._open = asyncio.Event()
        self._news = asyncio.Event()
        self._leaving: asyncio.TimerHandle | None = None
        self._listening: asyncio.TimerHandle | None = None
        self._silence_s = NEVER_S if patient else SILENCE_S
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[Frame, asyncio.Future[Frame]]] = {}
        self._subscribing: dict[int, str] = {}  # the streams of `subscribe` commands without a reply
        self._resumed: set[str] = set()  # by the last `hello`
        self._timers: set[asyncio.TimerHandle] = set()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Viewer:
        self._task = asyncio.create_task(self._run(), name="viewer")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._forget_timers()

    def _forget_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    # ------------------------------------------------------------------ what a test asks of it

    async def generate(self, tokens: int, rate: float, **params: Any) -> str:
        """Start a stream of numbers; its id.  The viewer reads it from its first entry."""
        reply = await self.ask(
            "generate",
            request_id=f"{self._chance.getrandbits(64):x}",
            model="scripted/count",
            messages=[{"role": "user", "content": "x"}],
            params={"tokens": tokens, "rate": rate, **params},
        )
        assert reply["type"] == "accepted", reply
        return str(reply["stream"])

    def watch(self, stream: str) -> Shown:
        """Read a stream from its start, on this connection and those that follow."""
        shown = self.streams.setdefault(stream, Shown(stream))
        self._subscribe(stream)
        return shown

    async def cancel(self, stream: str) -> int:
        """The fence.  Raises AssertionError where the server answers otherwise."""
        reply = await self.ask("cancel", stream=stream)
        assert reply["type"] == "cancelled", reply
        (fence,) = reply["streams"]
        return int(fence["offset"])

    async def ask(self, kind: str, **values: Any) -> Frame:
        """A command's reply.  It is sent again after each reconnection, and where the server says `retryable`."""
        async with asyncio.timeout(ASK_S):
            while True:
                number = next(self._ids)
                done: asyncio.Future[Frame] = self._loop.create_future()
                frame = {"type": kind, "id": number, **values}
                self._asked[number] = (frame, done)
                try:
                    if self._line is not None and self._open.is_set():
                        self._line.send(frame)
                    reply = await done
                finally:
                    del self._asked[number]
                if not (reply["type"] == "error" and reply.get("retryable")):
                    return reply
                self._note(reply)
                await asyncio.sleep(SUBSCRIBE_AGAIN_S)  # pause: the server asked for one

    async def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        """Wait until a condition on what was shown holds.  Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def sees(self, streams: Sequence[str]) -> None:
        """Wait until each of these streams has shown something.  Raises TimeoutError."""
        await self.until(lambda: all(self.streams[stream].offset for stream in streams))

    async def all_ended(self, streams: Sequence[str], within_s: float) -> bool:
        """Wait until every stream has ended here; False where time ran out."""
        left = set(streams)

        def ended() -> bool:
            left.difference_update([s for s in left if s in self.streams and self.streams[s].end])
            return not left

        with contextlib.suppress(TimeoutError):
            await self.until(ended, within_s)
        return not left

    async def is_open(self, within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            await self._open.wait()

    @property
    def returns(self) -> int:
        return max(len(self.connections) - 1, 0)

    @property
    def line(self) -> SocketLine:
        assert self._line is not None
        return self._line

    # ------------------------------------------------------------------ connections

    async def _run(self) -> None:
        at = 0
        while True:
            address = self._addresses[at]
            try:
                line = self._line = await open_line(*address, self._received)
            except (OSError, TimeoutError):
                await self._again()
            else:
                try:
                    await self._conversation(line, address)
                finally:
                    self._open.clear()
                    line.abort()
                    await asyncio.shield(line.closed)
            if len(self._addresses) > 1:
                at = self._chance.choice([n for n in range(len(self._addresses)) if n != at])

    async def _again(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, AGAIN_S))  # pause: between two tries to reach a server

    async def _conversation(self, line: SocketLine, address: Address) -> None:
        self._leaving = None
        self._subscribing.clear()
        self._forget_timers()  # what was to be asked again is in the `hello`
        self.connections.append((self._loop.time(), address))
        places = [shown.place for shown in self.streams.values() if shown.end is None]
        self._resumed = {place["stream"] for place in places}
        line.send({"type": "hello", "id": 0, "client": "chaos", "resume": places})
        self._listen(line)
        try:
            await asyncio.shield(line.closed)
        finally:
            for timer in (self._leaving, self._listening):
                if timer is not None:
                    timer.cancel()

    def _listen(self, line: SocketLine) -> None:
        """Leave a server that has been silent for too long; look again when it could be that."""
        if self._listening is not None:
            self._listening.cancel()
        due = line.last_at + self._silence_s
        if self._loop.time() >= due:
            line.abort()
        else:
            self._listening = self._loop.call_at(due, self._listen, line)

    def _go(self, after_ms: int) -> None:
        """The server asks to move: at a moment of our own, within what it grants."""
        self.goaways.append(self._loop.time())
        if self._leaving is None:
            self._leaving = self._loop.call_later(self._chance.uniform(0, after_ms / 1000), self.line.abort)

    def _received(self, frame: Frame) -> None:
        kind, number = frame["type"], frame.get("id") or 0
        stream = self._subscribing.pop(number, None) or frame.get("stream")
        if kind == "welcome":
            self._welcomed(frame)
        elif kind == "goaway":
            self._go(frame["after_ms"])
        elif kind == "error" and stream is not None:
            self._note(frame)
            self._later(stream)
        elif stream is not None:
            self.streams.setdefault(stream, Shown(stream)).take(frame, self._loop.time())
            self._news.set()
        asked = self._asked.get(number)
        if asked is not None and not asked[1].done():
            asked[1].set_result(frame)

    def _welcomed(self, frame: Frame) -> None:
        if not self._patient:
            self._silence_s = HEARTBEATS_MISSED_MAX * frame["heartbeat_ms"] / 1000
            self._listen(self.line)
        self._open.set()
        for stream, shown in self.streams.items():
            if shown.end is None and stream not in self._resumed:  # it was named since the `hello`
                self._subscribe(stream)
        for command, done in self._asked.values():
            if not done.done() and self._line is not None:
                self._line.send(command)

    def _subscribe(self, stream: str) -> None:
        if self._line is not None and self._open.is_set():
            number = next(self._ids)
            self._subscribing[number] = stream
            self._line.send({"type": "subscribe", "id": number, **self.streams[stream].place})

    def _later(self, stream: str) -> None:
        """The server could not serve this stream just now."""

        def again() -> None:
            self._timers.discard(timer)
            if self.streams[stream].end is None:
                self._subscribe(stream)

        self.streams.setdefault(stream, Shown(stream))
        timer = self._loop.call_later(SUBSCRIBE_AGAIN_S, again)
        self._timers.add(timer)

    def _note(self, error: Frame) -> None:
        self.refusals[error["code"]] = self.refusals.get(error["code"], 0) + 1
