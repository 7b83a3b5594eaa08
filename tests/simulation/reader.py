"""A client, exactly as section 1 of the protocol describes one, and the socket it hangs on.

It knows its position `(epoch, offset)` and what the frames so far add up to.  A frame with `after == offset` is
applied, one with `upto <= offset` ignored, one with `after > offset` is a hole: it subscribes again from where it is.
A frame that names an epoch sets it; a snapshot replaces everything.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from everstream.core.cursor import Cursor, Run
from everstream.core.events import Event, RequestStart, Seam
from everstream.core.log import Position
from everstream.core.summary import NOTHING, Summary, fold
from tests.simulation.truth import Broken, Witness

if TYPE_CHECKING:
    from tests.simulation.node import Node


@dataclass(frozen=True, slots=True)
class Subscribed:
    epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    epoch: int
    upto: int
    summary: Summary


Frame = Subscribed | Snapshot | Run


@dataclass(slots=True, eq=False)
class Link:
    """One socket: the node's side is `cursor` (None until the position is settled), the client's side `inbox`."""

    reader: Reader
    node: Node
    stream: str
    seen: Position
    since: int  # the step at which `seen` was asked for
    cursor: Cursor | None = None
    answered: bool = False  # it was told where it is
    inbox: deque[Frame] = field(default_factory=deque)
    leaky: bool = False  # it lost a frame


class Reader:
    __slots__ = ("entries", "epoch", "link", "name", "offset", "snapshots", "stream", "summary", "waiting", "witness")

    def __init__(self, name: str, stream: str, witness: Witness) -> None:
        self.name = name
        self.stream = stream
        self.witness = witness
        self.link: Link | None = None
        self.waiting = False  # asked to be subscribed, not answered yet
        self.epoch = self.offset = self.snapshots = 0
        self.summary = NOTHING
        self.entries: list[Event] = []

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)

    def receive(self, frame: Frame) -> bool:
        """Take the next frame.  False when it must subscribe again."""
        if isinstance(frame, Run):
            return self._apply(frame)
        if isinstance(frame, Subscribed):
            if frame.offset != self.offset or (self.offset and frame.epoch != self.epoch):
                raise Broken(f"{self.name} at {self.position} was subscribed at ({frame.epoch}, {frame.offset})")
            self.epoch = frame.epoch
        else:
            self.witness.replaced(self.stream, frame.epoch, frame.upto, frame.summary, self.summary, self.offset)
            self.epoch, self.offset, self.summary = frame.epoch, frame.upto, frame.summary
            self.snapshots += 1
        self.waiting = False
        return True

    def _apply(self, run: Run) -> bool:
        if self.waiting or run.upto <= self.offset:
            return True
        if run.after > self.offset:
            return False
        if run.after < self.offset:
            raise Broken(f"{self.name} at {self.offset} was sent ({run.after}, {run.upto}]")
        if self.summary.end is not None:
            raise Broken(f"{self.name} was sent ({run.after}, {run.upto}] after the end")
        if isinstance(run.event, Seam | RequestStart):
            if run.event.epoch < self.epoch:
                raise Broken(f"{self.name}: the epoch went from {self.epoch} to {run.event.epoch}")
            self.epoch = run.event.epoch
        self.entries += self.witness.shown(self.stream, self.epoch, run)
        self.summary = fold((run.event,), self.summary)
        self.offset = run.upto
        return True
