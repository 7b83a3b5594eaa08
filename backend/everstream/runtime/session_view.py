"""A session as its readers see it: folded as far as it is stored, and kept with its feed."""

from __future__ import annotations

from everstream.core.lease import partition_of
from everstream.core.log import Log
from everstream.core.session import Session
from everstream.runtime.meta import is_session


class View:
    """A session folded as far as its readers may see."""

    __slots__ = ("log", "offset", "session")

    def __init__(self, log: Log) -> None:
        self.log = log
        self.offset = 0
        self.session = Session()

    def catch_up(self) -> None:
        log = self.log
        if self.offset < log.committed:
            for entry in log.slice(self.offset, log.committed):
                self.session.apply(entry)
            self.offset = log.committed


def may_be_session(name: str) -> bool:
    try:
        partition_of(name)
    except ValueError:
        return False
    return is_session(name)
