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

from everstream.core.attempts import vain_attempts
from everstream.core.cursor import Cursor, runs
from everstream.core.events import SeamReason
from everstream.core.log import Log, Offer, Verdict
from everstream.core.order import Phase
from everstream.store.base import Head, Push, Reply, State, Write
from tests.simulation.generation import ATTEMPTS, Generation
from tests.simulation.reader import Link, Snapshot, Subscribed

if TYPE_CHECKING:
    from tests.simulation.world import World

PATIENCE_STEPS = 60


@dataclass(slots=True, eq=False)
class Flight:
    """One commit call on its way: requests there, replies back.  A node has one under way at a time."""

    node: Node
    logs: list[Log]
    writes: list[Write]
    replies: list[Reply] | None = None


class Node:
    def __init__(self, name: str, world: World, *, gateway: bool) -> None:
        self.name = name
        self.world = world
        self.gateway = gateway  # it serves readers and leads nothing
        self.alive = True
        self.paused = False
        self.resting = False  # it goes: it takes nothing more, and hands over what it leads
        self.late = False  # the store is, and readers do not wait for it
        self.awake_since = world.step
        self.renewed_at: int | None = None
        self.first_renewed_at: int | None = None
        self.doubts_until = 0  # it was cut off itself: till then it takes nobody for dead
        self.settled = False  # as it last renewed its lease
        self.logs: dict[str, Log] = {}
        self.led: dict[str, Generation] = {}
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

    # ------------------------------------------------------------------ the lease

    def renew(self) -> None:
        """As often as it is due, and before each search for orphans."""
        world = self.world
        if self.gateway or world.away:
            return
        now = world.step
        if self.first_renewed_at is None:
            self.first_renewed_at = now
        elif self.renewed_at is not None and now - self.renewed_at > world.cut_off_steps:
            self.doubts_until = now + world.lease_steps
        settled = world.disk.renew(self.name, world.lease_steps)
        self.renewed_at = now
        self.settled = settled and now >= self.doubts_until

    # ------------------------------------------------------------------ leading

    def lead(self, stream: str, log: Log, due: SeamReason | None) -> Generation:
        self.put(log)
        generation = self.led[stream] = Generation(self.world, self.name, log, due)
        return generation

    def speak(self, stream: str) -> None:
        self.led[stream].speak(cancelled=stream in self.cancels)
        if self.late or self.world.profile.delivery == "eager":
            self.reveal(stream)

    def reveal(self, stream: str) -> None:
        """Show all there is, stored or not."""
        log = self.logs[stream]
        if log.reveal():
            self.world.witness.revealed(log, self.world.disk.records.get(stream))
            self.world.happened["reveal"] += 1

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
            logs.append(log)
            writes.append(self._write(log))
        if not writes:
            return None
        self.flight = Flight(self, logs, writes)
        return self.flight

    def _write(self, log: Log) -> Write:
        base, entries = log.acked, list(log.pending())
        marks = {at: mark for at, mark in log.marks.items() if base < at <= base + len(entries)}
        ends = log.closed and 0 < len(entries) == log.tail - base
        return Write(log.stream, log.epochs, base, entries, ends, self.name, b"meta", marks)

    def receive(self, flight: Flight) -> None:
        self.flight = None
        self.late = False
        assert flight.replies is not None
        for log, write, reply in zip(flight.logs, flight.writes, flight.replies, strict=True):
            if self.logs.get(log.stream) is not log or log.epochs is not write.epochs:
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
        if not self.world.away:  # else the next position check finds it out
            self.reload(stream)

    # ------------------------------------------------------------------ changes of leader

    def adopt(self, stream: str, leader: str) -> None:
        reply_lost = self.world.fails(self.world.profile.lost_reply)
        state = self.world.adopt(stream, leader, self)
        if state is not None and not reply_lost:
            self.carry_on(state)

    def carry_on(self, state: State) -> None:
        """Go on with a stream that this node has just adopted; its seam waits for the provider."""
        head, world = state.head, self.world
        log = Log(head.stream, head.epochs, state.entries, base=state.after, summary=state.summary, marks=state.marks)
        self.disowned.pop(head.stream, None)
        generation = self.lead(head.stream, log, "drain" if head.handed else "node_lost")
        if head.cancelled:
            self.cancels.add(head.stream)
        world.witness.trailed(log, world.runs)
        over = vain_attempts(log.entries, log.base, log.epochs) > ATTEMPTS
        if head.stream in self.cancels:
            generation.end("cancelled")
        elif log.phase is Phase.SPENT:
            generation.end("complete")
        elif head.handed and not log.tail:
            generation.due = None  # it has only just been made
            generation.begin()
        else:
            world.witness.judged(log, over=over, bound=ATTEMPTS)
            if over or world.chance(0.05):
                world.happened["in vain"] += over
                generation.end("interrupted")
            else:
                generation.begin()

    def named(self, stream: str) -> None:
        """A hint: the store names this node the leader."""
        if stream in self.led:
            return
        if not self.resting:
            self.adopt(stream, self.name)
            return
        head = self.world.disk.head(stream)
        if head is not None and head.leader == self.name:
            self.world.transfer(self, stream, head.epochs[-1][0], head.tail)

    def leave(self, stream: str) -> None:
        """Have the store told who comes next, once all is stored.  Until it has agreed this node leads."""
        log = self.logs[stream]
        if log.dirty or log.fenced or self.led[stream].leaving:
            return
        self.led[stream].leaving = True
        self.world.say("%s leaves %s at %d", self.name, stream, log.tail)
        self.world.leaves(self, stream, log.epoch, log.tail)

    def left(self, stream: str, epoch: int, *, done: bool) -> None:
        """What the store said to that.  It may hold less than it had acknowledged: a probe will tell."""
        generation = self.led.get(stream)
        if generation is None or self.logs[stream].epoch != epoch:
            return
        generation.leaving = False
        if done:
            self.world.witness.leaves(self.logs[stream])
            del self.led[stream]

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
        if self.world.away or not log.knows_less_than(link.seen):
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
            if self.world.away:
                return
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
