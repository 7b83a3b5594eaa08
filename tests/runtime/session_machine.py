"""A session on three nodes in bad weather: what chance does to it, and what has to hold in the end all the same.

The nodes are real, on a store in memory; the clock is not.  The loop sleeps by moving its clock on, so hours of leases,
pauses and retries pass in a second, and a seed is one history (with PYTHONHASHSEED set, to the letter).

    chance    members send (again and on two nodes at once), stop, give results and leave;  nodes are killed,
              drained and started;  the store is away, or does what it is asked and fails to say so;  messages
              and pushes get lost
    model     answers in pieces, breaks off, fails, calls tools that members give results for, or that the server runs
    readers   follow the session on any node that lives, with a place like a client's, and fold it
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import msgspec
import structlog
from tests.core.session_model import Audit
from tests.runtime.session_weather import TURNS_MAX, Broken, Clock, Follower, Host, Loop, Surroundings, by_chance

from everstream.core.errors import EverstreamError
from everstream.core.events import (
    DeltaText,
    Event,
    Params,
    Request,
    Seam,
    StreamEnd,
)
from everstream.core.session import Session
from everstream.core.session_events import SessionChanged, SessionMessage, TurnQueued
from everstream.runtime import session_orders as orders

HOSTS = 3
STEPS = 40
QUIET_S = 300.0  # for everything to come to its end, once nothing bad happens any more
PASSING = ("store.unavailable", "node.draining", "provider.overloaded")  # come again


# --------------------------------------------------------------------------- the world


class World(Surroundings):
    def __init__(self, rnd: Random, clock: Clock, kind: str) -> None:
        super().__init__(rnd, clock, kind)
        self.hosts: list[Host] = []
        self.born = 0
        self.deleted = False
        self.sent: dict[str, list[dict[str, Any]]] = {}  # replies to each request
        self.refused: dict[str, set[str]] = {}
        self.unsure: set[str] = set()  # requests of which some try came to nothing known
        self.requests = 0
        self.clients: set[asyncio.Task[Any]] = set()
        self.followers = [Follower(self) for _ in range(3)]
        self.fences: dict[str, int] = {}

    # ------------------------------------------------------------------ what is true

    @property
    def entries(self) -> list[Event]:
        record = self.disk.records.get(self.session)
        return record.entries if record is not None else []

    @property
    def state(self) -> Session:
        return Session(self.entries)

    @property
    def living(self) -> list[Host]:
        return [host for host in self.hosts if not host.dead and not host.going]

    # ------------------------------------------------------------------ nodes

    async def start(self) -> None:
        self.born += 1
        host = Host(self, f"h{self.born}")
        try:
            await host.run(host.node.start())
        except EverstreamError:
            await host.die()
            await asyncio.sleep(0.5)  # pause: before it may be tried again
            return
        self.say(f"{host.name} starts as {host.node.id}")
        self.hosts.append(host)

    async def kill(self, host: Host) -> None:
        self.say(f"{host.name} is killed")
        self.hosts.remove(host)
        await host.die()

    async def drain(self, host: Host) -> None:
        self.say(f"{host.name} drains")
        host.going = True
        await host.run(self._drained(host))
        self.say(f"{host.name} is gone")
        self.hosts.remove(host)
        await host.die()

    async def _drained(self, host: Host) -> None:
        await host.node.drain(self.rnd.choice((2.5, 10.0)))
        await host.node.stop()

    async def outage(self) -> None:
        host = self.rnd.choice([None, *self.living])
        self.say(f"the store is away from {host.name if host else 'all'}")
        for away in (True, False):
            if host is None:
                self.away = away
            else:
                host.cut_off = away
            if away:
                await asyncio.sleep(self.rnd.choice((0.2, 1.0, 4.0, 8.0)))  # pause: so long it lasts
        self.say("the store is back")

    # ------------------------------------------------------------------ people

    async def ask(self, what: str, work: Callable[[Host], Awaitable[Any]]) -> tuple[Any, str, bool]:
        """What comes of it on whatever node, asked again where that may pass: the reply or an error, and whether
        some try came to nothing known."""
        unsure = False
        for _ in range(100):
            while not self.living:
                await asyncio.sleep(0.1)  # pause: till somebody is there
            host = self.rnd.choice(self.living)
            task = host.run(work(host))
            await asyncio.wait({task})
            if task.cancelled():
                if not host.dead and not host.going:
                    self.broken(f"{what} was cancelled on {host.name}, which lives")
            elif (failure := task.exception()) is None:
                self.say(f"{what} on {host.name}: {task.result()}")
                return task.result(), "", unsure
            elif not isinstance(failure, EverstreamError):
                raise Broken(f"{what} on {host.name} failed") from failure
            elif failure.code not in PASSING:
                self.say(f"{what} on {host.name}: {failure.code}")
                return None, failure.code, unsure
            unsure = True
            await asyncio.sleep(self.rnd.uniform(0.1, 1.0))  # pause: before it is tried again
        raise Broken(f"{what}: nobody carries it out")

    async def perform(self, what: str, order: Any) -> tuple[Any, str, bool]:
        return await self.ask(what, lambda host: host.node.sessions.perform(self.session, order))

    async def send(self) -> None:
        rnd = self.rnd
        self.requests += 1
        tag = f"q{self.requests}"
        user = rnd.choice(("ann", "ann", "ben", "eve"))
        messages = [m.id for m in self.state.messages.values() if m.role != "assistant"]
        anew = bool(messages) and self.chance(0.15)
        follows = not anew and self.chance(0.8)
        parent = None if follows or (not anew and self.chance(0.3)) else rnd.choice([*self.state.messages, None])
        order = orders.Send(
            user,
            Request("hand/any", [], Params(), {"tag": tag}),
            None if anew else tag,
            rnd.choice(messages) if anew else parent,
            follows,
            rnd.choice(("queue", "queue", "interrupt", "parallel", "reject")),
            tag,
        )
        if self.chance(0.15):
            self.client(self._once(tag, msgspec.structs.replace(order, request_id=None)))
            return
        self.sent[tag], self.refused[tag] = [], set()
        await asyncio.gather(*(self._send(tag, order) for _ in range(rnd.choice((1, 1, 2)))))
        if self.sent[tag] and self.chance(0.3):
            await asyncio.sleep(rnd.choice((0.5, 5.0)))  # pause: and then, again
            await self._send(tag, order)

    async def _send(self, tag: str, order: orders.Send) -> None:
        sent, refused, unsure = await self.perform(f"send {tag} {order.on_busy} by {order.user}", order)
        if unsure:
            self.unsure.add(tag)
        if refused:
            self.refused[tag].add(refused)
            return
        before = self.sent[tag]
        before.append(sent)
        if any({**other, "epoch": 0} != {**sent, "epoch": 0} for other in before):
            self.broken(f"{tag} was answered in two ways: {before}")

    async def _once(self, tag: str, order: orders.Send) -> None:
        """Without a request id nobody asks again; whatever the nodes do among themselves, it is done once at most."""
        if not self.living:
            return
        host = self.rnd.choice(self.living)
        task = host.run(host.node.sessions.perform(self.session, order))
        await asyncio.wait({task})
        self.say(f"send {tag} once: {'gone' if task.cancelled() else task.exception() or task.result()}")

    async def stop(self) -> None:
        state = self.state
        streams = [turn.stream for turn in state.turns.values()]
        stream = self.rnd.choice([None, *streams])
        if stream is not None and self.chance(0.5):
            offset, refused, _ = await self.ask(f"cancel {stream}", lambda host: host.node.cancel(stream, "ann"))
            if not refused:
                self.fences[stream] = offset
        else:
            await self.perform(f"stop {stream}", orders.Stop("ann", stream))

    async def results(self) -> None:
        """Somebody gives results that are missing, or allows what has to be allowed."""
        waiting = [turn for turn in self.state.turns.values() if turn.state == "waiting"]
        if not waiting:
            return
        turn = self.rnd.choice(waiting)
        theirs = [call for call in turn.missing if not turn.calls[call].server]
        dangerous = [call for call in turn.missing if turn.calls[call].approval and call not in turn.started]
        if theirs:
            given = [orders.Given(call, f"result of {call}") for call in theirs]
            order = orders.Results("ann", turn.stream, given if self.chance(0.6) else given[:1])
            await self.perform(f"results {[one.call_id for one in order.results]}", order)
        if dangerous:
            why_not = self.rnd.choice((None, None, "no"))
            await self.perform(
                f"approve {dangerous}", orders.Approve("ann", turn.stream, dict.fromkeys(dangerous, why_not))
            )

    async def member(self) -> None:
        role = self.rnd.choice(("owner", "editor", "viewer", None))
        await self.perform(f"eve is {role}", orders.Member("ann", "eve", role))

    def client(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.clients.add(task)

    # ------------------------------------------------------------------ a history

    async def run(self) -> None:
        for _ in range(HOSTS):
            await self.start()
        try:
            await self._create()
            for _ in range(STEPS):
                await self._step()
                if self.faults:
                    break
            if not self.faults:
                await self._to_the_end()
            for task in [task for task in self.clients if task.done()]:
                task.result()
        finally:
            for task in self.clients:
                task.cancel()
            await asyncio.gather(*self.clients, return_exceptions=True)
            for host in list(self.hosts):
                await host.die()

    async def _create(self) -> None:
        made = await asyncio.gather(
            *(
                self.ask(
                    "create",
                    lambda host: host.node.sessions.create("ann", SessionChanged(), {"ben": "editor"}, "the session"),
                )
                for _ in range(2)
            )
        )
        self.session = made[0][0]
        if made[0][0] != made[1][0]:
            raise Broken("two sessions for one request")

    async def _step(self) -> None:
        rnd, weather = self.rnd, self.weather
        await asyncio.sleep(rnd.choice((0.0, 0.005, 0.1, 0.5, 2.0)))  # pause: between two events
        what = rnd.choices(
            ("send", "stop", "results", "member", "kill", "drain", "outage", "start", "move"),
            (10, 2, 5, 1, 2 * weather.deaths, 2 * weather.drains, 2 * weather.outages, 2, 4),
        )[0]
        self.happened[what] += 1
        if what in ("send", "stop", "results", "member"):
            self.client(getattr(self, what)())
        elif what in ("kill", "drain") and (len(self.living) > 1 or (self.living and self.chance(0.3))):
            self.client(getattr(self, what)(rnd.choice(self.living)))
        elif what == "outage":
            self.client(self.outage())
        elif what == "start" and len(self.hosts) < HOSTS:
            await self.start()
        for follower in self.followers:
            if self.living and (not follower.placed or (what == "move" and self.chance(0.5))):
                self.client(follower.go(rnd.choice(self.living)))

    async def _to_the_end(self) -> None:
        self.say("it clears up")
        self.calm = True
        self.failures = 0.0
        self.weather.clears()
        if self.chance(0.2):
            await self._to_nothing()
            return
        deadline = self.clock.now_s + QUIET_S
        while self.clock.now_s < deadline and not self.faults:
            if len(self.living) < 2:
                await self.start()
            for follower in self.followers:
                if not follower.placed and self.living:
                    await follower.go(self.rnd.choice(self.living))
            if not [task for task in self.clients if not task.done()]:
                if self._quiet():
                    return
                await self.results()
                if self.chance(0.1):  # some answers go on until they are stopped
                    await self.perform("stop all", orders.Stop("ann"))
            await asyncio.sleep(0.5)  # pause: between two looks
        if not self.faults:
            self.broken(f"it does not come to rest: {self._unrest()}")

    async def _to_nothing(self) -> None:
        """The session is deleted in the middle of it all."""
        self.deleted = True
        while len(self.living) < 2:
            await self.start()
        await self.perform("delete", orders.Delete("ann"))
        deadline = self.clock.now_s + QUIET_S
        while self.disk.records or [task for task in self.clients if not task.done()]:
            if self.clock.now_s > deadline:
                self.broken(f"it does not go away: {list(self.disk.records)}, {self._unrest()}")
                return
            if len(self.living) < 2:
                await self.start()
            await asyncio.sleep(0.5)  # pause: between two looks
        for user in ("ann", "ben", "eve"):
            listed, _, _ = await self.ask(
                f"list of {user}", lambda host, u=user: host.node.sessions.index.page(u, None, 9)
            )
            if listed != ([], None):
                self.broken(f"{user} still finds it: {listed}")

    def _check_nothing(self) -> None:
        """Nothing is left of a session that was deleted, and nobody was told anything after that."""
        for follower in self.followers:
            Audit(TURNS_MAX).take_all(follower.entries)
        if self.disk.records:
            raise Broken(f"something is left: {list(self.disk.records)}")

    def _unrest(self) -> list[str]:
        open_streams = [s for s, r in self.disk.records.items() if not r.ended and s != self.session]
        busy = [str(task.get_coro()) for task in self.clients if not task.done()]
        behind = [str(len(f.entries)) for f in self.followers if f.entries != self.entries]
        return [*(str(turn.shown()) for turn in self.state.turns.values()), *open_streams, *busy, *behind]

    def _quiet(self) -> bool:
        return not self._unrest()

    # ------------------------------------------------------------------ what has to hold

    def check(self) -> None:
        if self.faults:
            raise Broken("; ".join(self.faults))
        if self.deleted:
            self._check_nothing()
            return
        audit = Audit(TURNS_MAX).take_all(self.entries)
        audit.finish()
        self._count()
        self._check_requests(audit)
        for message in audit.messages.values():
            self._check_words(message)
        for stream, offset in self.fences.items():
            record = self.disk.records[stream]
            if record.tail != offset or not isinstance(record.entries[-1], StreamEnd):
                raise Broken(f"{stream} went on after its fence {offset}: {record.entries}")
        for (name, call), times in self.runs.items():
            if name != "look" and times > 1:
                raise Broken(f"{name} was run {times} times for {call}")

    def _count(self) -> None:
        """What happened by itself."""
        self.happened += Counter(entry.__struct_config__.tag for entry in self.entries)
        self.happened["again"] += sum(len(replies) > 1 for replies in self.sent.values())
        self.happened["refused"] += sum(map(bool, self.refused.values()))
        self.happened["interrupted"] += sum(isinstance(e, TurnQueued) and e.interrupt for e in self.entries)
        seams = (isinstance(e, Seam) for record in self.disk.records.values() for e in record.entries)
        self.happened["carried on"] += sum(seams)

    def _check_requests(self, audit: Audit) -> None:
        turns = {request_id: turn for (_, request_id), turn in audit.requests.items()}
        for tag, replies in self.sent.items():
            if replies:
                if replies[0]["turn"] != turns.get(tag):
                    raise Broken(f"{tag} was accepted as {replies[0]}, and is not there")
            elif tag in turns and tag not in self.unsure and self.weather.kind == "calm":
                raise Broken(f"{tag} was refused with {self.refused[tag]}, and is there all the same")
        times_there = Counter(m.content for m in audit.messages.values() if m.role == "user")
        queued = Counter(e.content for e in self.entries if isinstance(e, TurnQueued) and e.content is not None)
        for content, times in (*times_there.items(), *queued.items()):
            if times > 1:
                raise Broken(f"{content} is there {times} times")
        if self.weather.kind in ("calm", "messages"):
            for (tag, place), times in self.calls.items():
                if times > 1 + self.broke_off[tag, place]:
                    raise Broken(f"{tag} was asked {times} times of the model with {place} messages")
        began = {tag for tag, _ in self.calls} & self.sent.keys()
        for tag in began - turns.keys():
            raise Broken(f"{tag} was asked of the model, and is in no turn")

    def _check_words(self, message: SessionMessage) -> None:
        """The words of an answer are those of its stream, and the model's, one after the other."""
        if message.role != "assistant":
            return
        record = self.disk.records[message.stream or ""]
        text = "".join(entry.text for entry in record.entries if isinstance(entry, DeltaText)) or record.summary.text
        if text != message.content:
            raise Broken(f"the message {message} is not what its stream says: {text!r}")
        words = text.split()
        if [word.rpartition(".")[2] for word in words] != [str(n) for n in range(len(words))]:
            raise Broken(f"words are lost, doubled or moved: {text!r}")
        if len({word.rpartition(".")[0] for word in words}) > 1:
            raise Broken(f"words of another answer: {text!r}")


KINDS = ("calm", "messages", "outages", "deaths", "drains", "all", "all")


def history(seed: int) -> World:
    """One history; raises Broken with all that was said in it."""
    kind = KINDS[seed % len(KINDS)]
    with by_chance(seed) as (rnd, clock), structlog.testing.capture_logs() as logs:
        loop = Loop(clock)
        world = World(rnd, clock, kind)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(world.run())
            failures = [log for log in logs if log["log_level"] == "error"]
            if failures:
                world.broken(f"it was logged: {failures}")
            world.check()
        except Exception as error:
            lines = "\n".join(world.trace[-60:])
            raise Broken(f"seed {seed} ({kind}): {error}\n{lines}") from error
    return world


def main() -> int:
    parser = argparse.ArgumentParser(description="Run histories of a session, one a seed, until one does not hold.")
    parser.add_argument("--first", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--seeds", type=int, default=1_000)
    given = parser.parse_args()
    print(f"seeds {given.first} to {given.first + given.seeds - 1}")
    happened: Counter[str] = Counter()
    for seed in range(given.first, given.first + given.seeds):
        happened += history(seed).happened
    print(dict(happened))
    return 0


if __name__ == "__main__":
    sys.exit(main())
