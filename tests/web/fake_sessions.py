"""Sessions as a server serves them, in the test's own thread: what a test wants said is said, in the order it wants.

It keeps logs (entries with offsets) and the promises of a log; who may do what, and what follows from what, it leaves
to the test.  `Seat` is one page before it, with a user of its own.  The page's files are handed to the browser by the
test too, under a name of their own and with the policy that a server sends along.
"""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page, Route, WebSocketRoute

from everstream.gateway.app import CONTENT_SECURITY_POLICY
from everstream.gateway.page import TYPES, web_folder

Frame = dict[str, Any]
ORIGIN = "http://page.test/"
EPOCH = 7
USAGE = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8, "source": "provider"}
METRICS = {"ttft_ms": 120.0, "stream_ms": 900.0, "total_ms": 1020.0, "tokens_per_s": 5.6}
MODELS = [{"id": name, "usable": True, "continuation": "exact"} for name in ("fake/one", "fake/two")]


def serve_page(page: Page) -> None:
    """Hand the page's files to the browser at `ORIGIN`."""
    page.route("**/assets/*", _from_disk)
    page.route(f"{ORIGIN}*", _from_disk)


def _from_disk(route: Route) -> None:
    path = web_folder() / (route.request.url.removeprefix(ORIGIN).partition("#")[0] or "index.html")
    headers = {"content-type": TYPES[path.suffix], "content-security-policy": CONTENT_SECURITY_POLICY}
    route.fulfill(status=200, headers=headers, body=path.read_bytes())


def message(name: str, parent: str | None, author: str, content: str, **more: Any) -> Frame:
    role = more.pop("role", "user")
    return {"id": name, "parent": parent, "role": role, "author": author, "content": content, "created": 1, **more}


def answer(name: str, parent: str, stream: str, content: str, **more: Any) -> Frame:
    return message(name, parent, "fake/one", content, role="assistant", stream=stream, **more)


class FakeSession:
    """A session's state as `session.open` tells it, and the logs of it and its streams."""

    def __init__(self, name: str, owner: str = "ann") -> None:
        self.name = name
        self.state: Frame = {"title": "", "system": "", "model": "", "created": 1, "more": False}
        self.members: dict[str, str] = {owner: "owner"}
        self.messages: list[Frame] = []
        self.running: list[Frame] = []
        self.entries: list[Frame] = []
        self.streams: dict[str, list[Frame]] = {}
        self.seats: list[Seat] = []

    # ------------------------------------------------------------------ what happens in it

    def say(self, kind: str, *, lost: bool = False, **fields: Any) -> None:
        """Append an entry and send it to all who read, unless it is `lost` on its way."""
        entry = {"type": kind, "session": self.name, "after": len(self.entries), "upto": len(self.entries) + 1} | fields
        self.entries.append(entry)
        if kind == "message":
            self.messages.append(entry["message"])
        if kind == "turn_start":
            self.streams.setdefault(entry["stream"], [])
        if not lost:
            self.send(entry)

    def add(self, *messages: Frame) -> None:
        for said in messages:
            self.say("message", message=said)

    def start(self, turn: str, stream: str, to: str, user: str = "ann", **more: Any) -> None:
        self.say("turn_start", turn=turn, stream=stream, model="fake/one", message=to, user=user, **more)

    def queue(self, turn: str, stream: str, content: str, position: int = 1, user: str = "ann", **more: Any) -> None:
        where = {"message": f"m_{turn}", "follows": True, **more}
        self.say(
            "turn_queued",
            turn=turn,
            stream=stream,
            model="fake/one",
            user=user,
            position=position,
            content=content,
            **where,
        )

    def end(self, turn: str, stream: str, said: str | None, reason: str = "complete", **more: Any) -> None:
        self.say("turn_end", turn=turn, stream=stream, message=said, reason=reason, **more)

    def delta(self, stream: str, text: str, entries: int = 1) -> None:
        self._extend(stream, {"type": "delta_text", "text": text}, entries)

    def finish(self, stream: str, reason: str = "complete") -> None:
        end = {"finish_reason": "stop", "usage": USAGE, "cost": None, "metrics": METRICS, "error": None, "warnings": []}
        self._extend(stream, {"type": "stream_end", "reason": reason, **end}, 1)

    def _extend(self, stream: str, entry: Frame, entries: int) -> None:
        log = self.streams.setdefault(stream, [])
        after = log[-1]["upto"] if log else 0
        log.append({**entry, "stream": stream, "after": after, "upto": after + entries})
        self.send(log[-1])

    def send(self, frame: Frame) -> None:
        for seat in self.seats:
            seat.send(frame)

    # ------------------------------------------------------------------ what is asked of it

    def opened(self, user: str) -> Frame:
        members = [{"user": name, "role": role} for name, role in self.members.items()]
        users = [{"id": seat.user, "name": seat.user, "connections": 1} for seat in self.seats]
        return {
            **self.state,
            "session": self.name,
            "role": self.members.get(user),
            "members": members,
            "messages": self.messages,
            "running": self.running,
            "users": users,
            "epoch": EPOCH,
            "offset": len(self.entries),
        }

    def frames_after(self, stream: str, offset: int) -> list[Frame]:
        log = self.entries if stream == self.name else self.streams[stream]
        return [frame for frame in log if frame["after"] >= offset]


