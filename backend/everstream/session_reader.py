"""A session as a client reads it: what has come, what of it the reader of events has been given, and its streams.

A session is a stream that brings others along: each `turn_start` of it is followed by the frames of a response stream,
which nobody asked for.  Whatever is first to name such a stream makes its `Stream`: the reply to the `generate` that
caused it, the session's entry, the list of what runs in a reply or a snapshot, or the stream's own first entry, which
says whose it is.  All of them find the same one.  What came before any of these is asked for again.

Where a turn has ended and its stream has said nothing, the stream is asked for too: at once where it was over before
this client came back, else a little later, for entries of different streams come in no order.

As a stream has two places, a session has: how far it has come (`state.position`), and how far the reader of `events`
has (`position`).  The second is the one to save, where somebody reads events.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Protocol

from everstream.commands import Heard, Reader
from everstream.reader import FRAMES_WAITING_MAX, Position, Stream
from everstream.reducer import Frame, Verdict
from everstream.session_reducer import PASSING, RUNNING, SessionState

STREAMS_KEPT_MAX = 64  # of a session: ended ones, for whoever comes late
TYPING_S = 6.0  # how long somebody types, unless it is said again
LATE_S = 1.0  # a stream of an ended turn that has said nothing until then is asked for


class Opener(Protocol):
    """The client, as far as a session needs it."""

    @property
    def welcome(self) -> Frame: ...

    async def call(self, kind: str, *, heard: Heard | None = None, **fields: Any) -> Frame: ...

    async def subscribe(self, stream: str, /) -> Stream: ...

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send a command that has no reply, if there is a connection."""
        ...

    def begin(self, start: Position) -> Stream:
        """The stream that the server sends from `start` on, read from now on if it was not."""
        ...

    def ask_for(self, reader: Reader) -> None:
        """Subscribe again, where the reader is still one of this client's."""
        ...

    def detach(self, reader: Reader, why: Exception | None) -> None:
        """Read it no longer."""
        ...


