"""The sessions that a connection has open, and what is asked in them.

    session's feed ──new entries──▶ `look` ──▶ no member any more: leave
                                 └▶ `notice` ──▶ turn_start: read its stream too

An open session brings the streams of its turns along, without further asking.  What a `generate` of this very
connection starts is left out until its reply has gone: so the reply comes first.

Streams of a session may be read without it, too.  Then the session is *kept in sight*: it is read, and not shown.
Whoever is put out of it is shown nothing more of its streams either (`look`), from the same turn of the loop on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from everstream.core import commands
from everstream.core.asking import Given
from everstream.core.commands import Id
from everstream.core.errors import EverstreamError
from everstream.core.log import Log, Position
from everstream.core.protocol import error_of, reply
from everstream.core.session import Session, unknown
from everstream.core.session_events import SessionChanged, TurnEnd, TurnStart
from everstream.gateway.reading import read_stream
from everstream.gateway.session_replies import exported, located, opened
from everstream.gateway.shell import START, Shell
from everstream.gateway.sight import Sight
from everstream.runtime import session_orders as orders
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node

logger = structlog.get_logger(__name__)

HISTORY = 50  # messages in a snapshot
SEEK_AGAIN_S, SOUGHT_TIMES = 0.5, 16  # for a stream to be there that its session has named


class Opened:
    """A session that is open here.  `seen`: the entries that were noticed; `streams`: those that were read."""

    __slots__ = ("due", "held", "log", "seen", "streams")

    def __init__(self, log: Log, seen: int) -> None:
        self.log = log
        self.seen = seen
        self.streams: set[str] = set()
        self.held = 0  # replies that have yet to go before streams are read
        self.due: list[str] = []


class OpenSessions:
    def __init__(self, shell: Shell, node: Node) -> None:
        self.opened: dict[Feed, Opened] = {}
        self.sight = Sight(shell)
        self._shell = shell
        self._node = node
        self._sessions = node.sessions

    @property
    def any(self) -> bool:
        """Whether anything of a session is read here."""
        return bool(self.opened or self.sight)

    @property
    def _user(self) -> str:
        return self._shell.user.id

    def end(self) -> None:
        """The connection is over."""
        for feed in self.opened:
            self._node.presence.leave(feed.stream, self._shell)
        self.sight.end()

    # ------------------------------------------------------------------ what happens in them

    def look(self, ready: Iterable[Feed]) -> None:
        """Before anything of these feeds is shown: leave what this user may not read any more."""
        for feed in ready:
            if feed in self.opened or feed in self.sight:
                session = self._sessions.view(feed)
                if not session.may(self._user, "read") and not session.deleted:
                    self._put_out(feed)

    def keep_in_sight(self, name: str) -> None:
        """A stream of this session is read here."""
        if any(feed.stream == name for feed in (*self.opened, *self.sight)):
            return
        feed = self._node.hub.get(name)
        if feed is None:
            self._shell.soon(self._find_and_see(name))
            return
        self.sight.keep(feed)

    async def _find_and_see(self, name: str) -> None:
        try:
            await self._found(name)
        except EverstreamError:
            self._leave_streams(name)
            raise
        self.keep_in_sight(name)

    def notice(self, feed: Feed) -> None:
        """Look at the entries that are about to be shown."""
        known = self.opened[feed]
        session = self._sessions.view(feed)
        log = feed.log
        if known.log is not log:  # another history took its place
            known.log, known.seen = log, log.committed
            for turn in session.busy:
                self._bring(known, turn.stream)
        for entry in log.slice(known.seen, log.committed):
            if isinstance(entry, TurnStart):
                self._bring(known, entry.stream)
            elif isinstance(entry, TurnEnd) and not known.held:
                known.streams.discard(entry.stream)
        known.seen = log.committed

    def shown(self, feed: Feed) -> None:
        """All there is was shown: of a deleted session nothing will ever follow."""
        if self._sessions.view(feed).deleted:
            self._close(feed)

    def _put_out(self, feed: Feed) -> None:
        self._close(feed)
        self._leave_streams(feed.stream)
        self._shell.send(error_of(unknown()) | {"session": feed.stream})

    def _close(self, feed: Feed) -> None:
        if self.opened.pop(feed, None) is None:
            return
        self._node.presence.leave(feed.stream, self._shell)
        self._shell.leave(feed)
        self._leave_streams(feed.stream)

    def _leave_streams(self, session: str) -> None:
        for other in self._shell.reading:
            if other.owner.session == session:
                self._shell.leave(other)
        self.sight.lose(session)

    def _bring(self, known: Opened, stream: str) -> None:
        """Read a stream of an open session, from its start."""
        if stream in known.streams:
            return
        if known.held:
            known.due.append(stream)
            return
        known.streams.add(stream)
        feed = self._node.hub.get(stream)
        if feed is not None:
            if not self._shell.reads(feed):
                self._shell.attach(feed, START, brought=True)
        else:
            self._shell.soon(self._find_and_read(known, stream))

    async def _find_and_read(self, known: Opened, stream: str) -> None:
        feed = await self._found_in_time(known, stream)
        if feed is None:
            known.streams.discard(stream)
        elif known in self.opened.values() and not self._shell.reads(feed):
            self._shell.attach(feed, START, brought=True)

    async def _found_in_time(self, known: Opened, stream: str) -> Feed | None:
        """A stream that its session has named; None where it was erased, or is lost: its turn's end says the rest.

        A store that has failed over may have it only when its leader has sent it again.
        """
        for _ in range(SOUGHT_TIMES):
            if known not in self.opened.values():
                break
            try:
                return await self._node.find(stream)
            except EverstreamError as error:
                logger.info("a stream of a session cannot be read yet", stream=stream, error=error.message)
            await asyncio.sleep(SEEK_AGAIN_S)
        return None

    # ------------------------------------------------------------------ opening and closing

    async def _found(self, name: str) -> tuple[Feed, Session]:
        feed = await self._sessions.find(name, self._user)
        return feed, self._sessions.view(feed)

    def _enter(self, feed: Feed, seen: Position, streams: Iterable[str]) -> Opened:
        limit = self._node.settings.sessions_per_connection
        if feed not in self.opened and len(self.opened) >= limit:
            raise EverstreamError("limit.streams", f"a connection may have {limit} sessions open")
        known = self.opened[feed] = Opened(feed.log, seen.offset)
        known.streams.update(streams)
        self.sight.lose(feed.stream)
        self._node.presence.enter(feed.stream, self._shell.user, self._shell)
        return known

    def _now(self, feed: Feed) -> tuple[int, list[str]]:
        """How far a session has come, and the streams that run in it."""
        running = [turn.stream for turn in self._sessions.view(feed).busy if turn.state == "running"]
        return feed.log.committed, running

    def _begin(self, feed: Feed, known: Opened, seen: Position, told: tuple[int, list[str]]) -> None:
        """Read a session from a place on, and the streams that ran when the client was told what runs.

        Those that have ended since come too, and so do those of the turns that have begun since, when these are shown.
        """
        upto, running = told
        self._shell.attach(feed, seen, brought=True)
        known.seen = max(known.seen, upto)
        for stream in running:
            self._bring(known, stream)

    async def open(self, command: commands.SessionOpen) -> None:
        feed, _ = await self._found(command.session)
        if command.offset is not None and command.epoch is not None:
            feed = await self._node.find_for(command.session, Position(command.epoch, command.offset), self._user)
        place = located(feed.log, command.epoch, command.offset)
        known = self._enter(feed, place or START, (held.stream for held in command.responses))
        session, told = self._sessions.view(feed), self._now(feed)
        fields = await opened(feed, session, place, self._user, command.history, self._node.hub)
        fields["users"] = self._node.presence.users(feed.stream)
        self._shell.send(reply("ok", command.id, **fields))
        for held in command.responses:
            await self._read_on(held)
        self._begin(feed, known, Position(fields["epoch"], fields["offset"]), told)

    async def _read_on(self, held: commands.Resume) -> None:
        try:
            await read_stream(self._shell, self._node, held.stream, held.position, None, brought=True)
        except EverstreamError as error:
            self._shell.send(error_of(error, stream=held.stream))

    async def resume(self, name: str, seen: Position, command_id: Id, streams: Iterable[str]) -> None:
        """Open a session again, at a place.  `streams` are read already."""
        await self._found(name)
        feed = await self._node.find_for(name, seen, self._user)
        session = self._sessions.view(feed)
        log = feed.log
        place = seen if log.locate(seen) is not None else None
        known = self._enter(feed, place or START, streams)
        told = self._now(feed)
        if place is None:
            fields = await opened(feed, session, None, self._user, HISTORY, self._node.hub)
            fields["users"] = self._node.presence.users(name)
            place = Position(fields["epoch"], fields["offset"])
            self._node.counters.snapshots += 1
            frame = reply("snapshot", command_id, stream=name, upto=place.offset, status="open", **fields)
        else:
            frame = reply(
                "subscribed",
                command_id,
                stream=name,
                epoch=log.position(seen.offset).epoch,
                offset=seen.offset,
                tail=log.committed,
                status="open",
            )
        self._shell.send(frame)
        self._begin(feed, known, place, told)

    def close(self, name: str) -> None:
        for feed in list(self.opened):
            if feed.stream == name:
                self._close(feed)

    # ------------------------------------------------------------------ turns

    async def generate(self, command: commands.Generate) -> None:
        """Send a message, or have one answered anew.  Without `session` it makes one."""
        request = self._shell.standing.paying(command.request())
        if self._node.draining:
            raise EverstreamError("node.draining", "this server is going away: connect again")
        name = command.session
        if name is None:
            made_by = None if command.request_id is None else f"generate {command.request_id}"
            name = await self._sessions.create(self._user, SessionChanged(model=command.model), {}, made_by)
        parent = command.parent
        follows = parent is msgspec.UNSET
        order = orders.Send(
            self._user,
            request,
            command.content,
            None if isinstance(parent, msgspec.UnsetType) else parent,
            follows and command.content is not None,
            command.on_busy,
            command.request_id,
        )
        try:
            await self._accept(name, order, command.id)
        except EverstreamError as error:
            if command.session is None and error.code != "store.unavailable":  # then it may be done all the same
                await self._withdraw(name)
            raise

    async def _withdraw(self, name: str) -> None:
        """Erase a session that was made for a message which cannot be sent."""
        with contextlib.suppress(EverstreamError):
            _, session = await self._found(name)
            if not session.messages and not session.turns:
                await self._sessions.perform(name, orders.Delete(self._user))

    async def _accept(self, name: str, order: orders.Order, command_id: Id) -> None:
        """Give an order that makes a stream: the reply first, then the stream from 0."""
        known = next((opened for feed, opened in self.opened.items() if feed.stream == name), None)
        if known is not None:
            known.held += 1
        try:
            fields = await self._sessions.perform(name, order)
            if "missing" in fields:
                self._shell.send(reply("ok", command_id, session=name, **fields))
                return
            feed = await self._node.find(fields["stream"])
            self._shell.send(reply("accepted", command_id, session=name, **fields))
            if known is not None:
                known.streams.add(feed.stream)
            self._shell.attach(feed, START, brought=known is not None)
        finally:
            if known is not None:
                known.held -= 1
                due, known.due = known.due, []
                for stream in due:
                    self._bring(known, stream)

    async def cancel(self, name: str) -> list[str]:
        """Stop all that runs in a session; its streams."""
        await self._found(name)
        streams: list[str] = (await self._sessions.perform(name, orders.Stop(self._user)))["streams"]
        return streams

    async def tool_result(self, command: commands.ToolResult) -> None:
        results = [Given(given.call_id, _as_text(given.content), given.is_error) for given in command.results]
        await self._accept(command.session, orders.Results(self._user, command.stream, results), command.id)

    async def tool_approval(self, command: commands.ToolApproval) -> dict[str, Any]:
        approvals = {given.call_id: None if given.approved else given.reason or "" for given in command.approvals}
        return await self._sessions.perform(command.session, orders.Approve(self._user, command.stream, approvals))

    # ------------------------------------------------------------------ the rest

    async def create(self, command: commands.SessionCreate) -> dict[str, Any]:
        if command.model:
            commands.check_model(command.model)
        members = {member.user: member.role for member in command.members}
        changed = SessionChanged(command.title, command.system, command.model)
        return {"session": await self._sessions.create(self._user, changed, members, command.request_id)}

    async def update(self, command: commands.SessionUpdate) -> dict[str, Any]:
        if command.model:
            commands.check_model(command.model)
        order = orders.Update(self._user, command.title, command.system, command.model)
        return await self._sessions.perform(command.session, order)

    async def delete(self, command: commands.SessionDelete) -> dict[str, Any]:
        return await self._sessions.perform(command.session, orders.Delete(self._user))

    async def add_member(self, command: commands.MemberAdd) -> dict[str, Any]:
        return await self._sessions.perform(command.session, orders.Member(self._user, command.user, command.role))

    async def remove_member(self, command: commands.MemberRemove) -> dict[str, Any]:
        return await self._sessions.perform(command.session, orders.Member(self._user, command.user, None))

    async def list(self, command: commands.SessionList) -> dict[str, Any]:
        shown, below = await self._sessions.index.page(self._user, _cursor(command.before), command.limit)
        return {"sessions": shown, "next": None if below is None else f"{below[0]}:{below[1]}"}

    async def history(self, command: commands.SessionHistory) -> dict[str, Any]:
        _, session = await self._found(command.session)
        messages, more = session.page(command.before, command.limit)
        return {"session": command.session, "messages": messages, "more": more}

    async def export(self, command: commands.SessionExport) -> dict[str, Any]:
        _, session = await self._found(command.session)
        content = exported(command.session, session, command)
        return {"session": command.session, "format": command.format, "content": content}

    async def typing(self, command: commands.Typing) -> None:
        _, session = await self._found(command.session)
        session.demand(self._user, "send")
        self._node.presence.typing(command.session, self._user, command.typing, self._shell)


def _cursor(before: str | None) -> tuple[int, str] | None:
    """Where a page of the list begins.  Raises EverstreamError `request.invalid` for what no list has said."""
    if before is None:
        return None
    score, colon, member = before.partition(":")
    if not (colon and member and score.isascii() and score.isdecimal()):
        raise EverstreamError("request.invalid", "`before` is what an earlier `session.list` gave as `next`")
    return int(score), member


def _as_text(content: Any) -> str:
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()
