"""What was true, what the store holds and what each client was shown: compared, and put into one line of figures.

Truth is a pure function: `scripted/count` says 1, 2, 3, … and nothing else.  A `Shown` is one stream as one client was
shown it: every frame by its offsets, with its time.  It judges each frame when it comes (a hole, an overlap, something
after the end, a snapshot that takes back what was shown), and all of them at the end against the store and the truth.

    lost        tokens of the truth that a client's final text does not have
    doubled     entries that came again after they had been shown
    changed     frames whose text is not what the store holds there, or texts that are not the truth
    silent      entries skipped without a word
    announced   entries that a snapshot took back; allowed, where nobody has them any more
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

from tests.chaos.socket_line import Frame

from everstream.core.events import DeltaText, StreamEnd
from everstream.store.base import State, Store, StoreUnavailable

ZERO_EVENTS_95 = 3.0  # no event in N trials: with 95 % certainty fewer than 3 in N ("rule of three")
PAUSES_MAX = 200_000
READ_S, READ_AGAIN_S = 15.0, 0.05


def count_text(tokens: int) -> str:
    return " ".join(str(n) for n in range(1, tokens + 1))


@dataclass(slots=True)
class Figures:
    """What a scenario amounts to.  Counts are entries where not said otherwise; times are seconds."""

    streams: int = 0
    shown: int = 0
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    silent: int = 0
    announced: int = 0
    after_end: int = 0
    endless: int = 0  # streams whose end a client never saw, or the store does not hold
    seams: int = 0
    returns: int = 0  # connections made again
    snapshots: int = 0
    pauses_s: list[float] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        for each in fields(self):
            if each.name == "pauses_s":
                self.pauses_s += other.pauses_s[: PAUSES_MAX - len(self.pauses_s)]
            else:
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def wrong(self) -> dict[str, int]:
        """What must not be, where it is.  Announced losses are for the scenario to judge."""
        names = ("lost", "doubled", "changed", "silent", "after_end", "endless")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def line(self, scenario: str, faults: int = 0, **more: object) -> str:
        bad = self.lost + self.doubled + self.changed + self.silent
        bound = (
            f"; with 95 % certainty fewer than {100 * ZERO_EVENTS_95 / faults:.1f} in 100 faults lose any"
            if faults >= ZERO_EVENTS_95 and not bad
            else ""
        )
        pause = (
            f"pause p50 {quantile(self.pauses_s, 0.5):.2f} p99 {quantile(self.pauses_s, 0.99):.2f} "
            f"max {max(self.pauses_s):.2f} s; "
            if self.pauses_s
            else ""
        )
        extra = "".join(f"; {name.replace('_', ' ')} {value}" for name, value in more.items())
        return (
            f"{scenario}: {faults} faults, {self.streams} streams, {self.shown} entries shown; lost {self.lost}, "
            f"doubled {self.doubled}, changed {self.changed}, silent gaps {self.silent}, announced {self.announced}; "
            f"{pause}seams {self.seams}, returns {self.returns}, snapshots {self.snapshots}{extra}{bound}"
        )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A frame with entries, as it was shown."""

    at: float
    after: int
    upto: int
    kind: str
    text: str


