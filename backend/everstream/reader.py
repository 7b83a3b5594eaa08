"""One stream as a client reads it: what has come, what of it the reader has been given, and the place to go on from.

Frames go into the stream's `StreamState` at once.  They also wait for whoever iterates, but not without bound: if too
many wait they are dropped, and the reader gets one `snapshot` frame of the state instead, which stands for them all.
(A stream that is read from a later place than its start has no such state: there they are merged.)

So a stream has two places: how far it has come (`state.position`), and how far its reader has (`Stream.position`).
The second is the one to save.  It also counts the characters of answer text given so far: where the server can only
answer a position with a snapshot, the text goes on behind that many characters, and nothing is given twice.

Text that was given can be withdrawn in two ways: by a `seam` that says `restart`, and by a `snapshot` that says
something else than what was given (a store that lost its tail together with the node that wrote it).  Frames say so by
themselves; an iteration over text raises `TextWithdrawn`, and goes on if it is asked to.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from everstream.core.errors import EverstreamError
from everstream.link import error_in
from everstream.reducer import Frame, StreamState, Verdict

FRAMES_WAITING_MAX = 256  # of one stream, for its reader
# The entries that may be merged with their neighbours of the same kind, and the field that grows.
MERGED = {"delta_text": "text", "delta_thinking": "text", "delta_refusal": "text", "delta_tool_call": "arguments"}
_SAVED = re.compile(r"(?P<stream>[^@]+)@(?P<epoch>\d*):(?P<offset>\d+)(?::(?P<characters>\d+))?")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a stream: behind the entry `offset`, and `characters` of its answer text.

    `str(position)` can be kept anywhere; `Position.parse` makes it a position again.
    """

    stream: str
    epoch: int | None = None  # None: no server has named one yet, so nothing has been read
    offset: int = 0
    characters: int = 0

    def __str__(self) -> str:
        return f"{self.stream}@{'' if self.epoch is None else self.epoch}:{self.offset}:{self.characters}"

    @classmethod
    def parse(cls, saved: str) -> Position:
        """The position that `str` made.  Raises ValueError for anything else."""
        found = _SAVED.fullmatch(saved)
        if found is None:
            raise ValueError(f"not a position in a stream: {saved!r}")
        epoch = int(found["epoch"]) if found["epoch"] else None
        return cls(found["stream"], epoch, int(found["offset"]), int(found["characters"] or 0))


@dataclass(frozen=True, slots=True)
class Result:
    """A whole answer.  `partial`: it ended in another way than by being complete, and this is what there is of it.

    `usage`, `cost` and `metrics` are as in `stream_end`, which `end` is; None where nobody knows them.
    """

    stream: str
    text: str
    thinking: str
    refusal: str
    tool_calls: list[Frame]  # {index, call_id, name, arguments}; the arguments are JSON text
    end: Frame

    @property
    def reason(self) -> str:
        """complete, cancelled, failed, interrupted or budget."""
        return str(self.end.get("reason"))

    @property
    def finish_reason(self) -> str | None:
        return self.end.get("finish_reason")

    @property
    def partial(self) -> bool:
        return self.reason != "complete"

    @property
    def usage(self) -> Frame | None:
        return self.end.get("usage")

    @property
    def cost(self) -> Frame | None:
        return self.end.get("cost")

    @property
    def metrics(self) -> Frame | None:
        return self.end.get("metrics")

    @property
    def error(self) -> EverstreamError | None:
        """Why it failed.  It is not raised: the part that came is worth having."""
        error = self.end.get("error")
        return error_in(error) if error else None

    @classmethod
    def of(cls, state: StreamState) -> Result:
        """Of a stream that has ended, read from its start."""
        return cls(state.stream, state.text, state.thinking, state.refusal, state.tool_calls, state.end or {})


class TextWithdrawn(Exception):
    """Text that was given is none of the answer any more.  `text` is all of the answer so far, in its place.

    The iteration that raised it can be gone on with: it gives what follows `text`.
    """

    def __init__(self, text: str) -> None:
        super().__init__("what was given of the answer has been withdrawn; `text` is what it says now")
        self.text = text


