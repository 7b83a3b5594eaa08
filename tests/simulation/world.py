"""The world of one run: store, replica, network, nodes, readers, and what befalls them.

A run has two parts.  In the first, `FAULTY_STEPS` single actions are drawn by weight: progress and faults mixed, the
weights and loss rates themselves drawn anew for each seed (some faults are absent from some seeds, so that the rare
ones do not hide behind the frequent ones).  In the second, faults have stopped and everything gets its turn, round
after round: now every stream must end and every reader must hold what the store holds.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from tests.simulation.node import BUDGET_CHARS, PATIENCE_STEPS, Flight, Node
from tests.simulation.reader import Link, Reader
from tests.simulation.truth import Broken, Witness

import everstream.core.log as log_module
from everstream.core.cursor import Run
from everstream.core.log import Log, Verdict
from everstream.core.summary import fold
from everstream.store.base import Push, State
from everstream.store.memory import Disk

STREAMS = ("r_a", "r_b", "r_c")
READERS_PER_STREAM = 3
NODES = 4
FAULTY_STEPS = 420
CALM_ROUNDS_MAX = 120
STEPS_PER_ROUND = 4
PUSHES_MAX = 200  # on their way at once; more are lost
EVENT_CHARS = 32  # what an entry without text counts as
REQUEST_TTL_MS = 10_000


@dataclass(slots=True)
class Profile:
    """How this seed's world behaves."""

    storm: bool  # one failover after another, to replicas that lag far behind
    lost_request: float
    lost_reply: float
    late_request: float
    lost_push: float
    doubled_push: float
    lost_frame: float
    frame_chars: int
    commit_entries: int
    linger_steps: int  # how long an ended stream stays in memory, and unfolded in the store
    cancel_again_steps: int

    @classmethod
    def drawn(cls, rnd: Random) -> Profile:
        def rate(*choices: float) -> float:
            return rnd.choice(choices)

        storm = rnd.random() < 0.3
        return cls(
            storm=storm,
            lost_request=rate(0, 0.1, 0.3),
            lost_reply=rate(0, 0.1, 0.3),
            late_request=rate(0, 0, 0.1),
            lost_push=rate(0, 0.2, 0.6),
            doubled_push=rate(0, 0.2),
            lost_frame=rate(0, 0, 0.03),
            frame_chars=rnd.choice((6, 20, 1_000)),
            commit_entries=rnd.choice((2, 3)) if storm else rnd.choice((3, 512)),
            linger_steps=rnd.choice((5, 20) if storm else (20, 80, 200)),
            cancel_again_steps=rnd.choice((40, 400)),
        )


@dataclass(slots=True)
class Cancel:
    """Somebody's wish to stop a stream; `fence` is the answer."""

    stream: str
    asked_at: int
    fence: int | None = None


