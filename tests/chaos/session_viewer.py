"""One device of one person in one session: it comes back by itself, by either of the two ways that there are.

    hello.resume    names the session's place and those of its streams
    session.open    with `offset`, `epoch` and `responses`

Which way, to which server and after which pause is chance.  Commands are sent again on the next connection until they
have a reply, so those that make something carry a `request_id`; but only when all places have been taken again, for a
repeated `generate` begins its stream anew, and would cross with the resumption of it.  A device that is told to go away
goes, at a moment of its own, and asks for nothing more on that connection.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tests.chaos.oracle import Shown
from tests.chaos.session_shown import OF_STREAM, SessionShown
from tests.chaos.socket_line import Frame, SocketLine, open_line
from tests.chaos.viewer import AGAIN_S, Address

ASK_S = 40.0
RETRY_S = 0.1
SILENCE_S = 5.0  # before the server has said how often it sends a heartbeat
HEARTBEATS_MISSED_MAX = 2
HISTORY = 500
CAUGHT_UP_S = 3.0  # after `session.open` what comes is no repetition of what was
BROUGHT_S = 3.0  # after its turn's end a stream has come to its own
OPENING = "open"  # the id of a `session.open`


class Device:
    """Use as an async context manager.  `errors` counts what was refused, `closes` how connections ended."""

    def __init__(self, token: str, addresses: Sequence[Address], chance: random.Random) -> None:
        self._loop = asyncio.get_running_loop()
        self.view: SessionShown | None = None
        self.streams: dict[str, Shown] = {}
        self.errors: Counter[str] = Counter()
        self.missed: list[str] = []  # streams that should have come with the session
        self.closes: Counter[int] = Counter()
        self.goaways = 0
        self.dropped: list[tuple[str, str]] = []  # what was held of streams that `accepted` began anew
        self.connections = 0
        self.node = ""
        self.addresses = list(addresses)
        self._token = token
        self._chance = chance
        self._line: SocketLine | None = None
        self._open = asyncio.Event()
        self._news = asyncio.Event()
        self._going = False
        self._silence_s = SILENCE_S
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[Frame, asyncio.Future[Frame]]] = {}
        self._awaited: set[str] = set()  # places that were named, and not answered yet
        self._lost: set[str] = set()  # streams that no turn had by a snapshot
        self._expected: dict[str, float | None] = {}  # streams that come with the session; when their turns ended
        self._live_from: int | None = None  # the offset after which nothing is a repetition, where that was said
        self._came_at = 0.0
        self._said_at = self._loop.time()
        self.longest_silence = 0.0  # between two entries, while a turn ran or was due
        self._timers: set[asyncio.TimerHandle] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Device:
        self._task = asyncio.create_task(self._run(), name="device")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._forget_timers()

    # ------------------------------------------------------------------ what a test asks of it

    async def open(self, session: str) -> None:
        """Open a session, on this connection and those that follow."""
        self.view = SessionShown(session)
        await self.is_open()
        self._send_open()
        await self.until(lambda: self.view is not None and self.view.opened)

    async def ask(self, kind: str, **values: Any) -> Frame:
        """A command's reply; sent again after each reconnection, and where the server says `retryable`."""
        async with asyncio.timeout(ASK_S):
            while True:
                number = next(self._ids)
                done: asyncio.Future[Frame] = self._loop.create_future()
                frame = {"type": kind, "id": number, **values}
                self._asked[number] = (frame, done)
                try:
                    if self._line is not None and self._open.is_set() and not self._going:
                        self._line.send(frame)
                    reply = await done
                finally:
                    del self._asked[number]
                if reply["type"] != "error":
                    return reply
                self.errors[f"{kind}: {reply['code']}"] += 1
                if not reply.get("retryable"):
                    return reply
                await asyncio.sleep(RETRY_S)  # pause: the server asked for one

    async def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        """Wait until a condition on what was shown holds.  Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def all_ended(self, within_s: float) -> None:
        """Wait until all streams that were ever read here have ended.  Raises AssertionError."""
        try:
            await self.until(lambda: not self._open_streams(), within_s)
        except TimeoutError:
            left = [(name, self.streams[name].offset) for name in self._open_streams()]
            raise AssertionError(f"streams that do not end: {left}") from None

    def _open_streams(self) -> list[str]:
        return [name for name, shown in self.streams.items() if shown.end is None and name not in self._lost]

    async def is_open(self, within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            await self._open.wait()

    @property
    def is_connected(self) -> bool:
        return self._open.is_set()

    def says(self, stream: str) -> bool:
        """Whether a stream has said anything here."""
        return stream in self.streams and bool(self.streams[stream].text)

    def drop(self) -> None:
        """Leave without a word; come back by itself."""
        if self._line is not None:
            self._line.abort()

    @property
    def seen(self) -> SessionShown:
        assert self.view is not None
        return self.view

    async def whole(self) -> None:
        """Fetch the messages that a snapshot left out."""
        view = self.seen
        while view.more:
            first = next(iter(view.messages), None)
            page = await self.ask("session.history", session=view.session, before=first, limit=HISTORY)
            view.messages = {m["id"]: m for m in page["messages"]} | view.messages
            view.more = page["more"]

    # ------------------------------------------------------------------ connections

    async def _run(self) -> None:
        while True:
            address = self._chance.choice(self.addresses)
            try:
                line = self._line = await open_line(*address, self._received)
            except (OSError, TimeoutError):
                await asyncio.sleep(self._chance.uniform(0, AGAIN_S))  # pause: between two tries to reach a server
                continue
            try:
                self.connections += 1
                self._conversation(line)
                self.closes[await asyncio.shield(line.closed)] += 1
                self.missed += self.unbrought()
            finally:
                self._open.clear()
                self._forget_timers()
                line.abort()
                await asyncio.shield(line.closed)
            await asyncio.sleep(
                self._chance.uniform(0, 4 * AGAIN_S)
            )  # pause: what happens meanwhile is to be caught up

    def _conversation(self, line: SocketLine) -> None:
        self._going = False
        self._expected.clear()
        self._live_from, self._came_at = None, self._loop.time()
        opened = self.view is not None and self.view.opened
        resumes = opened and self._chance.random() < 0.5
        places = [{"stream": self.seen.session, **self.seen.place}, *self._places()] if resumes else []
        self._awaited = {place["stream"] for place in places}
        line.send({"type": "hello", "id": 0, "client": "chaos", "token": self._token, "resume": places})
        if self.view is not None and not resumes:
            places = self._places()
            self._awaited = {place["stream"] for place in places} | ({self.view.session} if opened else set())
            self._send_open(places)
        self._listen(line)

    def _places(self) -> list[Frame]:
        """Of the streams that have not ended here, and of those whose turns have not, though they said nothing yet."""
        running = self.seen.streams
        held = [shown.place for name, shown in self.streams.items() if shown.end is None or name in running]
        return held + [{"stream": name} for name in running if name not in self.streams]

    def _send_open(self, places: Sequence[Frame] = ()) -> None:
        if self._line is not None:
            command: Frame = {"type": "session.open", "id": OPENING, "session": self.seen.session, "history": HISTORY}
            if self.seen.opened:
                command |= {**self.seen.place, "responses": places}
            self._line.send(command)

    def _subscribe(self, stream: str) -> None:
        """Ask again for what the server could not serve just now."""
        if self._line is None:
            return
        if stream == self.seen.session:
            self._send_open(self._places())
        elif self.streams.setdefault(stream, Shown(stream)).end is None:
            self._line.send({"type": "subscribe", **self.streams[stream].place})

    def _listen(self, line: SocketLine) -> None:
        """Leave a server that has been silent for too long; look again when it could be that."""
        due = line.last_at + self._silence_s
        if self._loop.time() >= due:
            line.abort()
        else:
            self._at(due, lambda: self._listen(line))

    def _at(self, when: float, work: Callable[[], None]) -> None:
        def due() -> None:
            self._timers.discard(timer)
            work()

        timer = self._loop.call_at(when, due)
        self._timers.add(timer)

    def _forget_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    # ------------------------------------------------------------------ frames

    def _received(self, frame: Frame) -> None:
        kind, number, stream = frame["type"], frame.get("id"), frame.get("stream", "")
        now = self._loop.time()
        if "upto" in frame and self.view is not None:
            busy = any(turn["state"] != "waiting" for turn in self.view.turns.values())
            self.longest_silence = max(self.longest_silence, now - self._said_at if busy else 0.0)
            self._said_at = now
        if kind == "welcome":
            self._welcomed(frame)
        elif kind == "goaway":
            self._go(frame["after_ms"])
        elif kind == "error" and number not in self._asked:
            self._failed(frame)
        elif number == OPENING or stream.startswith("s_") or kind in OF_STREAM:
            self._of_session(kind, frame, now)
        elif stream and kind != "error":
            self._of_stream(kind, stream, frame, now)
        asked = self._asked.get(number) if isinstance(number, int) else None
        if asked is not None and not asked[1].done():
            asked[1].set_result(frame)
        if kind in ("ok", "subscribed", "snapshot") or (kind == "error" and stream.startswith("r_")):
            self._placed(self.seen.session if number == OPENING else stream)
        self._news.set()

    def _of_session(self, kind: str, frame: Frame, now: float) -> None:
        snapshots = self.seen.snapshots
        self.seen.take(frame, now)
        if self.seen.snapshots > snapshots:
            self._note_lost()
        if kind in ("ok", "snapshot", "subscribed"):
            self._live_from = frame["tail"] if kind == "subscribed" else None
            self._expected |= {turn["stream"]: None for turn in self.seen.running}
        elif kind == "turn_start" and self._is_live(frame, now):
            self._expected[frame["stream"]] = None
        elif kind == "turn_end" and frame["stream"] in self._expected:
            self._expected[frame["stream"]] = now

    def _note_lost(self) -> None:
        """After a snapshot some streams may never end: no turn has them."""
        view = self.seen
        known = {turn["stream"] for turn in view.turns.values()} | {m.get("stream") for m in view.messages.values()}
        self._lost |= {name for name, shown in self.streams.items() if shown.end is None and name not in known}

    def _is_live(self, frame: Frame, now: float) -> bool:
        """Whether an entry was made after we came (back): from there on streams are brought along."""
        if self._live_from is not None:
            return bool(frame["after"] >= self._live_from)
        return now - self._came_at > CAUGHT_UP_S

    def unbrought(self, patience_s: float = BROUGHT_S) -> list[str]:
        """Streams that should have come with the session on this connection, and did not come to their ends."""
        now = self._loop.time()
        return [
            stream
            for stream, over_at in self._expected.items()
            if over_at is not None and now - over_at > patience_s
            if stream not in self.streams or self.streams[stream].end is None
        ]

    def _of_stream(self, kind: str, stream: str, frame: Frame, now: float) -> None:
        if kind == "accepted" and stream in self.streams and self.streams[stream].offset:
            self.dropped.append((stream, self.streams.pop(stream).text))
        self.streams.setdefault(stream, Shown(stream)).take(frame, now)

    def _welcomed(self, frame: Frame) -> None:
        self.node = frame["node"]
        self._silence_s = HEARTBEATS_MISSED_MAX * frame["heartbeat_ms"] / 1000
        if not self._awaited:
            self._take_up()

    def _placed(self, name: str) -> None:
        """One of the places that were named has been answered."""
        if name in self._awaited:
            self._awaited.discard(name)
            if not self._awaited:
                self._take_up()

    def _take_up(self) -> None:
        """Send what has had no reply on earlier connections."""
        self._open.set()
        for command, done in self._asked.values():
            if not done.done() and self._line is not None and not self._going:
                self._line.send(command)

    def _failed(self, frame: Frame) -> None:
        """An error that answers no command: of a stream or a session that was to be read, or of the connection."""
        self.errors[f"unasked: {frame['code']}"] += 1
        stream = frame.get("stream")
        if self.view is not None and frame.get("id") == OPENING:
            stream = self.view.session
        if frame["code"] == "stream.unknown":
            self.streams.pop(str(stream), None)
        elif stream is not None:
            self._at(self._loop.time() + RETRY_S, lambda: self._subscribe(stream))

    def _go(self, after_ms: int) -> None:
        """The server asks to move: at a moment of our own, within what it grants."""
        self.goaways += 1
        self._going = True
        self._at(self._loop.time() + self._chance.uniform(0, after_ms / 1000), self.drop)