class SessionReader:
    """One open session, read.  `state` is what it amounts to."""

    def __init__(self, client: Opener, session: str, user: str | None = None) -> None:
        self.state = SessionState(session, user=user)
        self.position: tuple[int | None, int] = (None, 0)  # how far the reader of events has come
        self._client = client
        self._streams: dict[str, Stream] = {}  # by their ids, the newest last
        self._typing: dict[str, float] = {}  # until when
        self._frames: deque[tuple[Frame, tuple[int | None, int]]] = deque()  # each with the place behind it
        self._behind = False
        self._replaced_times = 0
        self._past = 0  # what was said up to there was said before this connection
        self._heeded = False  # somebody reads events
        self._left = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    @property
    def id(self) -> str:
        return self.state.session

    def path(self, leaf: str | None = None) -> list[Frame]:
        """The messages from the first known one to `leaf`, or to the newest one.  Raises KeyError for an unknown id."""
        return self.state.path(leaf)

    def typing_now(self) -> list[str]:
        """The users who are typing, as far as is known."""
        now_s = asyncio.get_running_loop().time()
        return sorted(user for user, until_s in self._typing.items() if until_s > now_s)

    def saved(self) -> Frame:
        """The place to go on from, for `Client.open_session`: it can be kept as JSON, anywhere.

        It is behind the last event that was given, or behind all that has come where nobody reads events; with it are
        the places of the streams whose readers are in the middle.
        """
        epoch, offset = self.position if self._heeded else self.state.position
        places = [stream.position for stream in self._streams.values()]
        responses = [
            {"stream": at.stream, "epoch": at.epoch, "offset": at.offset, "characters": at.characters}
            for at in places
            if at.offset and not (self._streams[at.stream].over and at.offset == self._streams[at.stream].state.offset)
        ]
        return {"session": self.id, "epoch": epoch, "offset": offset, "responses": responses}

    # ------------------------------------------------------------------ what happens in it

    async def events(self) -> AsyncIterator[Frame]:
        """What happens, frame by frame, each applied to `state` before it is given: entries, `presence`, `typing`.

        Whoever falls behind gets one `snapshot` of the state in place of all that waited; so does whoever comes back
        to a place that is history no more.  It ends when the session was closed or deleted, and raises EverstreamError
        `session.unknown` where this user is no member any more.  There is one reader.
        """
        self._heeded = True
        while True:
            if self._behind:
                self._behind = False
                self.position = self.state.position
                yield self.state.snapshot()
            elif self._frames:
                frame, self.position = self._frames.popleft()
                yield frame
            elif self.over or self._left:
                return
            elif self._error is not None:
                raise self._error
            else:
                await self._hear()

    async def stream(self, stream_id: str) -> Stream:
        """The response stream of a turn: as it is being read where it runs, else read from its start."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.left:
            stream = self._streams[stream_id] = await self._client.subscribe(stream_id)
            turn, answer = self.state.turn_of(stream_id), self.state.answer_by(stream_id)
            if turn is not None:
                stream.turn, stream.message = turn.turn, turn.message
            elif answer is not None:
                stream.message = answer.get("parent")
            self._prune()
        return stream

    async def rounds(self, stream: Stream) -> AsyncIterator[Stream]:
        """The streams of a turn from this one on: where tools are called, the next one begins when their results are
        there.  It ends with the turn.  Raises EverstreamError or ConnectionError where no more can come.
        """
        while True:
            yield stream
            end = (await stream.result()).end
            if end.get("finish_reason") != "tool_calls":
                return
            replaced = self._replaced_times
            while (follower := self._follower(stream.id)) is None:
                told = self.state.answer_by(stream.id) is not None or replaced != self._replaced_times
                if (told and stream.turn not in self.state.turns) or self.over:
                    return
                if self._left or self._error is not None:
                    raise self._error or ConnectionError("the session is not read any more")
                await self._hear()
            stream = follower

    def _follower(self, stream: str) -> Stream | None:
        """The stream behind this one in its turn."""
        turn, met = self._streams[stream].turn if stream in self._streams else None, False
        for name, other in self._streams.items():
            if met and turn is not None and other.turn == turn:
                return other
            met |= name == stream
        return None

    async def _hear(self) -> None:
        self._news.clear()
        await self._news.wait()

    # ------------------------------------------------------------------ for the client

    @property
    def place(self) -> Frame:
        """How far it has come, as commands name it."""
        return {"stream": self.id, "epoch": self.state.epoch, "offset": self.state.offset}

    @property
    def over(self) -> bool:
        """Whether it was deleted."""
        return self.state.deleted

    def take(self, frame: Frame) -> Verdict:
        """Fold a frame in, keep it for the reader of events, and begin the streams that it brings."""
        verdict, kind = self.state.apply(frame), frame["type"]
        if verdict is Verdict.REPLACED:
            self._replaced(frame)
        elif verdict is Verdict.APPLIED:
            if kind == "turn_start":
                self.begin(Position(frame["stream"]), frame["turn"], frame["message"])
            elif kind == "turn_end":
                self._expect_end(frame)
            elif self.over:
                self._close_streams(None)
            self._give(frame)
        elif kind == "subscribed":
            self._past = int(frame.get("tail") or 0)
        elif verdict is Verdict.NOTED and kind in PASSING:
            if kind == "typing":
                self._type(frame)
            self._give(frame)
        return verdict

    def begin(
        self, start: Position, turn: str | None = None, message: str | None = None, *, wanted: bool = False
    ) -> Stream:
        """The stream of a turn of this session, whoever names it first.

        One whose reader left is read again only where it is `wanted`.
        """
        stream = self._streams.get(start.stream)
        if stream is None or (wanted and stream.left):
            stream = self._streams[start.stream] = self._client.begin(start)
            self._prune()
        stream.turn, stream.message = turn or stream.turn, message or stream.message
        return stream

    def leave(self, why: Exception | None) -> None:
        """Nothing more will come: `why`, or because it was closed here."""
        self._error, self._left = why, why is None
        self._news.set()
        self._close_streams(why)

    def _replaced(self, frame: Frame) -> None:
        """Another state stands: what waited for the reader led to one that is none any more."""
        for item in frame.get("running") or ():
            if item.get("state", RUNNING) == RUNNING:
                self.begin(Position(item["stream"], item.get("epoch")), item["turn"], item["message"])
        self._replaced_times += 1
        self._frames.clear()
        self._behind = frame["type"] == "snapshot"
        if not self._behind:  # it was asked for, and whoever asked has the state
            self.position = self.state.position
        self._news.set()

    def _give(self, frame: Frame) -> None:
        if not self._behind:
            self._frames.append((frame, self.state.position))
            if len(self._frames) > FRAMES_WAITING_MAX:
                self._frames.clear()
                self._behind = True
        self._news.set()

    def _type(self, frame: Frame) -> None:
        """Somebody types, or does no longer.  Members are few: so are these."""
        self._typing.pop(frame["user"], None)
        if frame.get("typing"):
            self._typing[frame["user"]] = asyncio.get_running_loop().time() + TYPING_S

    def _prune(self) -> None:
        """Keep those streams that are being read, and the last of the others."""
        ended = [name for name, stream in self._streams.items() if stream.over or stream.left]
        for name in ended[: max(0, len(ended) - STREAMS_KEPT_MAX)]:
            del self._streams[name]

    def _expect_end(self, frame: Frame) -> None:
        """A turn has ended.  Where its stream has said nothing, it may be that nobody is going to send it."""
        stream = self._streams.get(frame["stream"])
        if stream is None or stream.state.offset:
            return
        if frame["upto"] <= self._past:
            self._client.ask_for(stream)
        else:
            asyncio.get_running_loop().call_later(LATE_S, self._ask_late, stream)

    def _ask_late(self, stream: Stream) -> None:
        if not stream.state.offset:
            self._client.ask_for(stream)

    def _close_streams(self, why: Exception | None) -> None:
        """The session sends its streams no longer.  Those of one that was deleted have an end, or are gone: ask."""
        for stream in self._streams.values():
            if not stream.over and self.over:
                self._client.ask_for(stream)
            elif not stream.over:
                self._client.detach(stream, why)
