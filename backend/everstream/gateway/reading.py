"""How a connection begins to read a stream at a place."""

from __future__ import annotations

from everstream.core import protocol
from everstream.core.commands import Id
from everstream.core.cursor import Cursor
from everstream.core.log import Position
from everstream.core.protocol import reply
from everstream.gateway.shell import Shell
from everstream.runtime.node import Node


async def read_stream(
    shell: Shell, node: Node, stream: str, seen: Position, command_id: Id, *, brought: bool = False
) -> None:
    """Answer with the reader's place and read on from there; or with a snapshot where the place is unknown.

    Raises EverstreamError.
    """
    feed = await node.find_for(stream, seen, shell.user.id)
    if not brought and not shell.reads(feed):
        with shell.room():
            pass
    log = feed.log
    if Cursor.at(log, seen).lost:
        shell.send(shell.snapshot(log, command_id))
        shell.attach(feed, log.position(log.committed), brought=brought)
        return
    shell.send(
        reply(
            "subscribed",
            command_id,
            stream=stream,
            epoch=log.position(seen.offset).epoch,
            offset=seen.offset,
            tail=log.committed,
            status=protocol.status_of(log),
        )
    )
    shell.attach(feed, seen, brought=brought)
