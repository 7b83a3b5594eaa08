"""A session as one device was shown it, folded by rules of its own: a witness that shares no code with any client.

Every frame is judged when it comes.  Entries follow each other without a hole and without an overlap; what a reply to
`session.open` says at a place that is still history has to be what is held already; a `snapshot` replaces all.  Every
entry is kept by its offset, to be compared with the store's at the end.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.chaos.socket_line import Frame

ENVELOPE = ("session", "after", "upto")  # of an entry's frame, beside what the entry itself says
OF_STREAM = ("turn_start", "turn_end", "turn_queued", "tool_start")  # whose `stream` is not the session's


class SessionShown:
    """`wrong` counts what must not be; `state` is what is compared at the end."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.epoch: int | None = None
        self.offset = 0
        self.title = self.model = self.system = ""
        self.members: dict[str, str] = {}
        self.messages: dict[str, Frame] = {}
        self.more = False
        self.turns: dict[str, Frame] = {}  # that have not ended
        self.queue: list[str] = []
        self.entries: dict[int, Frame] = {}  # what was shown, by offset
        self.replaced: list[tuple[int, Frame]] = []  # those that a later snapshot stands for
        self.times: dict[int, float] = {}  # when
        self.wrong: Counter[str] = Counter()
        self.examples: list[str] = []
        self.opened = False
        self.snapshots = 0
        self.repeated = 0  # replies to `session.open` that confirmed our place
        self._ahead = False  # `turns` and `queue` are of a later moment than our place: entries will put that right

    @property
    def place(self) -> Frame:
        return {"epoch": self.epoch, "offset": self.offset}

    @property
    def streams(self) -> dict[str, str]:
        """The streams of turns that run, and their turns."""
        return {turn["stream"]: name for name, turn in self.turns.items() if turn["state"] != "queued"}

    @property
    def running(self) -> list[Frame]:
        return [turn for turn in self.turns.values() if turn["state"] == "running"]

    def state(self) -> dict[str, Any]:
        """What all devices have to agree on; each also has a role, and its own epochs' names for a place."""
        return {
            "title": self.title,
            "model": self.model,
            "system": self.system,
            "members": dict(sorted(self.members.items())),
            "messages": list(self.messages.values()),
            "turns": {name: turn["state"] for name, turn in sorted(self.turns.items())},
            "queue": self.queue,
            "offset": self.offset,
        }

    def _blame(self, what: str, example: object) -> None:
        self.wrong[what] += 1
        if len(self.examples) < 5:
            self.examples.append(f"{what} at {self.offset}: {str(example)[:600]}")

    # ------------------------------------------------------------------ frames

    def take(self, frame: Frame, at: float) -> None:
        kind = frame["type"]
        if kind == "snapshot":
            self._replace(frame, frame["upto"])
            self.snapshots += 1
        elif kind == "ok":
            self._reopened(frame)
        elif kind == "subscribed":
            if frame["offset"] != self.offset:
                self._blame("placed elsewhere", frame)
            self._reign(frame["epoch"])
        elif "upto" in frame:
            self._enter(kind, frame, at)

    def _reign(self, epoch: int) -> None:
        if self.epoch is not None and epoch < self.epoch:
            self._blame("an older epoch", epoch)
        self.epoch = epoch

    def _reopened(self, reply: Frame) -> None:
        """The reply to `session.open`: at our place, which is then confirmed, or at another, which replaces ours."""
        if not self.opened or reply["offset"] != self.offset:
            self.snapshots += self.opened
            self._replace(reply, reply["offset"])
            return
        told = {message["id"]: message for message in reply["messages"]}
        known = min(len(told), len(self.messages))  # a snapshot may have left us fewer than there are
        if list(told.items())[len(told) - known :] != list(self.messages.items())[len(self.messages) - known :]:
            self._blame("another history at our place", (list(told), list(self.messages)))
        if len(told) > known:
            self.messages, self.more = told, reply["more"]
        self.repeated += 1
        self._as_of_now(reply)
        self._ahead = True

    def _as_of_now(self, reply: Frame) -> None:
        self._reign(reply["epoch"])
        self.title, self.model, self.system = reply["title"], reply["model"], reply["system"]
        self.members = {member["user"]: member["role"] for member in reply["members"]}
        names = [turn["turn"] for turn in reply["running"]]
        if len(set(names)) < len(names):
            self._blame("a turn twice in one list", names)
        self.turns = {turn["turn"]: turn for turn in reply["running"]}
        self.queue = [name for name in names if self.turns[name]["state"] == "queued"]

    def _replace(self, frame: Frame, offset: int) -> None:
        self.opened = True
        self._ahead = False
        self.offset, self.epoch = offset, None
        self.messages = {message["id"]: message for message in frame["messages"]}
        self.more = frame["more"]
        self.replaced += self.entries.items()
        self.entries.clear()
        self._as_of_now(frame)

    def _enter(self, kind: str, frame: Frame, at: float) -> None:
        after, upto = frame["after"], frame["upto"]
        if not self.opened:
            self._blame("an entry before the session was open", frame)
        if upto != after + 1:
            self._blame("merged", frame)
        if after != self.offset:
            self._blame("doubled" if after < self.offset else "a hole", frame)
            return
        self.offset = upto
        said = {name: value for name, value in frame.items() if name not in ENVELOPE}
        if kind not in OF_STREAM:
            del said["stream"]
        self.entries[upto] = said
        self.times[upto] = at
        _ENTER.get(kind, SessionShown._other)(self, frame)

    # ------------------------------------------------------------------ entries

    def _message(self, frame: Frame) -> None:
        message = frame["message"]
        if message["id"] in self.messages:
            self._blame("a message twice", message)
        self.messages[message["id"]] = message

    def _queued(self, frame: Frame) -> None:
        self._unqueue(frame["turn"])
        self.turns[frame["turn"]] = {**frame, "state": "queued"}
        self.queue.insert(frame["position"] - 1, frame["turn"])

    def _start(self, frame: Frame) -> None:
        if frame["turn"] in self.queue and self.queue[0] != frame["turn"] and not self._ahead:
            self._blame("out of turn", (frame["turn"], self.queue))
        self._unqueue(frame["turn"])
        if frame["message"] not in self.messages and not self.more:
            self._blame("a turn that answers no message", frame)
        self.turns[frame["turn"]] = {**frame, "state": "running"}

    def _end(self, frame: Frame) -> None:
        self._unqueue(frame["turn"])
        self.turns.pop(frame["turn"], None)
        if frame["message"] is not None and frame["message"] not in self.messages:
            self._blame("an end without its answer", frame)

    def _unqueue(self, turn: str) -> None:
        if turn in self.queue:
            self.queue.remove(turn)

    def _member(self, frame: Frame) -> None:
        if frame["role"] is None:
            self.members.pop(frame["user"], None)
        else:
            self.members[frame["user"]] = frame["role"]

    def _change(self, frame: Frame) -> None:
        if "epoch" in frame:  # another server leads the session from this entry on
            self._reign(frame["epoch"])
        for name in ("title", "model", "system"):
            if frame.get(name) is not None:
                setattr(self, name, frame[name])

    def _other(self, frame: Frame) -> None:
        self._blame("an entry of no known kind", frame)


_ENTER = {
    "message": SessionShown._message,
    "turn_queued": SessionShown._queued,
    "turn_start": SessionShown._start,
    "turn_end": SessionShown._end,
    "member": SessionShown._member,
    "session": SessionShown._change,
}
