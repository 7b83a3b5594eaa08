"""What can be asked of an open session: to say something in it, to change it, to let others in.

    session = await client.open_session("s_…")
    answer = await session.send("Hello")
    async for text in answer.text_deltas():
        print(text, end="")

The reading is done in `session_reader.py`.  Commands may be sent twice without harm, as all of this client's: a message
carries a `request_id`; a result of a tool that is refused the second time is looked for among the session's messages.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from everstream.core.errors import EverstreamError
from everstream.reader import Position, Stream
from everstream.reducer import Frame
from everstream.session_reader import SessionReader

CAUGHT_UP_S = 5.0  # to see in the session's entries what a lost reply would have said
LOOK_S = 0.05  # between two looks

OnBusy = Literal["queue", "interrupt", "reject", "parallel"]
Role = Literal["owner", "editor", "viewer"]


class Unset:
    """Where a parent is left open: the message goes to the end of the newest path."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()


def opening(place: str | Mapping[str, Any]) -> tuple[str, Frame, list[Position]]:
    """What `session.open` is told of a place: the session, the fields, and where its streams' readers stand."""
    if isinstance(place, str):
        return place, {}, []
    fields: Frame = {}
    if place.get("epoch") is not None:
        fields |= {"epoch": place["epoch"], "offset": place["offset"]}
    starts = [Position(**given) for given in place.get("responses") or ()]
    if starts:
        fields["responses"] = [{"stream": at.stream, "epoch": at.epoch, "offset": at.offset} for at in starts]
    return str(place["session"]), fields, starts