class World:
    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.rnd = rnd = Random(seed)
        self.trace = trace
        self.step = 0
        self.calm = False
        self.profile = Profile.drawn(rnd)
        self.disk = Disk(lambda: self.step)
        self.replica = self.disk.copy()
        self.witness = Witness(STREAMS)
        self.scripts = {stream: self._script() for stream in STREAMS}
        self._letters = 0
        self._incarnations = 0
        self.nodes = [self._new_node() for _ in range(NODES)]
        self.pushes: list[tuple[Node, Push]] = []
        self.strays: list[Flight] = []  # requests that their sender gave up, and that arrive later all the same
        self.orphans: list[tuple[Node, str, str]] = []  # what keepers saw, a while ago
        self.cancels: list[Cancel] = []
        self.readers = [
            Reader(f"{stream}/{i}", stream, self.witness) for stream in STREAMS for i in range(READERS_PER_STREAM)
        ]
        self.ended_at: dict[str, int] = {}
        self.happened: Counter[str] = Counter()
        for stream in STREAMS:
            self._create(stream)
        self.replica = self.disk.copy()
        actions = self._actions()
        self._acts = [act for act, _ in actions]
        self._weights = list(accumulate(weight for _, weight in actions))

    def _script(self) -> str:
        """A kind a piece: x thinking, 0 and 1 tool calls, t text, r refusal."""
        rnd = self.rnd
        thinking = "x" * rnd.choice((0, 0, 2, 4)) + "".join(rnd.choices("01", k=rnd.choice((0, 0, 3))))
        return thinking + "".join(rnd.choices("ttttttttr01", k=rnd.randint(4, 22)))

    def _actions(self) -> list[tuple[Callable[[], None], float]]:
        some, storm = self.rnd.choice, self.profile.storm
        return [
            (self.a_token, 24),
            (self.a_commit_leaves, 10),
            (self.a_commit_arrives, 14),
            (self.a_reply_arrives, 12),
            (self.a_push_arrives, 14),
            (self.a_reader_reads, 30),
            (self.a_reader_connects, 16 if storm else 8),
            (self.a_socket_drops, some((5, 10)) if storm else some((0.5, 2, 5))),
            (self.a_position_check, some((0.5, 3))),
            (self.replication, some((0.3, 1)) if storm else some((1, 4, 10))),
            (self.failover, some((1.5, 4)) if storm else some((0, 0, 0.5, 1.5))),
            (self.a_node_dies, some((0, 0.4, 1))),
            (self.a_node_sleeps, some((2, 4)) if storm else some((0, 0.5, 1.5))),
            (self.a_node_wakes, some((1.5, 4))),
            (self.a_node_starts, 1),
            (self.a_drain, some((0, 0.3))),
            (self.a_keeper_looks, 8 if storm else 3),
            (self.a_keeper_adopts, 8 if storm else 3),
            (self.a_cancel, some((0, 0.3, 1))),
            (self.cancels_are_answered, 1),
            (self.a_stray_arrives, 1),
            (self.a_fold, 4 if storm else 0.7),
            (self.a_log_is_dropped, some((0.2, 1))),
        ]

    # ------------------------------------------------------------------ chance and report

    def chance(self, p: float) -> bool:
        return self.rnd.random() < p

    def fails(self, p: float) -> bool:
        return not self.calm and p > 0 and self.rnd.random() < p

    def letter(self) -> str:
        self._letters += 1
        return chr(97 + self._letters % 26)

    def say(self, text: str, *values: object) -> None:
        if self.trace:
            print(f"{self.step:5d}  " + text % values)

    def broken(self, text: str) -> None:
        raise Broken(text)

    def _new_node(self) -> Node:
        self._incarnations += 1
        return Node(f"n{self._incarnations}", self)

    def _usable(self) -> Node | None:
        usable = [node for node in self.nodes if node.usable]
        return self.rnd.choice(usable) if usable else None

    def leader_lost(self, stream: str, node: Node) -> None:
        record = self.disk.records.get(stream)
        if record is None or record.leader == node.name:
            self.witness.leader_lost(stream)

    def believe_the_store(self, stream: str, waited_steps: int, why: str) -> None:
        """Somebody waited long enough, or so it says, for a leader to make good what a failover forgot."""
        self.say("the store is believed about %s: %s", stream, why)
        if waited_steps > PATIENCE_STEPS:
            self.witness.leader_lost(stream)

    # ------------------------------------------------------------------ progress

    def _create(self, stream: str) -> None:
        node = self.rnd.choice(self.nodes)
        made = self.disk.create(stream, f"q_{stream}", b"meta", node.name, REQUEST_TTL_MS)
        self.witness.reigns_anew(stream, made.epochs, self.step)
        node.lead(stream, Log(stream, made.epochs))

    def a_token(self) -> None:
        node = self._usable()
        if node is not None and node.led:
            stream = self.rnd.choice(list(node.led))
            node.speak(stream)
            if not node.logs[stream].closed:  # the end is not held back
                self._within_budget(node.logs[stream])

    def _within_budget(self, log: Log) -> None:
        waiting = log.entries[log.committed - log.base :]
        chars = sum(
            len(getattr(e, "text", None) or getattr(e, "arguments", None) or " " * EVENT_CHARS) for e in waiting
        )
        if chars > BUDGET_CHARS + EVENT_CHARS:
            raise Broken(f"{log.stream}: {chars} characters wait to be committed")

    def a_commit_leaves(self) -> None:
        node = self._usable()
        if node is None:
            return
        if node.flight is not None and node.flight not in self.strays and self.chance(0.1):
            self._give_up(node)
        flight = node.send(probe=self.calm or self.chance(0.2))
        if flight is not None and self.fails(self.profile.lost_request):
            self.say("%s: its commit is lost", node.name)
            node.flight = None

    def _give_up(self, node: Node) -> None:
        """It timed out; whether the store sees it, and when, nobody knows."""
        if node.flight is not None and node.flight.replies is None and self.fails(self.profile.late_request):
            self.strays.append(node.flight)
        node.flight = None

    def _flights(self, *, executed: bool) -> list[Flight]:
        flights = [node.flight for node in self.nodes if node.flight is not None]
        return [flight for flight in flights if (flight.replies is not None) is executed]

    def a_commit_arrives(self) -> None:
        flights = self._flights(executed=False)
        if flights:
            flight = self.rnd.choice(flights)
            self.execute(flight)
            if self.fails(self.profile.lost_reply):
                flight.node.flight = None

    def execute(self, flight: Flight) -> None:
        """The store takes a commit call, and pushes what it took to those who hold the stream."""
        flight.replies = []
        for write in flight.writes:
            before = self.disk.records.get(write.stream)
            newer = before is None or before.epochs != write.epochs
            reply = self.disk.commit(write)
            flight.replies.append(reply)
            self.happened[reply.verdict.name] += 1
            if self.trace and (write.entries or reply.verdict is not Verdict.OK):
                args = (write.leader, write.stream, write.base, len(write.entries), reply.verdict.name, reply.tail)
                self.say("the store takes from %s %s (%d+%d]: %s %d", *args)
            if reply.verdict is not Verdict.OK:
                continue
            self.witness.stored(write, self.disk.records[write.stream], newer)
            push = Push(write.stream, write.epochs, write.base, list(write.entries))
            for node in self.nodes:
                if node is not flight.node and write.entries and write.stream in node.logs:
                    self._push(node, push)

    def _push(self, node: Node, push: Push) -> None:
        if self.fails(self.profile.lost_push) or len(self.pushes) >= PUSHES_MAX:
            return
        self.pushes.append((node, push))
        if self.fails(self.profile.doubled_push):
            self.pushes.append((node, push))

    def a_reply_arrives(self) -> None:
        flights = [flight for flight in self._flights(executed=True) if flight.node.usable]
        if flights:
            flight = self.rnd.choice(flights)
            flight.node.receive(flight)

    def a_stray_arrives(self) -> None:
        if self.strays:
            self.execute(self.strays.pop(self.rnd.randrange(len(self.strays))))

    def a_push_arrives(self) -> None:
        if self.pushes:
            i = self.rnd.randrange(len(self.pushes)) if self.chance(0.3) else 0
            node, push = self.pushes.pop(i)
            if node.usable:
                node.take(push)

    def a_position_check(self) -> None:
        node = self._usable()
        if node is not None:
            followed = [stream for stream in node.logs if stream not in node.led]
            if followed:
                node.check_position(self.rnd.choice(followed))

    # ------------------------------------------------------------------ readers

    def a_reader_connects(self) -> None:
        waiting = [reader for reader in self.readers if reader.link is None]
        if waiting:
            self.connect(self.rnd.choice(waiting))

    def connect(self, reader: Reader) -> None:
        node = self._usable()
        if node is None:
            return
        link = reader.link = Link(reader, node, reader.stream, reader.position, self.step)
        reader.waiting = True
        self.say("%s connects to %s at %s", reader.name, node.name, reader.position)
        node.attach(link)
        if link not in node.links or reader.stream not in node.logs:
            self.cut(link)

    def a_reader_reads(self) -> None:
        reader = self.rnd.choice(self.readers)
        link = reader.link
        if link is None:
            return
        if link.node.usable:
            link.node.serve(link)
        for _ in range(self.rnd.randint(1, 4)):
            if not link.inbox:
                break
            if isinstance(link.inbox[0], Run) and self.fails(self.profile.lost_frame):
                link.inbox.popleft()  # no socket does this; a client that is told of a hole must cope all the same
                link.leaky = True
                continue
            self._take_frame(reader, link)
        if not link.node.alive and not link.inbox:
            self.cut(link)

    def _take_frame(self, reader: Reader, link: Link) -> None:
        frame = link.inbox.popleft()
        self.say("%s at %s takes %s", reader.name, reader.position, frame)
        if not reader.receive(frame) and link.node.usable and link in link.node.links:
            reader.waiting = True
            link.inbox.clear()  # what comes before the answer to its new command is not for it
            link.seen, link.since = reader.position, self.step
            link.node.attach(link)

    def a_socket_drops(self) -> None:
        links = [reader.link for reader in self.readers if reader.link is not None]
        if links and not self.calm:
            self.cut(self.rnd.choice(links))

    def cut(self, link: Link) -> None:
        """Whatever was on its way is lost."""
        if link in link.node.links:
            link.node.links.remove(link)
        if link.reader.link is link:
            link.reader.link = None
            link.reader.waiting = False

    # ------------------------------------------------------------------ faults

    def replication(self) -> None:
        self.replica = self.disk.copy()

    def failover(self) -> None:
        """The primary dies; the replica takes over with what it has."""
        old = self.disk
        holders = {stream: self._held_whole(stream) for stream in old.records}
        self.disk = self.replica
        self.replica = self.disk.copy()
        self.witness.failed_over(old, self.disk, holders)
        self.happened["failover"] += 1
        if self.trace:
            tails = {stream: (old.records[stream].tail, r.tail) for stream, r in self.disk.records.items()}
            self.say("FAILOVER %s excused %s at risk %s", tails, self.witness.excused, self.witness.at_risk)

    def _held_whole(self, stream: str) -> bool:
        record = self.disk.records[stream]
        for node in self.nodes:
            if node.usable and node.name == record.leader and node.leads(stream):
                return node.logs[stream].epochs == record.epochs and node.logs[stream].tail >= record.tail
        return False

    def a_node_dies(self) -> None:
        node = self._usable()
        if node is not None:
            self.say("%s is killed", node.name)
            node.alive = False
            self._leaves(node)

    def _leaves(self, node: Node) -> None:
        for stream in node.led:
            self.leader_lost(stream, node)

    def a_node_sleeps(self) -> None:
        node = self._usable()
        if node is not None:
            self.say("%s falls asleep", node.name)
            node.paused = True
            self._leaves(node)

    def a_node_wakes(self) -> None:
        for node in self.nodes:
            node.paused = False

    def a_node_starts(self) -> None:
        """In a dead one's place, with another name and nothing in memory."""
        for i, node in enumerate(self.nodes):
            if not node.alive:
                for link in list(node.links):
                    self.cut(link)
                if node.flight is not None and node.flight.replies is None and self.chance(0.3):
                    self.strays.append(node.flight)
                self.nodes[i] = self._new_node()
                self.say("%s starts in place of %s", self.nodes[i].name, node.name)
                return

    def a_drain(self) -> None:
        """A stream is adopted from a leader that is alive and at work."""
        record = self.disk.records.get(self.rnd.choice(STREAMS))
        node = self._usable()
        if record is not None and node is not None and record.leader != node.name:
            stream = next(stream for stream, r in self.disk.records.items() if r is record)
            node.adopt(stream, record.leader)

    # ------------------------------------------------------------------ keepers

    def a_keeper_looks(self) -> None:
        node = self._usable()
        if node is not None:
            self.look(node)

    def look(self, node: Node) -> None:
        """Which streams have no leader?  Those of the dead and sleeping, and ours that we do not lead.

        The store may name us by mistake: it forgot, in a failover, that another adopted this stream.  That other one
        gets a while to say so.
        """
        living = {other.name for other in self.nodes if other.usable}
        for stream, record in self.disk.records.items():
            if record.ended or record.leader in living - {node.name} or node.leads(stream):
                continue
            if record.leader == node.name:
                since = node.disowned.setdefault(stream, self.step)
                if self.step - since <= PATIENCE_STEPS:
                    continue
            self.orphans.append((node, stream, record.leader))

    def a_keeper_adopts(self) -> None:
        if self.orphans:
            node, stream, leader = self.orphans.pop()
            if node.usable:
                node.adopt(stream, leader)

    def adopt(self, stream: str, leader: str, node: Node) -> State | None:
        state = self.disk.adopt(stream, leader, node.name)
        self.say("%s adopts %s from %s: %s", node.name, stream, leader, state and state.head.epochs)
        if state is not None:
            self.happened["adoption"] += 1
            self.witness.reigns_anew(stream, state.head.epochs, self.step)
            self.witness.leader_lost(stream)
        return state

    # ------------------------------------------------------------------ cancel, fold, forget

    def a_cancel(self) -> None:
        cancel = Cancel(self.rnd.choice(STREAMS), self.step)
        self.cancels.append(cancel)
        self._mark(cancel)
        if self.chance(0.3):  # the message to the leader, which may be lost
            for node in self.nodes:
                if node.usable and node.leads(cancel.stream):
                    node.cancels.add(cancel.stream)

    def _mark(self, cancel: Cancel) -> None:
        record = self.disk.records.get(cancel.stream)
        if record is not None and not record.ended:
            record.cancelled = True
            self.witness.marked.setdefault(cancel.stream, self.step)
            self.say("%s is marked cancelled", cancel.stream)

    def cancels_are_answered(self) -> None:
        """With the offset of the end, once there is one.  The mark may have been lost: leave it again now and then."""
        for cancel in self.cancels:
            if cancel.fence is not None:
                continue
            record = self.disk.records.get(cancel.stream)
            if record is not None and record.ended:
                cancel.fence = record.tail
                self.happened["cancel answered"] += 1
                first = self.witness.fences.setdefault(cancel.stream, cancel.fence)
                if first != cancel.fence and cancel.stream not in self.witness.excused:
                    raise Broken(f"{cancel.stream}: two answers to a cancel")
            elif self.step - cancel.asked_at > self.profile.cancel_again_steps:
                cancel.asked_at = self.step
                self._mark(cancel)

    def a_fold(self) -> None:
        for stream, record in self.disk.records.items():
            if not record.ended:
                self.ended_at.pop(stream, None)
            elif (
                not record.base and self.step - self.ended_at.setdefault(stream, self.step) > self.profile.linger_steps
            ):
                entries = record.entries
                if self.disk.fold(stream, record.tail, fold(entries)):
                    self.witness.final[stream] = entries
                    self.happened["fold"] += 1
                    self.say("%s is folded at %d", stream, record.tail)

    def a_log_is_dropped(self) -> None:
        node = self._usable()
        if node is not None and node.logs:
            stream = self.rnd.choice(list(node.logs))
            old = self.step - self.ended_at.get(stream, self.step) > self.profile.linger_steps
            if node.logs[stream].ended and old:
                node.drop_log(stream)

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Raises Broken (or whatever the code under test raises) where a claim does not hold."""
        whole = log_module.COMMIT_ENTRIES_MAX
        log_module.COMMIT_ENTRIES_MAX = self.profile.commit_entries
        try:
            total = self._weights[-1]
            for self.step in range(1, FAULTY_STEPS + 1):
                self._acts[bisect(self._weights, self.rnd.random() * total)]()
            self._agreement()
            self._calm_down()
            self.say("--- calm: %s excused, %s at risk", self.witness.excused, self.witness.at_risk)
            for _ in range(CALM_ROUNDS_MAX):
                self._round()
                if self._settled():
                    return self._verdict()
            raise Broken(f"no end after {CALM_ROUNDS_MAX} calm rounds: {self._unsettled()}")
        finally:
            log_module.COMMIT_ENTRIES_MAX = whole

    def _calm_down(self) -> None:
        self.calm = True
        while not all(node.alive for node in self.nodes):
            self.a_node_starts()
        for reader in self.readers:
            if reader.link is not None and reader.link.leaky:
                self.cut(reader.link)

    def _round(self) -> None:
        self.step += STEPS_PER_ROUND
        self.a_node_wakes()
        while self.strays:
            self.a_stray_arrives()
        for node in self.nodes:
            if not node.alive:
                continue
            for stream in list(node.led):
                for _ in range(3):
                    node.speak(stream)
            flight = node.flight or node.send(probe=True)
            if flight is not None:
                if flight.replies is None:
                    self.execute(flight)
                node.receive(flight)
            for stream in [stream for stream in node.logs if stream not in node.led]:
                node.check_position(stream)
            self.look(node)
        while self.orphans:
            self.a_keeper_adopts()
        while self.pushes:
            self.a_push_arrives()
        self.cancels_are_answered()
        self.a_fold()
        for reader in self.readers:
            self._reader_turn(reader)

    def _reader_turn(self, reader: Reader) -> None:
        if reader.link is None:
            self.connect(reader)
        link = reader.link
        if link is None:
            return
        if link.node.alive:
            link.node.serve(link)
        while link.inbox:
            self._take_frame(reader, link)
        if not link.node.alive:
            self.cut(link)

    # ------------------------------------------------------------------ the end

    def _gone(self, stream: str) -> bool:
        """A failover forgot the whole stream, and whoever led it is gone: nothing is left to tell."""
        lost = stream in self.witness.excused and stream not in self.disk.records
        return lost and not any(node.alive and node.leads(stream) for node in self.nodes)

    def _unsettled(self) -> list[str]:
        waiting = []
        for stream in STREAMS:
            record = self.disk.records.get(stream)
            if (record is None or not record.ended) and not self._gone(stream):
                waiting.append(stream)
        for reader in self.readers:
            record = self.disk.records.get(reader.stream)
            if record is not None and (reader.offset != record.tail or reader.epoch != record.epochs[-1][0]):
                waiting.append(reader.name)
        return waiting + [
            cancel.stream for cancel in self.cancels if cancel.fence is None and not self._gone(cancel.stream)
        ]

    def _settled(self) -> bool:
        return not self._unsettled()

    def _agreement(self) -> None:
        for stream in STREAMS:
            logs = [node.logs[stream] for node in self.nodes if node.alive and stream in node.logs]
            for log in logs[1:]:
                self.witness.agree(logs[0], log)

    def _verdict(self) -> None:
        for stream in STREAMS:
            if self._gone(stream):
                continue
            entries = self.witness.verdict(stream, self.disk.records[stream], len(self.scripts[stream]))
            whole = fold(entries)
            for reader in self.readers:
                if reader.stream != stream:
                    continue
                if reader.summary != whole:
                    raise Broken(f"{reader.name} ends with {reader.summary} and not with {whole}")
                if not reader.snapshots and reader.entries != entries:
                    raise Broken(f"{reader.name} saw other entries than the store holds")
        self._agreement()
