"""What a session looks like in a reply: as a whole, by pages, as a document."""

from __future__ import annotations

from typing import Any

from everstream.core.commands import SessionExport
from everstream.core.errors import EverstreamError
from everstream.core.log import Log, Position
from everstream.core.session import Session
from everstream.gateway.session_export import as_json, as_markdown, members_of
from everstream.runtime.hub import Feed, Hub


async def opened(
    feed: Feed, session: Session, place: Position | None, user: str, history: int, hub: Hub
) -> dict[str, Any]:
    """The fields of the reply to `session.open`, and of a session's `snapshot`: as of now.

    `messages` are those up to `place`, which the reply repeats; None: up to the newest that may be shown.  What is
    queued stands behind what runs, the next to start first.
    """
    log = feed.log
    at = log.position(log.committed) if place is None else Position(log.position(place.offset).epoch, place.offset)
    there = session if place is None or place.offset == log.committed else Session(log.slice(0, place.offset))
    messages, more = there.page(None, history) if history else ([], bool(there.messages))
    # All of one moment: while streams are looked for below, the session goes on.
    running = [turn.shown() for turn in (*session.busy, *session.queue)]
    fields = {
        "session": feed.stream,
        "title": session.title,
        "system": session.system,
        "model": session.model,
        "created": session.created,
        "role": session.members.get(user),
        "members": members_of(session),
        "messages": messages,
        "more": more,
        "epoch": at.epoch,
        "offset": at.offset,
    }
    return fields | {"running": [shown | {"epoch": await _epoch(shown["stream"], hub)} for shown in running]}


async def _epoch(stream: str, hub: Hub) -> int:
    """The reign in which a stream began; 0 where that is not known now."""
    try:
        feed = await hub.find(stream)
    except EverstreamError:
        return 0
    return feed.log.position(0).epoch if feed is not None else 0


def located(log: Log, epoch: int | None, offset: int | None) -> Position | None:
    """The place in a session's history that a client holds; None where it is no history, or none was given."""
    if offset is None or offset > log.committed:
        return None
    seen = Position(log.position(offset).epoch if epoch is None else epoch, offset)
    return seen if log.locate(seen) is not None else None


def exported(name: str, session: Session, command: SessionExport) -> str:
    """Raises EverstreamError `request.not_found` for a message that is not there."""
    if command.message is not None and command.message not in session.messages:
        raise EverstreamError("request.not_found", "`message` names no message of this session")
    if command.format == "markdown":
        return as_markdown(session, session.path(command.message or session.head))
    every = session.messages.values() if command.message is None else session.path(command.message)
    return as_json(name, session, every)
