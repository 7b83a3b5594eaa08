"""Who has a session open, over all nodes, and who is typing there.

For each session one living node is its *host* (`presence_host.py`).  Nodes that have people in it tell the host how
many connections each of theirs has; the host adds up, and tells each of them about everybody else.

    node                              host                             other nodes
      pres  our people in s  ─────────▶  writes it down
                             ◀─────────  here  everybody else in s  ─────────▶
      type  a person in s    ─────────▶  passes it on  ──────────────────────▶

So what a node shows is what it knows of its own, at once and exactly, and what it was last told of the others.  Where
a node is the host itself, as the only one always is, nothing is sent.

Messages are hints, so nothing counts up or down: each says how things are, and one that is late is dropped by its
number.  Reports are repeated every REFRESH_S, and answered; a leave is repeated once; what is not repeated expires.
The people of a node that loses its lease go at once.  A node without a lease is never a host, and if it dies its
people go when its reports expire.  When the host changes, its nodes report to the next one, which speaks when it has
had the time to hear from all; until then each shows what it was last told.

What changes is gathered, and told at most every FLUSH_S: one message to a node then carries many sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from typing import Any, Protocol

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.lease import partition_of
from everstream.runtime.ending import end
from everstream.runtime.presence_host import SESSIONS_MAX, Hosts, Roll, Share, added
from everstream.runtime.presence_post import (
    REPORT,
    SUM,
    TYPING,
    Post,
    Shares,
    Typings,
    read_shares,
    read_typings,
    shown_of,
)
from everstream.store.base import Store

logger = structlog.get_logger(__name__)

ALIVE_S = 1.0  # between two looks at who lives
SETTLE_S = 1.5  # in which all nodes have looked at who lives, and reported to a new host
FLUSH_S = 0.05
FLUSH_SESSIONS = 256  # in one turn of the loop; the others in the next
REFRESH_S = 10.0
EXPIRE_S = 25.0  # two refreshes in a row may be lost


@dataclass(frozen=True, slots=True)
class Person:
    id: str
    name: str


class Attendee(Protocol):
    """A connection that has a session open.  Called in the event loop; neither may raise."""

    def presence(self, session: str, users: list[dict[str, Any]]) -> None:
        """Who is there: `id`, `name`, `connections`, ordered by id.  Others have the same list: it stays as it is."""
        ...

    def typing(self, session: str, user: str, typing: bool) -> None: ...


@dataclass(slots=True)
class _Here:
    """A session that somebody has open on this node.  Its `version` is that of what there is to show."""

    partition: int
    attendees: dict[Attendee, Person] = field(default_factory=dict)
    own: Share = field(default_factory=dict)
    others: Share = field(default_factory=dict)  # as last told by a host; unused while this node speaks as the host
    heard: tuple[str, int] = ("", 0)  # who told it, and the number of that message
    unreported: bool = True
    version: int = 0
    fresh: dict[Attendee, int] = field(default_factory=dict)  # who entered since the last flush, at which version
    users: list[dict[str, Any]] = field(default_factory=list)  # as listed at the version `listed`
    listed: int = 0
    shown: list[dict[str, Any]] | None = None  # what all attendees know, as of the version `flushed`
    flushed: int = 0


class Presence:
    """To be used in the event loop.  No more than USERS_MAX people of a session are ever shown, by their ids."""

    def __init__(self, store: Store, node: str, clock: Callable[[], float]) -> None:
        """`clock` is the event loop's, in seconds."""
        self._store = store
        self._node = node
        self._clock = clock
        self._here: dict[str, _Here] = {}
        self._left: dict[str, None] = {}  # sessions that nobody has open here any more, to be said once again
        self._roll = Roll()
        self._hosts = Hosts(node)
        self._post = Post(store, node, self._own, self._besides)
        self._dirty: dict[str, None] = {}  # sessions of which something may have to be told
        self._flushing: asyncio.Handle | None = None
        self._flushed_at = float("-inf")
        self._round: list[str] = []  # the sessions of this round of refreshes, how many are done, and since when
        self._round_done = 0
        self._round_began = float("-inf")
        self._looker: asyncio.Task[None] | None = None
        self._stopped = False

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """To be called when the store is open."""
        self._looker = asyncio.create_task(self._look(), name="presence")

    async def stop(self) -> None:
        """Tell the other nodes that this one's people have gone, and nobody anything after that."""
        self._stopped = True
        if self._flushing is not None:
            self._flushing.cancel()
        if self._looker is not None:
            await end([self._looker])
        gone, self._here = self._here, {}
        for session in (*gone, *self._dirty):
            self._tell_nodes(session, None)
        await self._post.stop()

    # ------------------------------------------------------------------ what connections ask

    def enter(self, session: str, person: Person, attendee: Attendee) -> None:
        """A connection opens a session; `users` says whom it finds there.  Only the first time counts.

        Past SESSIONS_MAX open ones of this node a session is shown to nobody.  Raises ValueError for what cannot be a
        session's id.
        """
        here = self._here.get(session)
        if here is None:
            if self._stopped or len(self._here) >= SESSIONS_MAX:
                return
            here = self._here[session] = _Here(partition_of(session))
            self._left.pop(session, None)
        if attendee in here.attendees:
            return
        here.attendees[attendee] = person
        _, connections = here.own.get(person.id, ("", 0))
        here.own[person.id] = (person.name, connections + 1)
        here.unreported = True
        self._changed(session)
        here.fresh[attendee] = here.version

    def leave(self, session: str, attendee: Attendee) -> None:
        """A connection closes a session, or is lost.  Safe to repeat."""
        here = self._here.get(session)
        person = here.attendees.pop(attendee, None) if here is not None else None
        if here is None or person is None:
            return
        here.fresh.pop(attendee, None)
        name, connections = here.own.pop(person.id)
        if connections > 1:
            here.own[person.id] = (name, connections - 1)
        if not here.attendees:
            del self._here[session]
            if self._hosts.of(here.partition) != self._node and len(self._left) < SESSIONS_MAX:
                self._left[session] = None
        here.unreported = True
        self._changed(session)

    def users(self, session: str) -> list[dict[str, Any]]:
        """Who is there, as an attendee is told, as far as it is known here now.  The list stays as it is."""
        here = self._here.get(session)
        return self._listed(session, here) if here is not None else []

    def typing(self, session: str, user: str, typing: bool, attendee: Attendee) -> None:
        """Tell every other connection that has the session open.  May be lost."""
        here = self._here.get(session)
        if here is None or attendee not in here.attendees:
            return
        self._show_typing(session, user, typing, attendee)
        host = self._hosts.of(here.partition)
        if host == self._node:
            self._pass_on(session, user, typing, self._node)
        elif host is not None and here.others:
            self._post.typing(host, session, user, typing, passed_on=False)

    # ------------------------------------------------------------------ what other nodes say

    def on_message(self, message: bytes) -> bool:
        """Take a message from another node: True where it was one of ours, be it garbage."""
        prefix, said = message[: len(REPORT)], message[len(REPORT) :]
        if prefix not in (REPORT, SUM, TYPING):
            return False
        if self._stopped:
            return True
        try:
            if prefix == REPORT:
                self._on_reports(read_shares(said))
            elif prefix == SUM:
                self._on_sums(read_shares(said))
            else:
                self._on_typings(read_typings(said))
        except ValueError as error:  # not of this version, or no session
            logger.debug("what looks like a word of who is there is none", error=str(error))
        return True

    def _on_reports(self, said: Shares) -> None:
        now = self._clock()
        for session, share in said.shares:
            partition = partition_of(session)
            changes = self._roll.report(session, said.node, said.number, share, now)
            if changes:
                self._changed(session)
            elif changes is not None and self._hosts.speaks_for(partition):
                self._post.answer([said.node], session)

    def _on_sums(self, said: Shares) -> None:
        for session, share in said.shares:
            here = self._here.get(session)
            if here is None or self._hosts.of(here.partition) != said.node:
                continue
            if here.heard[0] == said.node and here.heard[1] > said.number:
                continue
            here.heard = (said.node, said.number)
            if here.others != share:
                here.others = share
                self._changed(session)

    def _on_typings(self, said: Typings) -> None:
        for session, user, typing, passed_on in said.typings:
            self._show_typing(session, user, typing, None)
            if not passed_on and self._hosts.of(partition_of(session)) == self._node:
                self._pass_on(session, user, typing, said.node)

    # ------------------------------------------------------------------ what is told

    def _changed(self, session: str) -> None:
        """There is something new to tell of a session, soon."""
        here = self._here.get(session)
        if here is not None:
            here.version += 1
        self._flush_soon(session)

    def _flush_soon(self, session: str) -> None:
        self._dirty[session] = None
        if self._flushing is None and not self._stopped:
            loop = asyncio.get_running_loop()
            wait_s = self._flushed_at + FLUSH_S - self._clock()
            self._flushing = loop.call_later(wait_s, self._flush) if wait_s > 0 else loop.call_soon(self._flush)

    def _flush(self) -> None:
        sessions = list(islice(self._dirty, FLUSH_SESSIONS))
        for session in sessions:
            del self._dirty[session]
        self._flushing, self._flushed_at = None, self._clock()
        if self._dirty:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)
        for session in sessions:
            here = self._here.get(session)
            self._tell_nodes(session, here)
            if here is not None:
                try:
                    self._show(session, here)
                except Exception:  # the other sessions need not suffer for it
                    logger.exception("a connection could not be told who is there", session=session)

    def _tell_nodes(self, session: str, here: _Here | None) -> None:
        partition = here.partition if here is not None else partition_of(session)
        host = self._hosts.of(partition)
        if host == self._node:
            if self._hosts.speaks_for(partition):
                self._post.answer(self._roll.reporters(session), session)
        elif host is not None and (here is None or here.unreported):
            self._post.report(host, session)
        if here is not None:
            here.unreported = False  # to a host that is not known yet it is reported when it is

    def _show(self, session: str, here: _Here) -> None:
        """Tell those attendees who do not know it yet."""
        fresh, here.fresh = here.fresh, {}
        if here.flushed == here.version:
            return
        here.flushed = here.version
        if all(fresh.get(attendee) == here.version for attendee in here.attendees):
            here.shown = here.users if here.listed == here.version else None  # each asked for itself, or could have
            return
        shown, here.shown = here.shown, self._listed(session, here)
        for attendee in list(here.attendees):
            at = fresh.get(attendee)
            if at != here.version and (at is not None or shown != here.shown):
                attendee.presence(session, here.shown)

    def _listed(self, session: str, here: _Here) -> list[dict[str, Any]]:
        if here.listed != here.version:
            spoken_for = self._hosts.speaks_for(here.partition)
            share = added(self._roll.total(session) if spoken_for else here.others, here.own)
            here.users = [
                {"id": user, "name": share[user][0], "connections": share[user][1]} for user in shown_of(share)
            ]
            here.listed = here.version
        return here.users

    def _show_typing(self, session: str, user: str, typing: bool, besides: Attendee | None) -> None:
        here = self._here.get(session)
        for attendee in list(here.attendees) if here is not None else ():
            if attendee is not besides:
                attendee.typing(session, user, typing)

    def _pass_on(self, session: str, user: str, typing: bool, origin: str) -> None:
        for node in self._roll.reporters(session):
            if node != origin:
                self._post.typing(node, session, user, typing, passed_on=True)

    def _own(self, session: str) -> Share:
        here = self._here.get(session)
        return here.own if here is not None else {}

    def _besides(self, session: str, node: str) -> Share:
        return added(self._roll.total(session, besides=node), self._own(session))

    # ------------------------------------------------------------------ who lives

    async def _look(self) -> None:
        while True:
            try:
                await self._look_once()
            except Exception:
                logger.exception("who is there could not be looked after")
            await asyncio.sleep(ALIVE_S)

    async def _look_once(self) -> None:
        try:
            self._see(await self._store.nodes())
        except EverstreamError as error:
            logger.debug("it is not known who lives", error=error.message)
        now = self._clock()
        for session in self._roll.expire(now - EXPIRE_S):
            self._changed(session)
        self._refresh(now)

    def _see(self, alive: set[str]) -> None:
        now = self._clock()
        gone, moved = self._hosts.see(alive, now + SETTLE_S)
        if moved:
            self._move(moved)
        for node in gone:
            for session in self._roll.forget(node):
                self._changed(session)
        if settled := self._hosts.settle(now):
            self._speak_for(settled)

    def _move(self, moved: set[int]) -> None:
        """These partitions have another host than before."""
        for session in _of(moved, self._roll.sessions()):
            if self._hosts.of(partition_of(session)) != self._node:
                if (here := self._here.get(session)) is not None:
                    here.others = self._roll.total(session)  # till the new host speaks
                self._roll.drop(session)
        for session in _of(moved, self._here):
            self._here[session].unreported = True
            self._flush_soon(session)

    def _speak_for(self, settled: set[int]) -> None:
        """The sums of these partitions are this node's to say, from now on."""
        for session in _of(settled, self._roll.sessions()):
            self._changed(session)
        for session in _of(settled, self._here):
            here = self._here[session]
            if here.others:
                here.others = {}
                self._changed(session)

    def _refresh(self, now: float) -> None:
        """Report again a part of the sessions: as much of all as of REFRESH_S has passed."""
        if self._round_done >= len(self._round) and now - self._round_began >= REFRESH_S:
            self._round = list({**self._here, **self._left})
            self._left.clear()
            self._round_done, self._round_began = 0, now
        due = min(ceil(len(self._round) * (now - self._round_began + ALIVE_S) / REFRESH_S), len(self._round))
        for session in self._round[self._round_done : due]:
            host = self._hosts.of(partition_of(session))
            if host is not None and host != self._node:
                self._post.report(host, session)
        self._round_done = max(due, self._round_done)


def _of(partitions: set[int], sessions: Iterable[str]) -> list[str]:
    return [session for session in sessions if partition_of(session) in partitions]
