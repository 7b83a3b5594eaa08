"""Who listens in the fan-out: a model that keeps time, readers without a socket, and one that takes nothing.

A `Reader` here does what a connection does, and nothing else: it is woken, and in the next turn of the loop takes what
is new by its cursor, ready-made and joined.  What it was given it keeps, as references to frames that all share, so
that afterwards every token of every reader can be looked at.

A token carries the moment at which it was *due*, not at which it was made: where fan-out holds up the loop, and with it
the model, the delay is the readers' all the same.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable

from everstream.core.cursor import Run
from everstream.core.events import Continuation, DeltaText, Finish, HeadersReceived, Request, Usage
from everstream.core.log import Position
from everstream.core.wire import Encoding
from everstream.gateway.frames import FramedEncoder
from everstream.providers.base import Batch, ModelInfo, Progress
from everstream.runtime.hub import Feed

BULK_ENTRIES = 64
BULK_CHARS = 65_536  # in all 4 MiB: more than a socket takes whose peer does not read
LEAST_SLEEP_S = 0.0005
STAMP = re.compile(rb"@([0-9a-f]{15}) ")
START = Position(0, 0)


class Metronome:
    """The provider `metronome`.  `metronome/beat` says `tokens`, `per_s` of them, once `go` is set; `metronome/bulk`
    says more than a socket holds, at once."""

    name = "metronome"

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.tokens = 0
        self.per_s = 1.0

    async def models(self) -> list[ModelInfo]:
        return []

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    def check(self, request: Request) -> None:
        """It says the same whatever is asked."""

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        return None

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Nothing runs on."""

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
        yield (HeadersReceived(at=int(time.time() * 1000)),)
        if request.model_name == "bulk":
            for _ in range(BULK_ENTRIES):
                yield (DeltaText("." * BULK_CHARS),)
        else:
            await self.go.wait()
            start_ns, made = time.monotonic_ns(), 0
            while made < self.tokens:
                due = int((time.monotonic_ns() - start_ns) * self.per_s / 1e9) + 1
                dues = [start_ns + int(n * 1e9 / self.per_s) for n in range(made, min(due, self.tokens))]
                made += len(dues)
                if dues:
                    yield [DeltaText(f"@{due_ns:015x} ") for due_ns in dues]
                left_s = made / self.per_s - (time.monotonic_ns() - start_ns) / 1e9
                await asyncio.sleep(max(left_s, LEAST_SLEEP_S))  # pause: until the next token is due
        yield (Finish("stop", Usage(1, self.tokens, self.tokens + 1, "provider")),)  # or they would be counted here


class CountingEncoder(FramedEncoder):
    """The connections' own encoder, which counts how often a token was encoded."""

    def __init__(self) -> None:
        super().__init__(Encoding.JSON)
        self.frames = 0  # with text in them

    def entry(self, stream: str, run: Run) -> bytes:
        if type(run.event) is DeltaText:
            self.frames += 1
        return super().entry(stream, run)


class Reader:
    """One reader without a socket, as cheap and as dear as a connection's own part."""

    __slots__ = ("_encoder", "_flushing", "_loop", "_ready", "frames", "written")

    def __init__(self, loop: asyncio.AbstractEventLoop, encoder: CountingEncoder) -> None:
        self._loop = loop
        self._encoder = encoder
        self._ready: dict[Feed, None] = {}
        self._flushing = False
        self.frames: list[bytes] = []  # all it was ever given
        self.written = b""  # in place of a socket

    def wake(self, feed: Feed) -> None:
        self._ready[feed] = None
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        ready, self._ready = self._ready, {}
        frames: list[bytes] = []
        for feed in ready:
            frames += self._take(feed)
        if frames:
            self.frames += frames
            self.written = frames[0] if len(frames) == 1 else b"".join(frames)

    def _take(self, feed: Feed) -> list[bytes]:
        cursor = feed.cursors.get(self)
        if cursor is None:
            return []
        log = feed.log
        frames = feed.take(cursor, self._encoder) if cursor.offset < log.committed else []
        if cursor.offset < log.committed:
            self.wake(feed)
        elif log.ended:
            feed.detach(self)
        return frames


class WatchedReader(Reader):
    """One of many that looks at the clock."""

    __slots__ = ("taken_ns",)

    def __init__(self, loop: asyncio.AbstractEventLoop, encoder: CountingEncoder) -> None:
        super().__init__(loop, encoder)
        self.taken_ns: list[int] = []  # for each of `frames`, when it was taken

    def _take(self, feed: Feed) -> list[bytes]:
        frames = super()._take(feed)
        self.taken_ns += [time.monotonic_ns()] * len(frames)
        return frames

    def arrivals(self) -> dict[int, int]:
        """When each token came (ns), by the moment it was due."""
        return {
            stamp: at_ns for frame, at_ns in zip(self.frames, self.taken_ns, strict=True) for stamp in stamps(frame)
        }


class StuckReader:
    """One that is woken, and never takes anything."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self, feed: Feed) -> None:
        self.woken += 1


def stamps(frame: bytes) -> list[int]:
    """The moments that a frame's tokens were due."""
    return [int(digits, 16) for digits in STAMP.findall(frame)]


def frames_with_tokens(readers: Iterable[Reader], due: list[int]) -> tuple[int, int]:
    """How many such frames the readers were given in all, and how many readers did not get each token just once, in
    order.  `due` is what the log says."""
    frames = faulty = 0
    histories = Counter(tuple(reader.frames) for reader in readers)  # in step, they are all the same
    for history, count in histories.items():
        found = [stamps(frame) for frame in history]
        frames += count * sum(map(bool, found))
        if [stamp for of_frame in found for stamp in of_frame] != due:
            faulty += count
    return frames, faulty
