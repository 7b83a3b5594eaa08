"""One run: what befalls the world, step by step, and what must be true in the end.

A run has two parts.  In the first, `FAULTY_STEPS` single actions are drawn by weight, progress and faults mixed.  In
the second, faults have stopped and everything gets its turn, round after round: now every stream must end and every
reader must hold what the store holds.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate

import everstream.core.log as log_module
from everstream.core.summary import fold
from tests.simulation.node import Node
from tests.simulation.reader import Reader
from tests.simulation.succession import Succession
from tests.simulation.truth import Broken
from tests.simulation.weather import NEEDS_THE_STORE, weights
from tests.simulation.world import STREAMS

FAULTY_STEPS = 480
CALM_ROUNDS_MAX = 120
STEPS_PER_ROUND = 4


@dataclass(slots=True)
class Cancel:
    """Somebody's wish to stop a stream; `fence` is the answer."""

    stream: str
    asked_at: int
    fence: int | None = None


class History(Succession):
    def __init__(self, seed: int, *, trace: bool = False) -> None:
        super().__init__(seed, trace=trace)
        self.cancels: list[Cancel] = []
        self.ended_at: dict[str, int] = {}
        chances = weights(self.rnd, storm=self.profile.storm)
        self._acts = [(getattr(self, name), name in NEEDS_THE_STORE) for name in chances]
        self._weights = list(accumulate(chances.values()))

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
        self.leases_lost_at = self.step
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
            if node.paused:
                node.paused, node.awake_since = False, self.step

    def a_node_starts(self) -> None:
        """In a dead one's place, with another name and nothing in memory."""
        for i, node in enumerate(self.nodes):
            if not node.alive:
                for link in list(node.links):
                    self.cut(link)
                if node.flight is not None and node.flight.replies is None and self.chance(0.3):
                    self.strays.append(node.flight)
                self.nodes[i] = self._new_node(gateway=node.gateway)
                self.say("%s starts in place of %s", self.nodes[i].name, node.name)
                return

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
                self.leases_are_renewed()
                act, needs_the_store = self._acts[bisect(self._weights, self.rnd.random() * total)]
                if not (needs_the_store and self.away):
                    act()
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
        self.away_until = min(self.away_until, self.step)
        for node in self.nodes:
            if node.resting:
                node.alive = False
                self._leaves(node)
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
                if node.led[stream].halted:
                    node.leave(stream)
            flight = node.flight or node.send(probe=True)
            if flight is not None:
                if flight.replies is None:
                    self.execute(flight)
                node.receive(flight)
            for stream in [stream for stream in node.logs if stream not in node.led]:
                node.check_position(stream)
            self.look(node)
        while self.transfers:
            self.a_transfer_arrives()
        while self.hints:
            self.a_hint_arrives()
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