class Session(SessionReader):
    """One open session: `send` and the like say something in it, `events` tells what happens.

    All that is asked of the server raises EverstreamError (`session.unknown`, `auth.forbidden`, …) or ConnectionError.
    """

    # ------------------------------------------------------------------ saying something

    async def send(
        self,
        content: str | Sequence[Frame] | None,
        *,
        model: str | None = None,
        parent: str | Unset | None = UNSET,
        on_busy: OnBusy = "queue",
        params: Frame | None = None,
        budget: Frame | None = None,
        request_id: str | None = None,
        **more: Any,
    ) -> Stream:
        """Say something, and read the answer from its first entry.

        `parent` is the message that it follows: without one the newest, None for a new first message.  `on_busy` says
        what becomes of it while another turn runs.  All further keywords are parameters of the request.  The stream
        has `turn` and `message`: the id of what was said.  With the same `request_id` nothing is said again.
        """
        fields: Frame = {"request_id": request_id or uuid.uuid4().hex, "session": self.id, "on_busy": on_busy}
        if content is not None:
            fields["content"] = content if isinstance(content, str) else list(content)
        if not isinstance(parent, Unset):
            fields["parent"] = parent
        every = {**(params or {}), **more}
        given: Frame = {"model": model, "params": every or None, "budget": budget}
        fields |= {name: value for name, value in given.items() if value is not None}
        stream: Stream = (await self._client.call("generate", **fields))["opened"]
        return stream

    async def edit(self, message: str, content: str | Sequence[Frame], **more: Any) -> Stream:
        """Say something else in the place of a message: a branch beside it.  Keywords are those of `send`.

        Raises EverstreamError `request.not_found` where the message is not among those that are known."""
        return await self.send(content, parent=self._message(message).get("parent"), **more)

    async def regenerate(self, message: str, **more: Any) -> Stream:
        """Have an answer given anew, beside the one that is there; `message` is the answer, or what it answers."""
        there = self._message(message)
        parent = there.get("parent") if there["role"] == "assistant" else there["id"]
        return await self.send(None, parent=parent, **more)

    async def cancel(self) -> list[Frame]:
        """Stop what runs or waits; what is queued stays.  Returns the fences: [{stream, offset}]."""
        streams: list[Frame] = (await self._client.call("cancel", session=self.id))["streams"]
        return streams

    async def typing(self, typing: bool = True) -> None:
        """Tell the others that this user types.  It stands for 6 s, and may be lost."""
        await self._client.tell("typing", session=self.id, typing=typing)

    # ------------------------------------------------------------------ tools

    async def tool_result(self, stream: Stream | str, results: Mapping[str, Any] | Sequence[Frame]) -> Stream | None:
        """Give results of the calls that ended this stream: {call_id: content}, or as the protocol has them.

        Returns the stream by which the turn goes on; None while other calls have no result yet.
        """
        if isinstance(results, Mapping):
            results = [{"call_id": call_id, "content": content} for call_id, content in results.items()]
        name, given = _id_of(stream), [dict(result) for result in results]
        connection = self._client.welcome.get("connection")
        try:
            reply = await self._client.call("tool_result", session=self.id, stream=name, results=given)
        except EverstreamError as error:
            # A repetition is refused, since the first one counted: its reply was lost with the connection.
            again = connection != self._client.welcome.get("connection")
            refused = error.code in ("request.invalid", "request.not_found")
            if not (again and refused and await self._has_results(name, [result["call_id"] for result in given])):
                raise
            return self._follower(name)
        opened: Stream | None = reply.get("opened")
        return opened

    async def approve(
        self, stream: Stream | str, call_id: str, approved: bool = True, reason: str | None = None
    ) -> None:
        """Let the server run a tool that needs it, or not; the model is told the reason."""
        approval: Frame = {"call_id": call_id, "approved": approved}
        if reason is not None:
            approval["reason"] = reason
        await self._client.call("tool_approval", session=self.id, stream=_id_of(stream), approvals=[approval])

    async def _has_results(self, stream: str, calls: list[str]) -> bool:
        """Whether these calls were given results, once the session's entries have had time to come."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + CAUGHT_UP_S
        while any(self.state.result_of(stream, call) is None for call in calls):
            if loop.time() >= until_s or self._error is not None:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    # ------------------------------------------------------------------ the session itself

    async def update(self, *, title: str | None = None, system: str | None = None, model: str | None = None) -> None:
        """Change what is given; "" clears it."""
        changed = {"title": title, "system": system, "model": model}
        given: Frame = {name: value for name, value in changed.items() if value is not None}
        await self._client.call("session.update", session=self.id, **given)

    async def add_member(self, user: str, role: Role = "editor") -> None:
        """Let somebody in, or change his role."""
        await self._client.call("member.add", session=self.id, user=user, role=role)

    async def remove_member(self, user: str) -> None:
        await self._client.call("member.remove", session=self.id, user=user)

    async def history(self, before: str | None = None, limit: int = 50) -> list[Frame]:
        """Earlier messages, oldest first: those before `before`, or before the first known one.

        What lies just before the first known message is known from then on (`state.more`: whether there is more).
        """
        first = next(iter(self.state.messages), None)
        fields: Frame = {} if (before or first) is None else {"before": before or first}
        reply = await self._client.call("session.history", session=self.id, limit=limit, **fields)
        messages: list[Frame] = reply["messages"]
        if fields.get("before") == next(iter(self.state.messages), None):
            self.state.older(messages, bool(reply.get("more")))
        return messages

    async def export(self, format: Literal["json", "markdown"] = "markdown", message: str | None = None) -> str:
        """The session as a text: in `json` all branches, in `markdown` the newest path, or the path to `message`."""
        fields: Frame = {} if message is None else {"message": message}
        content: str = (await self._client.call("session.export", session=self.id, format=format, **fields))["content"]
        return content

    async def close(self) -> None:
        """Read it, and the streams of its turns, no longer.  What runs goes on.  Idempotent."""
        if not (self._left or self.over or self._error is not None):
            self._client.detach(self, None)
            await self._client.call("session.close", session=self.id)

    async def delete(self) -> None:
        """End what runs, and erase the session for everybody.  Its readers get a last event that says `deleted`."""
        connection = self._client.welcome.get("connection")
        try:
            await self._client.call("session.delete", session=self.id)
        except EverstreamError as error:
            again = connection != self._client.welcome.get("connection")
            if error.code != "session.unknown" or not again:
                raise

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _message(self, message: str) -> Frame:
        there = self.state.messages.get(message)
        if there is None:
            raise EverstreamError("request.not_found", "no such message is known: read the session's history first")
        return there


def _id_of(stream: Stream | str) -> str:
    return stream.id if isinstance(stream, Stream) else stream
