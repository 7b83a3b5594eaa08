"""What nodes tell each other about who is there: its form, and its way out.

What is to be told to a node is noted by name only, and looked up when its turn has come: however slow the store is, a
node is told how things are now, once.  Each node has a task of its own while there is something for it, so that one
whose part of the store is away holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count, islice

import msgspec
import structlog

from everstream.core.errors import EverstreamError
from everstream.runtime.ending import end
from everstream.runtime.presence_host import Share
from everstream.store.base import Store

logger = structlog.get_logger(__name__)

USERS_MAX = 1_000  # of a session, by id; others are not told of
MESSAGE_SESSIONS = 256
MESSAGE_USERS = 2_000  # the session with which a message has so many is its last one
TYPINGS_MAX = 4_096  # on their way to a node; more are lost
LAST_S = 2.0  # for what is on its way when the node stops
REPORT, SUM, TYPING = b"pres ", b"here ", b"type "


class Shares(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A report, or the host's answer.  Of two of a node's, the one with the higher number was made later."""

    node: str
    number: int
    shares: list[tuple[str, Share]]  # session, people


class Typings(msgspec.Struct, array_like=True, frozen=True, gc=False):
    node: str
    typings: list[tuple[str, str, bool, bool]]  # session, user, whether he types, whether the host has passed it on


read_shares = msgspec.msgpack.Decoder(Shares).decode
read_typings = msgspec.msgpack.Decoder(Typings).decode
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class _Outbox:
    """What a node is to be told."""

    reports: dict[str, None] = field(default_factory=dict)
    sums: dict[str, None] = field(default_factory=dict)
    typings: dict[tuple[str, str], tuple[bool, bool]] = field(default_factory=dict)


class Post:
    def __init__(
        self, store: Store, node: str, own: Callable[[str], Share], besides: Callable[[str, str], Share]
    ) -> None:
        """`own` are this node's people in a session, `besides` all that this host knows of but those of a node."""
        self._store = store
        self._node = node
        self._own = own
        self._besides = besides
        self._numbers = count(1)
        self._outboxes: dict[str, _Outbox] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}

    def report(self, host: str, session: str) -> None:
        self._outbox(host).reports[session] = None

    def answer(self, nodes: Iterable[str], session: str) -> None:
        for node in nodes:
            self._outbox(node).sums[session] = None

    def typing(self, node: str, session: str, user: str, typing: bool, *, passed_on: bool) -> None:
        typings = self._outbox(node).typings
        if len(typings) < TYPINGS_MAX:
            typings[session, user] = (typing, passed_on)

    async def stop(self) -> None:
        """Give what is on its way a little time."""
        if self._senders:
            await asyncio.wait(self._senders.values(), timeout=LAST_S)
        await end(self._senders.values())

    def _outbox(self, node: str) -> _Outbox:
        """The node's, which is sent from the next turn of the loop on."""
        outbox = self._outboxes.get(node)
        if outbox is None:
            outbox = self._outboxes[node] = _Outbox()
            self._senders[node] = asyncio.create_task(self._send(node, outbox), name=f"presence to {node}")
        return outbox

    async def _send(self, node: str, outbox: _Outbox) -> None:
        try:
            while message := self._next_message(node, outbox):
                await self._store.send(node, message)
        except EverstreamError as error:  # the store is away: all this is said again with the next refresh
            logger.debug("another node could not be told who is there", node=node, error=error.message)
        except Exception:
            logger.exception("another node could not be told who is there", node=node)
        finally:
            del self._outboxes[node], self._senders[node]

    def _next_message(self, node: str, outbox: _Outbox) -> bytes:
        """Empty where there is nothing more to say."""
        if outbox.reports:
            return REPORT + self._shares(outbox.reports, self._own)
        if outbox.sums:
            return SUM + self._shares(outbox.sums, lambda session: self._besides(session, node))
        if outbox.typings:
            typings = [(session, user, *said) for (session, user), said in outbox.typings.items()]
            outbox.typings.clear()
            return TYPING + _encode(Typings(self._node, typings))
        return b""

    def _shares(self, sessions: dict[str, None], share_of: Callable[[str], Share]) -> bytes:
        shares: list[tuple[str, Share]] = []
        users = 0
        for session in list(islice(sessions, MESSAGE_SESSIONS)):
            del sessions[session]
            share = share_of(session)
            if len(share) > USERS_MAX:
                share = {user: share[user] for user in shown_of(share)}
            shares.append((session, share))
            users += len(share)
            if users >= MESSAGE_USERS:
                break
        return _encode(Shares(self._node, next(self._numbers), shares))


def shown_of(share: Share) -> list[str]:
    """The people of a session who are told of, by their ids."""
    return sorted(share)[:USERS_MAX]
