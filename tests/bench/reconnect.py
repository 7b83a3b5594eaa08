"""A connection with many sessions drops, misses tokens in all of them, and comes back with one `hello`.

    client ──one hello: a place in each session, a place in each stream──▶ server
           ◀──subscribed … and all that was missed, then what goes on──

Each session has an answer that runs, before and after.  The time is from the moment at which `hello` is sent, on a
socket that is open, to the arrival of the last token that was missed; the client sends nothing else.  CPU is that of
the server it comes back to, until that is quiet again.

    leader    the server that leads all of them: nothing has to be asked
    moved     another one that has just started, and has nothing of them in its memory: a new one each time
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from tests.bench.process import Process
from tests.bench.reconnect_app import token
from tests.bench.targets import Bench, Target, answers, free_port

NAME = "reconnect"
LIMIT_S = 30.0  # for anything to come
AFTER_S = 0.2  # in which nothing of what was missed may come again
ROWS: dict[str, tuple[str, int]] = {  # figure -> (what the table calls it, decimals)
    "caught_up_ms": ("hello to the last missed token, ms", 2),
    "slowest_ms": ("  the slowest", 2),
    "client_frames": ("frames sent by the client (round trips)", 0),
    "server_frames": ("frames sent by the server", 0),
    "server_kb": ("  bytes in them, kB", 1),
    "server_cpu_ms": ("server CPU, ms", 2),
    "store_cpu_ms": ("store CPU, ms", 2),
}
PLACES = ("leader", "moved")


@dataclass(frozen=True, slots=True)
class Size:
    sessions: int
    tokens: int  # missed in each
    rounds: int


FULL = Size(sessions=50, tokens=200, rounds=5)
QUICK = Size(sessions=50, tokens=200, rounds=1)


@dataclass(slots=True)
class Held:
    """A session and its stream, as the client holds them when the connection drops."""

    session: str
    epoch: int
    offset: int
    stream: str = ""
    stream_epoch: int = 0
    stream_offset: int = 0


@dataclass(slots=True)
class Return:
    """What came of one `hello`."""

    taken_ms: float = 0.0
    sent: int = 0
    frames: int = 0
    size: int = 0
    complaints: list[str] = field(default_factory=list)


class Wire:
    """A connection that counts."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.sent = self.frames = self.size = 0

    async def send(self, **frame: Any) -> None:
        self.sent += 1
        await self._socket.send(msgspec.json.encode(frame).decode())

    async def next(self, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            data = await self._socket.recv()
        self.frames += 1
        self.size += len(data)
        frame: dict[str, Any] = msgspec.json.decode(data)
        return frame

    async def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Raises RuntimeError where the answer is an error."""
        await self.send(type=command, id="asked", **fields)
        while (frame := await self.next()).get("id") != "asked":
            pass
        if frame["type"] == "error":
            raise RuntimeError(f"{command}: {frame['message']}")
        return frame


@asynccontextmanager
async def wire(target: Target) -> AsyncIterator[Wire]:
    async with connect(f"ws://127.0.0.1:{target.port}/ws", max_size=None, compression=None, close_timeout=1) as socket:
        yield Wire(socket)


class Pair(Bench):
    """Servers on one store: `leader`, and as many others as are asked for, one after the other."""

    def __init__(self) -> None:
        self._shared: tuple[Process, Path] | None = None
        super().__init__(("leader",))

    def another(self) -> Target:
        return self._target("moved")

    def _target(self, name: str) -> Target:
        self._shared = self._shared or self._store("both")
        store, path = self._shared
        port = free_port()
        words = [sys.executable, "-m", "everstream", "serve", "tests.bench.reconnect_app:app"]
        words += ["--port", str(port), "--store", f"unix://{path}"]
        quiet = {"DRAIN_MS": "0", "GOAWAY_SPREAD_MS": "0", "PROVIDER_IDLE_TIMEOUT_S": "600", "DISCOVER": "false"}
        process = self._start(name, words, **{f"EVERSTREAM_{key}": value for key, value in quiet.items()})
        process.wait_ready(lambda: answers(port, "/readyz", 200))
        return Target(name, port, process, store)


# ---------------------------------------------------------------------- what the client does


async def leave_in_mid_answer(target: Target, size: Size) -> list[Held]:
    """Open sessions, have each begin an answer, and drop the connection; what was held then."""
    async with wire(target) as client:
        await client.ask("hello")
        held = []
        for _ in range(size.sessions):
            session = (await client.ask("session.create", model="app/told"))["session"]
            opened = await client.ask("session.open", session=session)
            held.append(Held(session, opened["epoch"], opened["offset"]))
        for one in held:
            say = {"session": one.session, "content": "Go on.", "params": {"tokens": size.tokens}}
            accepted = await client.ask("generate", **say)
            one.stream, one.stream_epoch = accepted["stream"], accepted["epoch"]
    # What came meanwhile was not looked at: the client comes back with what it knows, and drops again in mid-answer.
    async with wire(target) as client:
        await client.send(type="hello", resume=[{"stream": one.session} for one in held])
        await _read(client, {one.stream: one for one in held}, {one.session: one for one in held})
    return held


async def _read(client: Wire, streams: dict[str, Held], sessions: dict[str, Held]) -> None:
    """Until token 0 of each has come."""
    missing = {*streams}
    while missing:
        frame = await client.next()
        name = frame.get("stream", "")
        if "upto" not in frame or "after" not in frame:
            continue
        if name in streams and frame["type"] == "delta_text":
            missing.discard(name)
        if name in streams:
            streams[name].stream_offset = frame["upto"]
            streams[name].stream_epoch = frame.get("epoch", streams[name].stream_epoch)
        elif frame.get("session") in sessions:
            sessions[frame["session"]].offset = frame["upto"]


async def come_back(target: Target, held: list[Held], size: Size, limit_s: float = LIMIT_S) -> Return:
    """One `hello`, and all that was missed; or what came of it within `limit_s` of the last frame."""
    streams = {one.stream: "" for one in held}
    whole = "".join(token(number) for number in range(1, size.tokens + 1))
    places = [{"stream": one.session, "epoch": one.epoch, "offset": one.offset} for one in held]
    places += [{"stream": one.stream, "epoch": one.stream_epoch, "offset": one.stream_offset} for one in held]
    found = Return()
    async with wire(target) as client:
        to_answer, to_read = {place["stream"] for place in places}, set(streams)
        start = time.monotonic()
        await client.send(type="hello", resume=places)
        with contextlib.suppress(TimeoutError):
            while to_answer or to_read:
                frame = await client.next(limit_s)
                if frame["type"] == "delta_text":
                    name = frame["stream"]
                    streams[name] += frame["text"]
                    if len(streams[name]) >= len(whole):
                        to_read.discard(name)
                elif frame["type"] == "subscribed":
                    to_answer.discard(frame["stream"])
                elif frame["type"] in ("error", "snapshot"):
                    found.complaints.append(f"no stream came back, but {frame}")
        found.taken_ms = (time.monotonic() - start) * 1000
        found.sent, found.frames, found.size = client.sent, client.frames, client.size
        with contextlib.suppress(TimeoutError):
            while True:
                frame = await client.next(AFTER_S)
                if frame["type"] == "delta_text":
                    streams[frame["stream"]] += frame["text"]
    found.complaints += [f"{name} was not answered" for name in to_answer]
    found.complaints += [f"{name}: {_difference(text, whole)}" for name, text in streams.items() if text != whole]
    return found


def _difference(text: str, whole: str) -> str:
    """Where what came is not what was missed."""
    came, missed = text.split(), whole.split()
    doubled = [number for number, count in Counter(came).items() if count > 1]
    lost = [number for number in missed if number not in came]
    return f"{len(lost)} tokens lost {lost[:3]}, {len(doubled)} came again {doubled[:3]}, of {len(missed)}"


# ---------------------------------------------------------------------- what it comes to


def measure(size: Size) -> dict[str, Any]:
    """`places`: name -> figure -> median; `complaints`.  Raises RuntimeError where it cannot be played."""
    samples: dict[str, list[dict[str, float]]] = {place: [] for place in PLACES}
    complaints: list[str] = []
    with Pair() as pair:
        leader = pair.targets["leader"]
        held = asyncio.run(_prepared(leader, size))
        for _ in range(size.rounds):
            for place in PLACES:
                target = leader if place == "leader" else pair.another()
                figures, found = _sample(target, held, size)
                samples[place].append(figures)
                complaints += [f"{place}: {complaint}" for complaint in complaints_of(found)]
                if target is not leader:
                    target.process.stop()
    return {"size": asdict(size), "places": {place: _medians(of) for place, of in samples.items()}, "samples": samples,
            "complaints": complaints}  # fmt: skip


def complaints_of(found: Return) -> list[str]:
    """What was wrong: a token that is missing or came twice, and a client that had to ask again."""
    asked_again = [f"the client sent {found.sent} frames"] if found.sent != 1 else []
    return [*asked_again, *found.complaints]


async def _prepared(leader: Target, size: Size) -> list[Held]:
    held = await leave_in_mid_answer(leader, size)
    async with wire(leader) as other:
        await other.ask("hello")
        await other.ask("generate", model="app/go", messages=[{"role": "user", "content": "Go."}])
    async with asyncio.timeout(LIMIT_S):
        await come_back(leader, held, size)  # all have been said, and are stored, when this is over
    return held


async def _warm(target: Target) -> None:
    """What a server has to load for its first client is not what is measured."""
    async with wire(target) as client:
        await client.ask("hello")
        session = (await client.ask("session.create", model="scripted/count"))["session"]
        await client.ask("session.open", session=session)
        await client.ask("generate", session=session, content="Count.", params={"tokens": 3, "rate": 0})
        while (await client.next())["type"] != "turn_end":
            pass


def _sample(target: Target, held: list[Held], size: Size) -> tuple[dict[str, float], Return]:
    assert target.store is not None
    asyncio.run(_warm(target))
    target.process.wait_quiet()
    before, store_before = target.process.cpu_ns(), target.store.cpu_ns()
    found = asyncio.run(come_back(target, held, size))
    target.process.wait_quiet()
    return {
        "caught_up_ms": found.taken_ms,
        "client_frames": found.sent,
        "server_frames": found.frames,
        "server_kb": found.size / 1000,
        "server_cpu_ms": (target.process.cpu_ns() - before) / 1e6,
        "store_cpu_ms": (target.store.cpu_ns() - store_before) / 1e6,
    }, found


def _medians(samples: list[dict[str, float]]) -> dict[str, float]:
    middle = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    return middle | {"slowest_ms": max(sample["caught_up_ms"] for sample in samples)}


def table(found: dict[str, Any]) -> str:
    size = found["size"]
    missed = size["sessions"] * size["tokens"]
    lines = [
        f"{NAME}: {size['sessions']} sessions on one connection, {missed:,} missed tokens, one hello;"
        f" medians of {size['rounds']}",
        f"  {'':42}" + "".join(f"{place:>10}" for place in PLACES),
    ]
    for figure, (says, decimals) in ROWS.items():
        cells = "".join(f"{found['places'][place][figure]:>10.{decimals}f}" for place in PLACES)
        lines.append(f"  {says:42}{cells}")
    return "\n".join([*lines, *(f"  ! {complaint}" for complaint in found["complaints"])])