class Seat:
    """A page before a `FakeSession`.  `sent` are its commands, but for `hello`; `hellos` those."""

    def __init__(self, page: Page, session: FakeSession | None, user: str = "ann") -> None:
        self.session = session
        self.user = user
        self.sent: list[Frame] = []
        self.hellos: list[Frame] = []
        self.errors: list[str] = []
        self.refuse: dict[str, Frame] = {}  # command type -> the error it is answered with
        self._route: WebSocketRoute | None = None
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route_web_socket("**/ws", self._connected)

    def send(self, frame: Frame) -> None:
        if self._route is not None:
            self._route.send(json.dumps(frame))

    def cut(self) -> None:
        """Lose the connection."""
        route, self._route = self._route, None
        assert route is not None
        route.close(code=1012, reason="cut by the test")

    def commands(self, kind: str) -> list[Frame]:
        return [command for command in self.sent if command["type"] == kind]

    def _connected(self, route: WebSocketRoute) -> None:
        self._route = route
        route.on_message(lambda data: self._take(json.loads(data)))

    def _take(self, command: Frame) -> None:
        kind = command["type"]
        if kind == "hello":
            self.hellos.append(command)
            user = {"id": self.user, "name": self.user}
            self.send({"type": "welcome", "protocol": 1, "user": user, "heartbeat_ms": 15_000, "limits": {}})
            for place in command["resume"]:
                self._go_on({}, place)
            return
        self.sent.append(command)
        reply = {"id": command["id"]} if "id" in command else {}
        if kind in self.refuse:
            self.send({"type": "error", **reply, **self.refuse[kind]})
        elif kind == "subscribe":
            self._go_on(reply, command)
        elif kind == "generate":
            self._generate(reply, command)
        elif "id" in command:
            self.send({"type": "ok", **reply, **self._answer(kind, command)})
            if kind == "session.open":
                self._send_streams(command)

    def _answer(self, kind: str, command: Frame) -> Frame:
        session = self.session
        if kind == "models":
            return {"models": MODELS}
        if session is None or kind not in ("session.list", "session.open"):
            return {"sessions": [], "next": None, "messages": [], "more": False}
        if kind == "session.list":
            listed = {"session": session.name, "title": session.state["title"], "role": "owner", "members": 1}
            return {"sessions": [listed], "next": None}
        if self not in session.seats:
            session.seats.append(self)
        return session.opened(self.user)

    def _send_streams(self, command: Frame) -> None:
        assert self.session is not None
        held = {place["stream"]: place.get("offset", 0) for place in command.get("responses", ())}
        for turn in self.session.running:
            for frame in self.session.frames_after(turn["stream"], held.get(turn["stream"], 0)):
                self.send(frame)

    def _go_on(self, reply: Frame, place: Frame) -> None:
        assert self.session is not None
        stream, offset = place["stream"], place.get("offset", 0)
        frames = self.session.frames_after(stream, offset)
        self.send({"type": "subscribed", **reply, "stream": stream, "epoch": EPOCH, "offset": offset, "status": "open"})
        for frame in frames:
            self.send(frame)

    def _generate(self, reply: Frame, command: Frame) -> None:
        """Accepted, and no more: the test says what follows."""
        if self.session is None:
            self.session = FakeSession("s_made", self.user)
        number = len(self.commands("generate"))
        fields = {"session": self.session.name, "turn": f"t_{number}", "message": f"m_said{number}"}
        self.send({"type": "accepted", **reply, **fields, "stream": f"r_answer{number}", "epoch": EPOCH})
