"""A connection, as those see it who answer its commands."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from everstream.core.commands import Id
from everstream.core.log import Log, Position
from everstream.gateway.standing import Standing
from everstream.runtime.hub import Feed
from everstream.runtime.presence import Person

START = Position(0, 0)


class Shell(Protocol):
    """What is needed of the connection."""

    id: str
    standing: Standing

    @property
    def user(self) -> Person: ...

    @property
    def reading(self) -> list[Feed]: ...

    def wake(self, feed: Feed) -> None:
        """There is more on a feed."""
        ...

    def send(self, frame: dict[str, Any]) -> None: ...

    def attach(self, feed: Feed, seen: Position, *, brought: bool = False) -> None:
        """Read a feed from a place on.  `brought` ones come with a session, and count for nothing."""
        ...

    def room(self) -> AbstractContextManager[None]:
        """Room for one more stream while it is being found.  Raises EverstreamError `limit.streams`."""
        ...

    def snapshot(self, log: Log, command_id: Id = None) -> dict[str, Any]: ...

    def goaway(self, after_ms: int, reason: str) -> None: ...

    def leave(self, feed: Feed) -> None: ...

    def reads(self, feed: Feed) -> bool: ...

    def soon(self, work: Any) -> None:
        """Do it beside everything else; what fails is said to the client."""
        ...

    def presence(self, session: str, users: list[dict[str, Any]]) -> None: ...

    def typing(self, session: str, user: str, typing: bool) -> None: ...
