"""Who adds up which sessions' people, and what nodes have reported to this one.

`Hosts` names the host of a session's partition: one living node, on which all nodes that see the same nodes agree.
When they change, a partition that comes to this node is *unsettled* for a moment: the others notice within a second
and report here, and until they have, a sum would leave out people who are there.

`Roll` is what the host writes down: of each session, the last report of every other node that has people in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from everstream.core.lease import PARTITIONS, owner_of

SESSIONS_MAX = 100_000

Share = dict[str, tuple[str, int]]  # of a session's people, those of some node: id -> (name, connections)


def added(one: Share, other: Share) -> Share:
    """The sum of two shares; names as in the second one."""
    if not one or not other:
        return one or other
    total = dict(one)
    for user, (name, connections) in other.items():
        known = total.get(user)
        total[user] = (name, connections + known[1] if known else connections)
    return total


class Hosts:
    """Which node hosts which partition."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._alive: frozenset[str] = frozenset()
        self._hosts: list[str | None] = [None] * PARTITIONS
        self._unsettled: dict[int, float] = {}  # partition of this node's -> when it is settled

    def of(self, partition: int) -> str | None:
        """None where no node is known to live."""
        return self._hosts[partition]

    def speaks_for(self, partition: int) -> bool:
        """Whether this node hosts the partition, and has had time to hear from all."""
        return self._hosts[partition] == self._node and partition not in self._unsettled

    def see(self, alive: Iterable[str], settled_at: float) -> tuple[frozenset[str], set[int]]:
        """Take note of who lives: who did and does no more, and which partitions have another host than before.

        What comes to this node now is settled at `settled_at`.
        """
        now_alive = frozenset(alive)
        if now_alive == self._alive:
            return frozenset(), set()
        gone, self._alive = self._alive - now_alive, now_alive
        before, self._hosts = self._hosts, [owner_of(partition, now_alive) for partition in range(PARTITIONS)]
        moved = {partition for partition in range(PARTITIONS) if self._hosts[partition] != before[partition]}
        for partition in moved:
            self._unsettled.pop(partition, None)
            if self._hosts[partition] == self._node:
                self._unsettled[partition] = settled_at
        return gone, moved

    def settle(self, now: float) -> set[int]:
        """The partitions that this node may speak for from now on."""
        settled = {partition for partition, at in self._unsettled.items() if at <= now}
        for partition in settled:
            del self._unsettled[partition]
        return settled


@dataclass(frozen=True, slots=True)
class _Report:
    number: int  # a node numbers its messages: of two, the later one counts
    share: Share


class Roll:
    """The reports of other nodes.  A node that has nobody in a session any more is not in its list."""

    def __init__(self) -> None:
        self._reports: dict[str, dict[str, _Report]] = {}  # session -> node -> report
        self._heard_at: OrderedDict[tuple[str, str], float] = OrderedDict()  # (session, node), the oldest first

    def sessions(self) -> list[str]:
        """Those of which there is a report."""
        return list(self._reports)

    def report(self, session: str, node: str, number: int, share: Share, now: float) -> bool | None:
        """Whether this changes the session's sum; None where it is not to be answered: it is late, or one too many."""
        reports = self._reports.get(session)
        known = reports.get(node) if reports else None
        if not share:
            if known is None or known.number > number:
                return None
            self._drop(session, node)
            return True
        if known is not None and known.number > number:
            return None
        if reports is None:
            if len(self._reports) >= SESSIONS_MAX:
                return None
            reports = self._reports[session] = {}
        reports[node] = _Report(number, share)
        self._heard_at[session, node] = now
        self._heard_at.move_to_end((session, node))
        return known is None or known.share != share

    def reporters(self, session: str) -> list[str]:
        """The nodes that have people in the session, besides this one."""
        return list(self._reports.get(session, ()))

    def total(self, session: str, besides: str = "") -> Share:
        """The sum of what the nodes, but one, have reported."""
        share: Share = {}
        for node, report in self._reports.get(session, {}).items():
            if node != besides:
                share = added(share, report.share)
        return share

    def forget(self, node: str) -> list[str]:
        """A node is dead: the sessions in which it had people."""
        theirs = [session for session, reports in self._reports.items() if node in reports]
        for session in theirs:
            self._drop(session, node)
        return theirs

    def expire(self, before: float) -> list[str]:
        """Drop the reports that were last repeated before that time: of which sessions."""
        expired = []
        while self._heard_at:
            session, node = next(iter(self._heard_at))
            if self._heard_at[session, node] >= before:
                break
            expired.append(session)
            self._drop(session, node)
        return expired

    def drop(self, session: str) -> None:
        """Another node hosts this session."""
        for node in self.reporters(session):
            self._drop(session, node)

    def _drop(self, session: str, node: str) -> None:
        del self._heard_at[session, node]
        reports = self._reports[session]
        del reports[node]
        if not reports:
            del self._reports[session]
