"""Sessions of which a connection reads streams, without having them open.

They are read and not shown, for one thing alone: that who is put out of one is shown nothing more of its streams.
"""

from __future__ import annotations

from collections.abc import Iterator

from everstream.gateway.shell import START, Shell
from everstream.runtime.hub import Feed


class Sight:
    """Their reader: it wakes the connection, which takes nothing of them."""

    def __init__(self, shell: Shell) -> None:
        self.wake = shell.wake
        self._shell = shell
        self._feeds: set[Feed] = set()

    def __len__(self) -> int:
        return len(self._feeds)

    def __iter__(self) -> Iterator[Feed]:
        return iter(self._feeds)

    def __contains__(self, feed: Feed) -> bool:
        return feed in self._feeds

    def keep(self, feed: Feed) -> None:
        """Wakes at once: what happened before counts, too."""
        self._feeds.add(feed)
        feed.attach(self, START)

    def lose(self, session: str) -> None:
        for feed in [feed for feed in self._feeds if feed.stream == session]:
            self._feeds.discard(feed)
            feed.detach(self)

    def left(self, session: str) -> None:
        """One of its streams is not read any more; perhaps it was the last one."""
        if self._feeds and not any(feed.owner.session == session for feed in self._shell.reading):
            self.lose(session)

    def end(self) -> None:
        for feed in self._feeds:
            feed.detach(self)
        self._feeds.clear()