class Shown:
    """One stream as one client was shown it."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.offset = 0
        self.epoch: int | None = None
        self.pieces: list[Piece] = []
        self.end: Frame | None = None
        self.figures = Figures()
        self._base = ""  # what a snapshot put in place of all before it

    @property
    def text(self) -> str:
        return self._base + "".join(piece.text for piece in self.pieces)

    @property
    def place(self) -> Frame:
        """The position, as a `subscribe` or a `hello` names it."""
        place: Frame = {"stream": self.stream}
        return place if self.epoch is None else {**place, "epoch": self.epoch, "offset": self.offset}

    def take(self, frame: Frame, at: float) -> None:
        kind = frame["type"]
        if kind == "snapshot":
            self._replace(frame)
        elif kind in ("accepted", "subscribed"):
            self._grow(frame["epoch"])
            if kind == "subscribed" and frame["offset"] != self.offset:
                self.figures.silent += abs(frame["offset"] - self.offset)
        elif "upto" in frame:
            self._enter(kind, frame, at)

    def _enter(self, kind: str, frame: Frame, at: float) -> None:
        after, upto, figures = frame["after"], frame["upto"], self.figures
        if self.end is not None:
            figures.after_end += upto - after
        if after < self.offset:
            figures.doubled += min(upto, self.offset) - after
        elif after > self.offset:
            figures.silent += after - self.offset
        self.offset = max(upto, self.offset)
        if kind == "seam":
            figures.seams += 1
            self._grow(frame["epoch"])
        elif kind == "request_start":
            self._grow(frame["epoch"])
        elif kind == "stream_end":
            self.end = frame
        figures.shown += upto - after
        text = frame["text"] if kind == "delta_text" else ""
        self.pieces.append(Piece(at, after, upto, kind, text))

    def _grow(self, epoch: int) -> None:
        self.epoch = max(epoch, self.epoch or 0)

    def _replace(self, frame: Frame) -> None:
        """A snapshot: it may say more than we hold, or say openly that there is less.

        Another history may have more entries and less text: a seam is an entry too.
        """
        held, told, figures = self.text, frame["text"], self.figures
        figures.snapshots += 1
        if not told.startswith(held) and not held.startswith(told):
            figures.changed += 1
        figures.announced += max(self.offset - frame["upto"], len(held[len(told) :].split()), 0)
        self.offset, self.epoch, self.end = frame["upto"], frame["epoch"], frame["end"]
        self._base, self.pieces = frame["text"], []

    # ------------------------------------------------------------------ at the end

    def judge(self, truth: str, kept: Kept | None, *, whole: bool = True) -> Figures:
        """Compare with the truth and with the store.  `whole`: the text has to be all of the truth."""
        figures, text = self.figures, self.text
        figures.streams = 1
        if self.end is None:
            figures.endless += 1
        if not truth.startswith(text):
            figures.changed += 1
        elif whole and len(text) < len(truth):
            figures.lost += len(truth[len(text) :].split())
        if kept is not None:
            figures.changed += sum(not kept.has(piece) for piece in self.pieces)
            figures.changed += kept.text != text
        return figures

    def pause_to_reign(self, at: float) -> float | None:
        """Seconds from `at` to the first entry of the next leader; None where none came."""
        return next((piece.at - at for piece in self.pieces if piece.kind == "seam" and piece.at >= at), None)

    def longest_pause(self, since: float) -> float:
        """The longest time between two neighbouring entries, the second of which came after `since`."""
        times = [piece.at for piece in self.pieces]
        return max((b - a for a, b in pairwise(times) if b >= since), default=0.0)


class Kept:
    """A stream as the store holds it at the end."""

    def __init__(self, state: State) -> None:
        self.epochs = state.head.epochs
        self.tail = state.head.tail
        self.ended = state.head.ended
        self._base = state.after
        self._texts = [entry.text if isinstance(entry, DeltaText) else "" for entry in state.entries]
        self.text = state.summary.text + "".join(self._texts)
        ends = [isinstance(entry, StreamEnd) for entry in state.entries]
        self.ends_once = sum(ends) == 1 and ends[-1] if ends else state.summary.end is not None

    def has(self, piece: Piece) -> bool:
        """Whether the store holds, at that place, what was shown."""
        if piece.after < self._base:  # folded since
            return True
        return "".join(self._texts[piece.after - self._base : piece.upto - self._base]) == piece.text


async def kept_by(store: Store, streams: Iterable[str]) -> dict[str, Kept]:
    """What the store holds of these streams, read through the class that the servers use.

    A connection from before a fault is found dead by the first call on it; so a call is made again, for `READ_S`.
    Raises StoreUnavailable after that.
    """
    deadline, kept = time.monotonic() + READ_S, {}
    for stream in streams:
        while True:
            try:
                state = await store.read(stream)
                break
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(READ_AGAIN_S)  # pause: between two tries to reach the store
        if state is not None:
            kept[stream] = Kept(state)
    return kept


def judged(shown: Iterable[Shown], kept: dict[str, Kept], truths: dict[str, str], *, whole: bool = True) -> Figures:
    """All clients' streams against the store and the truth.  Each stream has to have ended once, in the store too."""
    total = Figures()
    seen = set()
    for each in shown:
        total.add(each.judge(truths[each.stream], kept.get(each.stream), whole=whole))
        seen.add(each.stream)
    total.streams = len(seen)
    total.endless += sum(stream not in kept or not (kept[stream].ended and kept[stream].ends_once) for stream in seen)
    return total
