"""Five people with three devices each in one session, and what they do there all at once.

The owner and two editors send: four models answer one message at the same time, others queue up or interrupt, messages
are edited, answers stopped, the title is changed.  Two look on, and are refused when they try to send.  `judged`
compares the fifteen devices with each other and with the store's own log.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from tests.chaos.nodes import Nodes
from tests.chaos.oracle import Kept, kept_by
from tests.chaos.session_shown import OF_STREAM, SessionShown
from tests.chaos.session_viewer import Device
from tests.chaos.socket_line import Frame
from tests.chaos.viewer import Address

from everstream.core.session import Session
from everstream.gateway.json_tokens import signed
from everstream.store.base import Store

SECRET = "a secret of the chaos tests, long enough for HS256"
ROLES = {"ann": "owner", "ben": "editor", "cleo": "editor", "dan": "viewer", "eve": "viewer"}
SENDERS = ("ann", "ben", "cleo")
DEVICES = 3
TURNS_AT_ONCE = 16
TOKEN_S = 3600
RUN_MAX, QUEUE_MAX = 8, 4  # beyond that people wait for answers
SETTLED_S = 90.0
LOOK_S = 0.05

# Four models: how fast each speaks, in tokens a second, and for how long.
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("scripted/count", {"rate": 60.0, "tokens": 60}),
    ("scripted/lorem", {"rate": 30.0, "tokens": 40, "seed": 1}),
    ("scripted/lorem", {"rate": 15.0, "tokens": 25, "seed": 2}),
    ("scripted/echo", {"rate": 8.0}),
)


def token_of(user: str) -> str:
    return signed({"sub": user, "name": user.title(), "exp": int(time.time()) + TOKEN_S}, SECRET)


def guarded(nodes: Nodes) -> Nodes:
    """The same nodes, with a secret by which they know people; their settings have `auth` = `jwt`."""
    for server in nodes.servers:
        server.env["EVERSTREAM_JWT_SECRET"] = SECRET
    return nodes


@dataclass
class Party:
    """The people in one session."""

    reading: Store
    devices: Mapping[str, Sequence[Device]]
    chance: random.Random
    session: str = ""
    asked: dict[str, tuple[str, Frame]] = field(default_factory=dict)  # request_id -> who, and the reply
    refused: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    _until: float = 0.0

    @property
    def every(self) -> list[Device]:
        return [device for devices in self.devices.values() for device in devices]

    def of(self, user: str) -> Device:
        """One of somebody's devices."""
        return self.chance.choice(self.devices[user])

    async def gather(self) -> None:
        """Make the session, and open it on all devices."""
        owner = self.devices["ann"][0]
        await owner.is_open()
        members = [{"user": user, "role": role} for user, role in ROLES.items() if user != "ann"]
        made = await owner.ask("session.create", title="Party", members=members, request_id=self._id())
        self.session = made["session"]
        await asyncio.gather(*(device.open(self.session) for device in self.every))

    def _id(self) -> str:
        return f"q_{self.chance.getrandbits(64):016x}"

    # ------------------------------------------------------------------ what they do

    async def generate(self, user: str, model: int, *, on: Device | None = None, **fields: Any) -> Frame:
        """Send a message, or have one answered anew; the reply.  Each content is there once in the world."""
        request = self._id()
        name, params = MODELS[model]
        if "content" in fields:
            fields["content"] = f"{fields['content']} {request}"
        reply = await (on or self.of(user)).ask(
            "generate",
            session=self.session,
            request_id=request,
            model=name,
            **{"params": params} | fields,
        )
        if reply["type"] == "accepted":
            self.asked[request] = (user, reply)
        else:
            self.refused[reply["code"]] += 1
        return reply

    async def four_at_once(self, user: str) -> list[Frame]:
        """One message, answered by four models."""
        first = await self.generate(user, 0, content="All of you:", on_busy="parallel")
        if first["type"] != "accepted":
            return [first]
        rest = (self.generate(user, n, parent=first["message"], on_busy="parallel") for n in range(1, len(MODELS)))
        return [first, *await asyncio.gather(*rest)]

    async def _edit(self, user: str) -> None:
        messages = [m for m in self.of(user).seen.messages.values() if m["role"] == "user"]
        if messages:
            old = self.chance.choice(messages)
            await self.generate(user, 1, content="Rather:", parent=old["parent"], on_busy="parallel")

    async def _stop(self, user: str) -> None:
        device = self.of(user)
        streams = [turn["stream"] for turn in device.seen.turns.values()]
        what = {"stream": self.chance.choice(streams)} if streams and self.chance.random() < 0.7 else None
        reply = await device.ask("cancel", **(what or {"session": self.session}))
        if reply["type"] != "cancelled":
            self.refused[f"cancel: {reply['code']}"] += 1

    async def _rename(self, user: str) -> None:
        title = f"Party {self._id()}"
        reply = await self.of(user).ask("session.update", session=self.session, title=title)
        assert reply["type"] == "ok", reply

    async def _ask(self, user: str, on_busy: str) -> None:
        await self.generate(user, self.chance.randrange(len(MODELS)), content="Tell me:", on_busy=on_busy)

    async def talk(self, lasting_s: float) -> None:
        """Everybody does something all the time."""
        self._until = time.monotonic() + lasting_s
        async with asyncio.TaskGroup() as talking:
            for user in SENDERS:
                talking.create_task(self._talk(user))
            talking.create_task(self._look_on("dan"))

    def stop(self) -> None:
        """Let everybody finish what they are saying."""
        self._until = 0.0

    async def _talk(self, user: str) -> None:
        while time.monotonic() < self._until:
            what = self.chance.choices(("four", "queue", "interrupt", "edit", "stop", "rename"), (3, 4, 2, 2, 2, 1))[0]
            seen = self.of(user).seen
            if what in ("four", "edit") and len(seen.running) > RUN_MAX:
                what = "stop"
            if what in ("queue", "interrupt") and len(seen.queue) > QUEUE_MAX:
                what = "stop"
            self.done[what] += 1
            if what == "four":
                await self.four_at_once(user)
            elif what == "edit":
                await self._edit(user)
            elif what == "stop":
                await self._stop(user)
            elif what == "rename":
                await self._rename(user)
            else:
                await self._ask(user, what)
            await asyncio.sleep(self.chance.uniform(0.05, 0.5))  # pause: people think

    async def _look_on(self, user: str) -> None:
        while time.monotonic() < self._until:
            reply = await self.of(user).ask("generate", session=self.session, model="scripted/count", content="May I?")
            assert (reply["type"], reply.get("code")) == ("error", "auth.forbidden"), reply
            await asyncio.sleep(1.0)  # pause: so often he tries

    # ------------------------------------------------------------------ the end

    async def kept(self) -> list[Frame]:
        """The entries that the store holds, as they are shown."""
        state = await self.reading.read(self.session)
        assert state is not None
        return [msgspec.to_builtins(entry) for entry in state.entries]

    async def settled(self, within_s: float = SETTLED_S, *, stop: bool = False) -> list[Frame]:
        """Wait until nothing runs and all devices have read all of it; the store's entries.  Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while (entries := await self.kept()) and (left := self._left(entries)):
                for stream in left if stop else ():
                    await self.of("ann").ask("cancel", stream=stream)
                await asyncio.sleep(LOOK_S)  # pause: between two looks at the store
            for device in self.every:
                await device.until(lambda device=device: device.seen.offset >= len(entries), within_s)
        await asyncio.gather(*(device.all_ended(within_s) for device in self.every))
        return entries

    @staticmethod
    def _left(entries: Sequence[Frame]) -> list[str]:
        """Streams of turns that have not ended."""
        ended = {entry["turn"] for entry in entries if entry["type"] == "turn_end"}
        begun = [entry for entry in entries if entry["type"] in ("turn_queued", "turn_start")]
        return list(dict.fromkeys(entry["stream"] for entry in begun if entry["turn"] not in ended))

    async def judged(self, entries: list[Frame], *, lossy: bool = False) -> Judgement:
        """`lossy`: the store has lost what it had acknowledged, and nobody was there who could send it again."""
        for device in self.every:
            await device.whole()
        streams = [e["stream"] for e in entries if e["type"] in ("turn_start", "turn_queued")]
        kept = await kept_by(self.reading, dict.fromkeys(streams))
        judgement = Judgement(self.session, entries, kept, lossy)
        judgement.log(self.asked)
        for device in self.every:
            judgement.device(device)
        return judgement


@dataclass
class Judgement:
    """What is wrong, with an example each; nothing may be."""

    session: str
    entries: list[Frame]
    kept: Mapping[str, Kept]
    lossy: bool
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    streams_read: int = 0
    lost: int = 0  # accepted turns that are not there
    other: int = 0  # answers whose streams have come to another end since
    differ: int = 0  # answers that a device had read to an end which is lost

    def __post_init__(self) -> None:
        self.truth = SessionShown(self.session)
        self.truth.opened = True
        for offset, entry in enumerate(self.entries, 1):
            name = {} if entry["type"] in OF_STREAM else {"stream": self.session}
            self.truth.take({**entry, **name, "session": self.session, "after": offset - 1, "upto": offset}, 0.0)

    def _blame(self, what: str, example: object) -> None:
        self.wrong[what] += 1
        if len(self.examples) < 8:
            self.examples.append(f"{what}: {str(example)[:900]}")

    def _check(self, holds: bool, what: str, example: object = "") -> None:
        if not holds:
            self._blame(what, example)

    # ------------------------------------------------------------------ the store's log by itself

    def log(self, asked: Mapping[str, tuple[str, Frame]]) -> None:
        self.wrong += self.truth.wrong
        self.examples += self.truth.examples
        ends = Counter(entry["turn"] for entry in self.entries if entry["type"] == "turn_end")
        starts = [entry for entry in self.entries if entry["type"] == "turn_start"]
        queued = [entry for entry in self.entries if entry["type"] == "turn_queued"]
        begun = Counter(entry["turn"] for entry in starts)
        for turn in {*begun, *(entry["turn"] for entry in queued)}:
            self._check(ends[turn] == 1, "a turn that ended not once", (turn, ends[turn]))
            self._check(begun[turn] <= 1, "a turn that began twice", turn)
        requests: dict[str, set[str]] = {}
        for entry in (*queued, *starts):
            requests.setdefault(entry["request_id"], set()).add(entry["turn"])
        for request, turns in requests.items():
            self._check(len(turns) == 1, "a request with two turns", (request, turns))
        for request, (_, reply) in asked.items():
            there = {reply["turn"]} == requests.get(request)
            self.lost += not there
            self._check(there or self.lossy, "a request whose turn is not there", (request, reply))
        said = Counter(m["content"] for m in self.truth.messages.values() if m["role"] == "user")
        self._check(all(count == 1 for count in said.values()), "a message doubled", said.most_common(1))
        self._answers(starts)
        folded = Session(_events(self.entries))
        self._check(list(folded.messages) == list(self.truth.messages), "the server folds other messages")
        self._check(not folded.turns, "the server holds turns that have not ended", folded.turns)

    def _answers(self, starts: Sequence[Frame]) -> None:
        """Each turn that began has left an answer, which is what its stream says."""
        answers = {m["stream"]: m for m in self.truth.messages.values() if m["role"] == "assistant"}
        for entry in starts:
            answer, kept = answers.get(entry["stream"]), self.kept.get(entry["stream"])
            if answer is None or kept is None:
                self._blame("a turn without an answer", entry)
                continue
            self._check(kept.ended and kept.ends_once, "a stream without its end", entry)
            same = answer["content"] == kept.text
            self.other += not same
            self._check(same or self.lossy, "an answer that its stream does not say", (answer, kept.text))
        count = sum(m["role"] == "assistant" for m in self.truth.messages.values())
        self._check(count == len(starts), "answers that no turn gave", (count, len(starts)))

    # ------------------------------------------------------------------ each device

    def device(self, device: Device) -> None:
        view = device.seen
        self.wrong += view.wrong
        self.examples += view.examples
        held, truth = view.state(), self.truth.state()
        for name, value in truth.items():
            self._check(held[name] == value, f"another {name}", (held[name], value))
        for offset, entry in (*view.entries.items(), *(() if self.lossy else view.replaced)):
            self._check(self.entries[offset - 1] == entry, "an entry that the store does not hold", (offset, entry))
        for shown in device.streams.values():
            self._stream(shown.stream, device)
        for stream, text in () if self.lossy else device.dropped:
            self._check(self.kept[stream].text.startswith(text), "shown, and not kept", (stream, text))
        missed = [stream for stream in (*device.missed, *device.unbrought()) if stream in self.kept]
        self._check(not missed, "streams that did not come along", missed)

    def _stream(self, stream: str, device: Device) -> None:
        shown, kept = device.streams[stream], self.kept.get(stream)
        if kept is None:
            self._check(self.lossy, "a stream that no turn has", stream)
            return
        self.streams_read += shown.end is not None
        if self.lossy:  # it may have been shown an end that is lost, and that another end came in place of
            self.differ += shown.end is not None and shown.text != kept.text
            return
        figures = shown.judge(kept.text, kept)
        for what, count in figures.wrong.items():
            self._check(not count, f"of a stream: {what}", (stream, count, shown.text[-80:], kept.text[-80:]))

    def clean(self) -> None:
        assert not self.wrong, f"{dict(self.wrong)}\n" + "\n".join(self.examples[:8])


def _events(entries: Sequence[Frame]) -> list[Any]:
    from everstream.core.session_events import SessionEntry

    return [msgspec.convert(entry, SessionEntry) for entry in entries]


@asynccontextmanager
async def party_of(
    addresses: Sequence[Address], reading: Store, chance: random.Random, devices: int = DEVICES
) -> AsyncIterator[Party]:
    """All people with all their devices, in one new session."""
    async with AsyncExitStack() as stack:
        made = {
            user: [await stack.enter_async_context(Device(token_of(user), addresses, chance)) for _ in range(devices)]
            for user in ROLES
        }
        party = Party(reading, made, chance)
        await party.gather()
        yield party
