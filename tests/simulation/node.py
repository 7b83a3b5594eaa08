"""One server process: what a runtime does between two awaits, on the real `Log`, `runs` and `Disk`.

    provider --speak--> log --send--> [network] --> disk.commit --> [network] --receive--> log.committed
                                                        |
    reader <-- inbox <--serve-- log <--offer-- push ----+         (another node: a follower)

A node leads some streams and follows others.  Led logs change by `speak` and by the store's replies only; followed
ones by pushes and by reading the store.  A log that history has left is replaced as a whole (`put`), and every reader
on it is placed anew by the position it had in the old one.

Where a reader is *ahead* of what this node and the store hold, it waits: the leader may live and hold the rest.  After
`PATIENCE_STEPS` the store is believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from everstream.core.cursor import Cursor, runs
from everstream.core.events import (
    CONTENT,
    Continuation,
    DeltaRefusal,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    EndReason,
    Event,
    FirstToken,
    HeadersReceived,
    LastToken,
    Metrics,
    Phase,
    RequestStart,
    Seam,
    StreamEnd,
    Usage,
)
from everstream.core.log import Log, Offer, Verdict
from everstream.store.base import Head, Push, Reply, Write
from tests.simulation.reader import Link, Snapshot, Subscribed
from tests.simulation.truth import next_content

if TYPE_CHECKING:
    from tests.simulation.world import World

PATIENCE_STEPS = 60
BUDGET_CHARS = 70  # uncommitted, per stream: then the provider is not read any more
_USAGE = Usage(1, 1, 2, "estimated")
_METRICS = Metrics(None, None, 1.0, None)


def stream_end(reason: EndReason) -> StreamEnd:
    return StreamEnd(reason, "stop" if reason == "complete" else None, _USAGE, None, _METRICS, None, [])


@dataclass(slots=True, eq=False)
class Flight:
    """One commit call on its way: requests there, replies back.  A node has one under way at a time."""

    node: Node
    logs: list[Log]
    writes: list[Write]
    replies: list[Reply] | None = None


class Node:
    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.alive = True
        self.paused = False
        self.logs: dict[str, Log] = {}
        self.led: dict[str, str] = {}  # stream -> the letter of this reign, which marks its pieces
        self.told_off: dict[str, int] = {}  # position checks: since when the store holds less than we do
        self.disowned: dict[str, int] = {}  # since when the store names us the leader of what we do not lead
        self.cancels: set[str] = set()
        self.flight: Flight | None = None
        self.links: list[Link] = []

    @property
    def usable(self) -> bool:
        return self.alive and not self.paused

    def leads(self, stream: str) -> bool:
        return stream in self.led and not self.logs[stream].fenced

    # ------------------------------------------------------------------ leading

    def lead(self, stream: str, log: Log) -> None:
        self.put(log)
        self.led[stream] = self.world.letter()

    def speak(self, stream: str) -> None:
        """The provider has something to say, if the budget of what is uncommitted lets us read it."""
        log = self.logs[stream]
        if log.closed or log.fenced:
            return
        if stream in self.cancels:
            log.append(stream_end("cancelled"))
            self.world.say("%s ends %s: cancelled at %d", self.name, stream, log.tail)
            return
        if log.pending_chars >= BUDGET_CHARS:
            return
        event = self._next(stream, log)
        log.append(event)
        self.world.say("%s appends %s %d %s", self.name, stream, log.tail, event)

    def _next(self, stream: str, log: Log) -> Event:
        phase = log.phase
        if phase is Phase.NEW:
            return RequestStart("scripted/any", self.world.step)
        if phase is Phase.REQUESTED:
            return HeadersReceived(self.world.step)
        if phase is Phase.ANSWERED:
            return FirstToken(1.0)
        if phase is Phase.SPENT:
            return stream_end("complete")
        said = next_content(log.entries)
        script = self.world.scripts[stream]
        if phase is Phase.CARRIED and self.world.chance(0.2):
            return HeadersReceived(self.world.step)
        if said == len(script):
            return LastToken()
        kind = script[said]
        mark = f"{said + 1}{self.led[stream]} "
        if kind == "x":
            return DeltaThinking(mark)
        if kind == "r":
            return DeltaRefusal(mark)
        if kind == "t":
            return DeltaText(mark)
        first = script[:said].count(kind) == 0
        return DeltaToolCall(int(kind), mark, f"call{kind}" if first else None, "tool" if first else None)

    def send(self, *, probe: bool) -> Flight | None:
        """Group commit: every dirty stream in one call.  `probe`: and an empty write for each of the others.

        Without probes nobody would notice a failover that forgot the end of a stream that has no more to say.
        """
        if self.flight is not None:
            return None
        logs, writes = [], []
        for stream in self.led:
            log = self.logs[stream]
            if log.fenced or not (log.dirty or probe):
                continue
            entries = list(log.pending())
            ends = bool(entries) and isinstance(entries[-1], StreamEnd)
            logs.append(log)
            writes.append(Write(stream, log.epochs, log.acked, entries, ends, self.name, b"meta"))
        if not writes:
            return None
        self.flight = Flight(self, logs, writes)
        return self.flight

    def receive(self, flight: Flight) -> None:
        self.flight = None
        assert flight.replies is not None
        for log, reply in zip(flight.logs, flight.replies, strict=True):
            if self.logs.get(log.stream) is not log:
                continue
            if reply.cancelled:
                self.cancels.add(log.stream)
            log.on_reply(reply.verdict, reply.tail)
            if reply.verdict is Verdict.FENCED:
                self.step_down(log.stream)
            else:
                self.world.witness.held(log, log.base)

    def step_down(self, stream: str) -> None:
        """Another leads: forget what was not committed, follow."""
        self.world.say("%s steps down from %s", self.name, stream)
        self.led.pop(stream, None)
        self.world.leader_lost(stream, self)
        self.reload(stream)

    def adopt(self, stream: str, leader: str) -> None:
        world = self.world
        reply_lost = world.fails(world.profile.lost_reply)
        state = world.adopt(stream, leader, self)
        if state is None or reply_lost:
            return
        log = Log(stream, state.head.epochs, state.entries, base=state.head.base, summary=state.summary)
        self.disowned.pop(stream, None)
        self.lead(stream, log)
        if state.head.cancelled:
            self.cancels.add(stream)
        self.open_reign(log)
        if stream in self.cancels or world.chance(0.1):
            log.append(stream_end("cancelled" if stream in self.cancels else "interrupted"))

    def open_reign(self, log: Log) -> None:
        """The adopter's first entry says that another carries on, and how."""
        restart = not any(isinstance(entry, DeltaText | DeltaRefusal) for entry in log.entries)
        restart = restart and any(isinstance(entry, CONTENT) for entry in log.entries)
        how: Continuation | None = None
        if log.phase is Phase.SPENT or log.stream in self.cancels:
            pass  # only the end follows
        elif restart and self.world.chance(0.5):
            how = "restart"
        else:
            how = "prefill"
        log.append(Seam(log.epoch, log.total().attempts + 1, "node_lost", how, None, self.name))

    # ------------------------------------------------------------------ following

    def reload(self, stream: str) -> None:
        """Start over from the store."""
        state = self.world.disk.read(stream)
        if state is None:
            self._let_go(stream)
            return
        self.put(Log(stream, state.head.epochs, state.entries, base=state.head.base, summary=state.summary))

    def take(self, push: Push) -> None:
        log = self.logs.get(push.stream)
        if log is None or push.stream in self.led:
            return
        self._offer(log, push)

    def heal(self, stream: str) -> Head | None:
        """Read what the store has beyond our log."""
        log = self.logs[stream]
        state = self.world.disk.read(stream, log.tail)
        if state is None:
            return None
        self._offer(log, Push(stream, state.head.epochs, state.after, state.entries), read=True)
        return state.head

    def _offer(self, log: Log, push: Push, *, read: bool = False) -> None:
        epochs, tail = log.epochs, log.tail
        offer = log.offer(push.epochs, push.after, push.entries)
        self.world.happened[offer.name] += 1
        if offer is not Offer.KNOWN:
            self.world.say("%s is offered %s (%d+%d]: %s", self.name, log.stream, push.after, len(push.entries), offer)
        if offer is Offer.FORKED or (offer is Offer.HOLE and read):
            self.reload(log.stream)
        elif offer is Offer.HOLE:
            self.heal(log.stream)
        elif offer is Offer.APPLIED or log.epochs != epochs:
            self.world.witness.held(log, tail if log.epochs == epochs else 0)

    def check_position(self, stream: str) -> None:
        """Now and then: pushes may have been lost, and the store may have lost what we hold."""
        head = self.heal(stream)
        log = self.logs[stream]
        if head is not None and (head.epochs[-1][0], head.tail) >= (log.epoch, log.tail):
            self.told_off.pop(stream, None)
            return
        waited = self.world.step - self.told_off.setdefault(stream, self.world.step)
        if waited > PATIENCE_STEPS:
            self.told_off.pop(stream)
            self.world.believe_the_store(stream, waited, f"{self.name} has more")
            self.reload(stream)

    def put(self, log: Log) -> None:
        """This log is now the stream as we know it: place its readers anew."""
        stream = log.stream
        old = self.logs.get(stream)
        self.logs[stream] = log
        self.told_off.pop(stream, None)
        self.world.witness.held(log)
        for link in [link for link in self.links if link.stream == stream]:
            if link.cursor is not None and old is not None:
                link.seen, link.since = old.position(link.cursor.offset), self.world.step
                self.place(link)

    def drop_log(self, stream: str) -> None:
        """Nobody reads it, and it has ended: out of memory."""
        if not any(link.stream == stream for link in self.links):
            self._let_go(stream)

    def _let_go(self, stream: str) -> None:
        self.logs.pop(stream, None)
        self.told_off.pop(stream, None)
        if self.led.pop(stream, None) is not None:
            self.world.leader_lost(stream, self)
        for link in [link for link in self.links if link.stream == stream]:
            self.world.cut(link)

    # ------------------------------------------------------------------ readers

    def attach(self, link: Link) -> None:
        """`hello` with a position, or `subscribe`."""
        if link not in self.links:
            self.links.append(link)
        link.cursor, link.answered = None, False
        if link.stream not in self.logs:
            self.reload(link.stream)
            if link.stream not in self.logs:
                return
        self.ask_if_behind(link)
        if link.node is self and link in self.links:
            self.place(link)

    def ask_if_behind(self, link: Link) -> None:
        """Rule 5."""
        log = self.logs[link.stream]
        if not log.knows_less_than(link.seen):
            return
        if link.stream not in self.led:
            self.heal(link.stream)
            return
        head = self.world.disk.head(link.stream)
        if head is not None and head.epochs[-1][0] > log.epoch:
            log.fenced = True
            self.step_down(link.stream)

    def place(self, link: Link) -> None:
        log = self.logs[link.stream]
        waited = self.world.step - link.since
        link.cursor = None
        if log.knows_less_than(link.seen):
            ours = self.leads(link.stream) and link.seen.epoch <= log.epoch  # our own next commit will tell
            if ours or waited <= PATIENCE_STEPS:
                self.world.happened["wait"] += 1
                return
            self.world.believe_the_store(link.stream, waited, f"{link.reader.name} saw more")
        offset = log.locate(link.seen)
        if offset is None:
            epoch = log.position(log.committed).epoch
            self.world.happened["snapshot"] += 1
            link.inbox.append(Snapshot(epoch, log.committed, log.total()))
            self.world.say("%s: %s gets a snapshot at (%d, %d)", self.name, link.reader.name, epoch, log.committed)
            link.cursor = Cursor(log.committed)
            link.answered = True
            return
        link.cursor = Cursor(offset)
        if not link.answered:
            link.answered = True
            link.inbox.append(Subscribed(log.position(offset).epoch, offset))

    def serve(self, link: Link) -> None:
        """One turn of the loop: all that is new for this reader, merged."""
        if link.cursor is None:
            self.ask_if_behind(link)
            if link in self.links and link.cursor is None:
                self.place(link)
        if link.cursor is None or link not in self.links:
            return
        log = self.logs[link.stream]
        if link.cursor.offset > log.committed:
            self.world.broken(f"{link.reader.name} was placed at {link.cursor.offset}, past {log.committed}")
        if link.cursor.lag(log):
            for run in runs(log, link.cursor.offset, self.world.profile.frame_chars):
                link.inbox.append(run)
                link.cursor.offset = run.upto
