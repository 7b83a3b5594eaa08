"""How streams change their leaders in a world: leases, the time the store is away, hand-overs, heirs and orphans.

A lease runs by the store's clock and is renewed three times in its life, each node at its own moments.  A node that was
cut off from the store, and all nodes after a time in which everybody was, take nobody for dead for the length of a
lease: whoever is missing may only not have come back yet.

A hand-over goes in steps, between which anything may happen: reading stops, all is stored, the leader follows, the
store is told who comes next, that one is told, and adopts.
"""

from __future__ import annotations

from tests.simulation.node import PATIENCE_STEPS, Node
from tests.simulation.truth import Broken
from tests.simulation.world import STREAMS, World

LEASE_STEPS = 24
RENEW_STEPS = 8
CUT_OFF_STEPS = 14  # without a renewal: as many leases as in `runtime.keeper`


class Succession(World):
    lease_steps = LEASE_STEPS
    cut_off_steps = CUT_OFF_STEPS

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.orphans: list[tuple[Node, str, str]] = []  # what keepers saw, a while ago
        self.transfers: list[
            tuple[str, str, int, int, str]
        ] = []  # (leader, stream, epoch, tail, heir) on their way to the store
        self.away_since = 0
        self.leases_lost_at = 0  # a replica took over that did not know of the latest renewals
        super().__init__(seed, trace=trace)

    # ------------------------------------------------------------------ leases

    def leases_are_renewed(self) -> None:
        """Each node at its own steps."""
        if self.step % 2 == 0:
            node = self.nodes[self.step // 2 % len(self.nodes)]
            if node.usable:
                node.renew()

    def a_store_outage(self) -> None:
        """It cannot be reached by anybody, for longer than a lease or not."""
        if not self.away and not self.calm:
            self.away_since = self.step
            self.away_until = self.step + self.rnd.choice((RENEW_STEPS, LEASE_STEPS - 4, 2 * LEASE_STEPS))
            self.happened["outage"] += 1
            self.say("the store is away until %d", self.away_until)

    def _judge(self, node: Node, leader: str) -> None:
        """`node` takes `leader` for dead.  Who lived, and reached the store when others could, is not deposed."""
        other = next((other for other in self.nodes if other.name == leader), None)
        if other is None or not other.usable or other.renewed_at is None:
            return
        if other.renewed_at < other.awake_since or other.renewed_at <= self.leases_lost_at:
            return
        assert node.first_renewed_at is not None
        if node.first_renewed_at >= self.away_until and self.away_until - self.away_since < LEASE_STEPS:
            return  # it is new, and cannot know that others had no chance
        raise Broken(f"{node.name} takes {leader} for dead, which lives and renewed its lease when it could")

    # ------------------------------------------------------------------ orphans

    def a_keeper_looks(self) -> None:
        node = self._usable()
        if node is not None:
            self.look(node)

    def look(self, node: Node) -> None:
        """Which streams have no leader?  Those of the dead and sleeping, and ours that we do not lead.

        The store may name us by mistake: it forgot, in a failover, that another adopted this stream.  That other one
        gets a while to say so.
        """
        node.renew()
        if self.away or node.gateway or node.resting or not node.settled:
            return
        living = {name for name, until in self.disk.leases.items() if until > self.step}
        before, node.disowned = node.disowned, {}
        for stream, record in self.disk.records.items():
            if record.ended:
                continue
            if record.leader == node.name:
                if stream in node.led:
                    continue
                since = node.disowned[stream] = before.get(stream, self.step)
                if self.step - since <= PATIENCE_STEPS:
                    continue
            elif record.leader in living:
                continue
            else:
                self._judge(node, record.leader)
            self.orphans.append((node, stream, record.leader))

    def a_keeper_adopts(self) -> None:
        if self.orphans and not self.away:
            node, stream, leader = self.orphans.pop()
            if node.usable:
                node.adopt(stream, leader)

    def a_coup(self) -> None:
        """A stream is adopted from a leader that is alive and at work."""
        record = self.disk.records.get(self.rnd.choice(STREAMS))
        node = self._usable()
        if record is not None and node is not None and not node.gateway and record.leader != node.name:
            stream = next(stream for stream, r in self.disk.records.items() if r is record)
            node.adopt(stream, record.leader)

    # ------------------------------------------------------------------ hand-over

    def a_hand_over(self) -> None:
        """One stream, by a node that stays."""
        node = self._usable()
        if node is not None and node.led:
            self._halt(node, self.rnd.choice(list(node.led)))

    def a_node_drains(self) -> None:
        """All its streams; then it goes."""
        node = self._usable()
        if node is not None and not node.gateway and not node.resting:
            self.say("%s drains", node.name)
            node.resting = True
            for stream in node.led:
                self._halt(node, stream)

    def _halt(self, node: Node, stream: str) -> None:
        if not node.logs[stream].closed:
            node.led[stream].halted = True

    def a_hand_over_goes_on(self) -> None:
        node = self._usable()
        if node is None or self.away:
            return
        for stream in [stream for stream, generation in node.led.items() if generation.halted]:
            node.leave(stream)
        if node.resting and not node.led and self.chance(0.3):
            self.say("%s has drained, and goes", node.name)
            node.alive = False
            self.disk.leases.pop(node.name, None)

    def leaves(self, node: Node, stream: str, epoch: int, tail: int) -> None:
        """All is stored, as far as `node` knows: the store is to know who comes next."""
        self.transfers.append((node.name, stream, epoch, tail, self._heir(node)))

    def _heir(self, node: Node) -> str:
        """Another node that lives, as far as anybody knows; or nobody, and whoever finds the stream takes it."""
        going = {other.name for other in self.nodes if other.resting and self.chance(0.8)}
        able = [
            name
            for name, until in self.disk.leases.items()
            if until > self.step and name != node.name and name not in going
        ]
        return self.rnd.choice(able) if able and not self.chance(0.15) else ""

    def a_transfer_arrives(self) -> None:
        if self.transfers and not self.away:
            i = self.rnd.randrange(len(self.transfers))
            leader, stream, epoch, tail, heir = self.transfers.pop(i)
            lost = self.fails(self.profile.lost_request)
            done = not lost and self._transferred(leader, stream, epoch, tail, heir)
            if done and self.fails(self.profile.lost_reply):
                done = False  # it leads on, as far as it knows, until it asks again
            for node in self.nodes:
                if node.name == leader and node.alive:
                    node.left(stream, epoch, done=done)

    def transfer(self, node: Node, stream: str, epoch: int, tail: int) -> None:
        """`node` was named, and goes itself: it hands on what it never took."""
        self._transferred(node.name, stream, epoch, tail, self._heir(node))

    def _transferred(self, leader: str, stream: str, epoch: int, tail: int, heir: str) -> bool:
        head = self.disk.head(stream)
        done = self.disk.hand_over(stream, epoch, tail, leader, heir)
        leads = head is not None and head.epochs[-1][0] == epoch and (head.leader == leader or head.handed)
        if done and not leads:
            raise Broken(f"{stream}: {leader} handed over in epoch {epoch} what it does not lead: {head}")
        self.say("%s hands %s over to %s: %s", leader, stream, heir or "nobody", done)
        if done:
            self.happened["hand-over"] += 1
            self.witness.handed[stream] = True
            if heir:
                self.hint(heir, stream)
        return done

    def a_hint_arrives(self) -> None:
        if self.hints and not self.away:
            name, stream = self.hints.pop(self.rnd.randrange(len(self.hints)))
            for node in self.nodes:
                if node.name == name and node.usable:
                    node.named(stream)