@dataclass(frozen=True, slots=True)
class Step:
    """A frame given to the reader: the answer text that is new with it, whether it withdraws some, where it leads."""

    frame: Frame
    text: str
    withdrawn: bool
    position: Position


class Given:
    """The answer text that a reader has.  What it had before its process was started anew is known by its length."""

    __slots__ = ("_pieces", "_unknown", "characters")

    def __init__(self, characters: int = 0) -> None:
        self.characters = characters
        self._unknown = characters
        self._pieces: list[str] = []

    def take(self, frame: Frame) -> tuple[str, bool]:
        """The text that is new with this frame, and whether it stands in the place of what was given before."""
        kind = frame["type"]
        if kind == "delta_text":
            text = _text(frame, "text")
            self._pieces.append(text)
            self.characters += len(text)
            return text, False
        if kind == "seam" and frame.get("continuation") == "restart":
            withdrawn = self.characters > 0
            self._stand("")
            return "", withdrawn
        if kind != "snapshot":
            return "", False
        before, text, said = self.characters, _text(frame, "text"), "".join(self._pieces)
        goes_on = len(text) >= before and text.startswith(said, self._unknown)
        self._stand(text)
        return (text[before:], False) if goes_on else (text, before > 0)

    def _stand(self, text: str) -> None:
        self._pieces, self._unknown, self.characters = [text], 0, len(text)


def _text(frame: Frame, field: str) -> str:
    """What is no text says nothing."""
    value = frame.get(field)
    return value if isinstance(value, str) else ""


class Commander(Protocol):
    """The client, as far as a stream needs it."""

    async def call(self, kind: str, **fields: Any) -> Frame: ...

    async def subscribe(self, stream: str, /) -> Stream: ...

    async def forget(self, stream: Stream) -> None: ...


