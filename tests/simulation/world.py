"""The world of one run as it would be without faults of its own: store, network, nodes, readers.

What can be lost on the way is decided here, by the rates of the seed's weather; what befalls the nodes and the store,
and in which order everything happens, is `history`'s.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from everstream.core.cursor import Run
from everstream.core.log import Log, Verdict
from everstream.store.base import Push, State
from everstream.store.memory import Disk
from tests.simulation.generation import BUDGET_CHARS
from tests.simulation.node import PATIENCE_STEPS, Flight, Node
from tests.simulation.reader import Link, Reader
from tests.simulation.truth import Broken, Witness
from tests.simulation.weather import Profile

STREAMS = ("r_a", "r_b", "r_c")
READERS_PER_STREAM = 3
NODES = 4
PUSHES_MAX = 200  # on their way at once; more are lost
EVENT_CHARS = 32  # what an entry without text counts as
REQUEST_TTL_MS = 10_000
FIRST_LETTER = 0x4E00  # a run of a provider has one, and there may be thousands in a history


class World:
    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.rnd = rnd = Random(seed)
        self.trace = trace
        self.step = 0
        self.calm = False
        self.profile = Profile.drawn(rnd)
        self.disk = Disk(lambda: self.step)
        self.replica = self.disk.copy()
        self.away_until = 0  # the store cannot be reached by anybody till then
        self.witness = Witness(STREAMS, may_be_early=self.profile.delivery != "committed")
        self.scripts = {stream: self._script() for stream in STREAMS}
        self.runs: dict[str, int] = {}  # a provider's runs, by their letters: after how many pieces each began
        self._incarnations = 0
        self.nodes = [self._new_node(gateway=i < self.profile.gateways) for i in range(NODES)]
        self.hints: list[tuple[str, str]] = []  # (node, stream): on their way to whoever was named a leader
        self.pushes: list[tuple[Node, Push]] = []
        self.strays: list[Flight] = []  # requests that their sender gave up, and that arrive later all the same
        self.readers = [
            Reader(f"{stream}/{i}", stream, self.witness) for stream in STREAMS for i in range(READERS_PER_STREAM)
        ]
        self.happened: Counter[str] = Counter()
        for stream in STREAMS:
            self._create(stream)
        self.replica = self.disk.copy()

    def _script(self) -> str:
        """A kind a piece: x thinking, 0 and 1 tool calls, t text, r refusal."""
        rnd = self.rnd
        thinking = "x" * rnd.choice((0, 0, 2, 4)) + "".join(rnd.choices("01", k=rnd.choice((0, 0, 3))))
        return thinking + "".join(rnd.choices("ttttttttr01", k=rnd.randint(4, 22)))

    # ------------------------------------------------------------------ chance and report

    def chance(self, p: float) -> bool:
        return self.rnd.random() < p

    def fails(self, p: float) -> bool:
        return not self.calm and p > 0 and self.rnd.random() < p

    def letter(self) -> str:
        return chr(FIRST_LETTER + len(self.runs))

    @property
    def away(self) -> bool:
        return self.step < self.away_until

    def say(self, text: str, *values: object) -> None:
        if self.trace:
            print(f"{self.step:5d}  " + text % values)

    def broken(self, text: str) -> None:
        raise Broken(text)

    def _new_node(self, *, gateway: bool) -> Node:
        self._incarnations += 1
        return Node(f"n{self._incarnations}", self, gateway=gateway)

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
        leader = self.rnd.choice([other for other in self.nodes if not other.gateway]).name if node.gateway else ""
        made = self.disk.create(stream, f"q_{stream}", b"meta", node.name, REQUEST_TTL_MS, leader)
        self.witness.reigns_anew(stream, made.epochs, 0, self.step)
        if leader:
            self.witness.handed[stream] = True
            self.hint(leader, stream)
            node.reload(stream)
        else:
            node.lead(stream, Log(stream, made.epochs), None).begin()

    def hint(self, node: str, stream: str) -> None:
        if not self.fails(self.profile.lost_hint):
            self.hints.append((node, stream))

    def a_token(self) -> None:
        node = self._usable()
        if node is not None and node.led:
            stream = self.rnd.choice(list(node.led))
            node.speak(stream)
            if not node.logs[stream].closed:  # the end is not held back
                self._within_budget(node.logs[stream])

    def a_call_breaks(self) -> None:
        node = self._usable()
        if node is not None and node.led:
            self.rnd.choice(list(node.led.values())).break_off()

    def a_patience_ends(self) -> None:
        """A commit takes too long: readers go on without the store."""
        node = self._usable()
        if node is None or self.profile.delivery != "available":
            return
        waiting = [stream for stream in node.logs if node.logs[stream].dirty and stream in node.led]
        node.late = node.late or bool(waiting)
        for stream in waiting:
            node.reveal(stream)

    def _within_budget(self, log: Log) -> None:
        if self.profile.delivery != "committed":
            return  # what is shown is not what is stored
        waiting = log.entries[log.committed - log.base :]
        chars = sum(
            len(getattr(e, "text", None) or getattr(e, "arguments", None) or " " * EVENT_CHARS) for e in waiting
        )
        if chars > BUDGET_CHARS + 2 * EVENT_CHARS:
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

    def adopt(self, stream: str, leader: str, node: Node) -> State | None:
        drain = self.witness.handed.get(stream, False)
        state = self.disk.adopt(stream, leader, node.name)
        self.say("%s adopts %s from %s: %s", node.name, stream, leader, state and state.head.epochs)
        if state is not None:
            self.happened["heir" if drain else "adoption"] += 1
            self.witness.reigns_anew(stream, state.head.epochs, state.head.tail, self.step)
            self.witness.leader_lost(stream)
        return state

    # ------------------------------------------------------------------ what `succession` knows

    lease_steps: int
    cut_off_steps: int

    def leaves(self, node: Node, stream: str, epoch: int, tail: int) -> None:
        """A leader goes by consent."""
        raise NotImplementedError

    def transfer(self, node: Node, stream: str, epoch: int, tail: int) -> None:
        """Whoever was named a leader names another."""
        raise NotImplementedError