class Stream:
    """One response stream.  It has one reader, who iterates it for its frames, or `text_deltas()` for its text."""

    def __init__(self, client: Commander, start: Position) -> None:
        self.state = StreamState(start.stream, start.epoch, start.offset)
        self.position = start  # how far the reader has come: what to save
        self.turn: str | None = None  # of a session that it answers in,
        self.message: str | None = None  # and the message that it answers
        self._client = client
        self._whole = start.offset == 0  # the state stands for all entries, from the first one on
        self._given = Given(start.characters if start.offset else 0)
        self._frames: deque[tuple[Frame, int | None]] = deque()  # with the epoch that each was read in
        self._frames_max = FRAMES_WAITING_MAX
        self._behind = False
        self._over = False  # nothing follows the place that reading began at
        self._left = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def id(self) -> str:
        return self.state.stream

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Frame:
        """The next frame that was applied.  Raises EverstreamError or ConnectionError where no more can come."""
        return (await self.step()).frame

    def text_deltas(self) -> TextDeltas:
        """The answer's text, piece by piece, as an iterator: joined it is `result().text`.

        It raises TextWithdrawn where what it gave is void, and otherwise as iterating the stream does.
        """
        return TextDeltas(self)

    async def step(self) -> Step:
        """As `__anext__`, with what the frame amounts to.  Raises StopAsyncIteration behind the last one."""
        while not self._frames and not self._behind:
            if self._closed:
                if self._error is not None and not self.state.ended:
                    raise self._error
                raise StopAsyncIteration
            await self._hear()
        if self._behind:
            self._behind = False
            frame, epoch = self.state.snapshot(), self.state.epoch
        else:
            frame, epoch = self._frames.popleft()
        text, withdrawn = self._given.take(frame)
        self.position = Position(self.id, epoch, frame["upto"], self._given.characters)
        return Step(frame, text, withdrawn, self.position)

    async def result(self) -> Result:
        """Wait for the end; the whole answer, also where this stream was read from a later place than its start.

        It takes no frame from the reader.  An answer that failed is a result like any other: see `error`.  Raises
        EverstreamError (the stream is gone), ConnectionError (the client was closed, or reads it no longer).
        """
        while not self._closed:
            await self._hear()
        if self.state.ended and self._whole:
            return Result.of(self.state)
        if self.state.ended or self._over:
            return await (await self._client.subscribe(self.id)).result()
        raise self._error or ConnectionError("the stream is not read any more")

    async def cancel(self) -> int:
        """Stop the generation.  Returns the fence: no entry after this offset exists or will.

        Raises EverstreamError, or ConnectionError (the client was closed before anybody knew)."""
        if self.over:
            return self.state.offset
        try:
            reply = await self._client.call("cancel", stream=self.id)
        except (EverstreamError, ConnectionError):
            if not self.state.ended:  # the end may come before the reply, and is the fence
                raise
            return self.state.offset
        return next((int(s["offset"]) for s in reply["streams"] if s["stream"] == self.id), self.state.offset)

    async def unsubscribe(self) -> None:
        """Stop reading; the generation goes on.  Iteration ends."""
        await self._client.forget(self)

    @property
    def _closed(self) -> bool:
        return self.state.ended or self._over or self._left or self._error is not None

    async def _hear(self) -> None:
        self._news.clear()
        await self._news.wait()

    # ------------------------------------------------------------------ for the client

    @property
    def place(self) -> Frame:
        """How far it has come, as commands name it: from the start, where no server has named an epoch."""
        if self.state.epoch is None:
            return {"stream": self.id}
        return {"stream": self.id, "epoch": self.state.epoch, "offset": self.state.offset}

    def take(self, frame: Frame) -> Verdict:
        """Fold a frame in, and keep it for the reader."""
        verdict = self.state.apply(frame)
        if verdict in (Verdict.APPLIED, Verdict.REPLACED):
            self._whole |= verdict is Verdict.REPLACED
            if not self._behind:
                self._frames.append((frame, self.state.epoch))
                if len(self._frames) > self._frames_max:
                    self._shorten()
            self._news.set()
        elif frame["type"] == "subscribed" and frame.get("status") == "ended":
            self._over = not self.state.ended and frame.get("tail") == self.state.offset
            self._news.set()
        return verdict

    def leave(self, why: Exception | None) -> None:
        """Nothing more will come; None: because the reader wants no more."""
        self._error, self._left = why, why is None
        self._news.set()

    @property
    def over(self) -> bool:
        """Whether all has been read that there will ever be."""
        return self.state.ended or self._over

    @property
    def left(self) -> bool:
        """Whether its reader wanted no more of it."""
        return self._left

    def _shorten(self) -> None:
        """Too many frames wait.  A state that is whole can stand for them; in place of another one they are merged."""
        if self._whole:
            self._frames.clear()
            self._behind = True
        else:
            self._frames = merged(self._frames)
            self._frames_max = max(FRAMES_WAITING_MAX, 2 * len(self._frames))


def merged(frames: deque[tuple[Frame, int | None]]) -> deque[tuple[Frame, int | None]]:
    """The same entries in as few frames as can be, by the rule that servers merge them by."""
    runs: list[list[tuple[Frame, int | None]]] = []
    for waiting in frames:
        if runs and _alike(runs[-1][0][0], waiting[0]):
            runs[-1].append(waiting)
        else:
            runs.append([waiting])
    return deque(run[0] if len(run) == 1 else _joined(run) for run in runs)


def _alike(one: Frame, next_one: Frame) -> bool:
    kind = one["type"]
    if kind != next_one["type"] or kind not in MERGED:
        return False
    fresh = next_one.get("name") or next_one.get("call_id")  # a tool call that begins
    return not fresh and one.get("index") == next_one.get("index")


def _joined(run: list[tuple[Frame, int | None]]) -> tuple[Frame, int | None]:
    field = MERGED[run[0][0]["type"]]
    last, epoch = run[-1]
    return {**run[0][0], field: "".join(_text(frame, field) for frame, _ in run), "upto": last["upto"]}, epoch


class TextDeltas:
    """An iterator over the answer's text.  Several of one stream share what they give."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> TextDeltas:
        return self

    async def __anext__(self) -> str:
        while True:
            step = await self._stream.step()
            if step.withdrawn:
                raise TextWithdrawn(step.text)
            if step.text:
                return step.text
