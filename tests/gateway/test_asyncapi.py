"""What is said over a WebSocket is what `/asyncapi.json` says: every frame, with every field of it."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import jsonschema_rs
from tests.gateway.conftest import WAIT_S, Client, Gateway, serving
from tests.runtime.conftest import HEADERS, until

from everstream.core.commands import COMMANDS
from everstream.core.errors import FAULTS
from everstream.core.events import EVENTS, DeltaRefusal, DeltaThinking, DeltaToolCall, Event
from everstream.core.protocol import SERVER_FRAMES
from everstream.core.session_events import SESSION_EVENTS
from everstream.gateway import asyncapi
from everstream.gateway.asyncapi import ANSWERS
from everstream.gateway.openapi import reached
from everstream.providers.base import Finish

DOCUMENT = json.loads(json.dumps(asyncapi.document()))
MESSAGES = DOCUMENT["components"]["messages"]
# What does not come about in a conversation of a few seconds on one server that has no tools of its own.
RARE = {"entry.seam", "frame.goaway", "frame.heartbeat", "session_entry.tool_start", "reply.tool_approval"}
COUNT: dict[str, Any] = {"model": "scripted/count", "params": {"tokens": 3, "rate": 0}}


# --------------------------------------------------------------------------- the document


def _tags(events: tuple[type[Event], ...]) -> set[str]:
    return {str(event.__struct_config__.tag) for event in events}


def test_every_command_reply_entry_and_frame_is_described() -> None:
    kinds: dict[str, set[str]] = {}
    for name, message in MESSAGES.items():
        kinds.setdefault(name.partition(".")[0], set()).add(message["name"])
    assert kinds["command"] == set(COMMANDS) == set(ANSWERS)
    assert kinds["entry"] == _tags(EVENTS)
    assert kinds["session_entry"] == _tags(SESSION_EVENTS)
    assert kinds["reply"] | kinds["frame"] == set(SERVER_FRAMES)
    assert set(DOCUMENT["x-error-codes"]) == set(FAULTS)
    assert MESSAGES["frame.error"]["payload"]["properties"]["code"]["enum"] == list(FAULTS)


def test_entries_name_their_stream_and_what_they_cover() -> None:
    for name, message in MESSAGES.items():
        needed = set(message["payload"]["required"])
        assert "type" in needed
        if name.startswith("entry."):
            assert {"stream", "after", "upto"} <= needed, name
        if name.startswith("session_entry."):
            assert {"session", "stream", "after", "upto"} <= needed, name


def test_the_document_has_the_parts_that_the_specification_asks_for() -> None:
    """AsyncAPI 3.0.0, "Schema": what refers to something finds it, and where it has to be."""
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    (channel,) = DOCUMENT["channels"].values()
    assert channel["address"] == "/ws"
    assert {at["$ref"] for at in channel["messages"].values()} == {f"#/components/messages/{n}" for n in MESSAGES}
    said: set[str] = set()
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"] == {"$ref": "#/channels/ws"}
        for at in (*operation["messages"], *operation.get("reply", {}).get("messages", ())):
            place, _, name = at["$ref"].rpartition("/")
            assert place == "#/channels/ws/messages", "an operation's messages are the channel's"
            said.add(name)
    assert said == set(MESSAGES)
    schemas = DOCUMENT["components"]["schemas"]
    assert reached(MESSAGES, schemas) == schemas
    for message in MESSAGES.values():
        jsonschema_rs.meta.validate(message["payload"])


async def test_the_document_is_served_and_names_where_it_is_mounted() -> None:
    async with serving() as gateway, aiohttp.request("GET", f"{gateway.url}/asyncapi.json") as answer:
        assert await answer.json() == DOCUMENT
    assert asyncapi.document("/chat")["channels"]["ws"]["address"] == "/chat/ws"


# --------------------------------------------------------------------------- what is said


class Listener:
    """One that knows the description, and what it has heard of it."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        schemas = _strict(DOCUMENT["components"]["schemas"])
        self._reads: dict[str, Callable[[Any], bool]] = {}
        for name, message in MESSAGES.items():
            whole = _strict(message["payload"]) | {"components": {"schemas": schemas}}
            self._reads[name] = jsonschema_rs.validator_for(whole).is_valid

    def hear(self, frame: dict[str, Any], command: str | None) -> None:
        """A frame that answers a command, or none, must be one that is described for that."""
        if command is not None:
            names = [name for name in MESSAGES if _is_reply(name, command)] + ["frame.error"]
        else:
            names = [name for name in MESSAGES if name.partition(".")[0] in ("entry", "session_entry", "frame")]
            names += [f"reply.subscribe{number}" for number in ("", ".2", ".3")]  # which `resume` brings too
        fit = [name for name in names if MESSAGES[name]["name"] == frame["type"] and self._reads[name](frame)]
        assert fit, f"{command}: {frame}"
        self.seen.update(fit)

    def say(self, frame: dict[str, Any]) -> None:
        name = f"command.{frame['type']}"
        assert self._reads[name](frame), frame
        self.seen.add(name)


def _is_reply(name: str, command: str) -> bool:
    return name == f"reply.{command}" or name.rpartition(".")[0] == f"reply.{command}"


def _strict(schema: Any) -> Any:
    """A schema that has no room for fields which it does not name."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _strict(value) for name, value in copy.copy(schema).items()}
    if found.get("properties") and "additionalProperties" not in found and not _is_open(found["properties"]):
        found["additionalProperties"] = False
    return found


def _is_open(properties: dict[str, Any]) -> bool:
    """Whatever else: parameters that only a provider knows, and what comes with a `ping` and goes with its `pong`."""
    return "temperature" in properties or properties.get("type", {}).get("const") in ("ping", "pong")


class Described(Client):
    """A client that holds all that it says and hears to the description."""

    listener: Listener

    async def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        number = len(self.frames)
        frame = {"type": command, "id": f"{command}#{number}", **fields}
        self.listener.say(frame)
        return await super().ask(command, id=frame["id"], **fields)

    async def heard(self, wanted: Callable[[dict[str, Any]], Any]) -> None:
        """Until such a frame has come, or where it has come already."""
        while not any(wanted(frame) for frame in self.frames):
            await self.next()

    async def next(self) -> dict[str, Any]:
        """The next frame; streams are not kept, for they are read again and again."""
        async with asyncio.timeout(WAIT_S):
            frame: dict[str, Any] = json.loads(await self.socket.recv())
        self.frames.append(frame)
        asked = frame.get("id")
        self.listener.hear(frame, asked.partition("#")[0] if isinstance(asked, str) else None)
        return frame


def described(client: Client, listener: Listener) -> Described:
    found = Described(client.socket, None)
    found.listener = listener
    return found


async def test_every_frame_of_a_conversation_is_as_described() -> None:
    listener = Listener()
    async with serving() as gateway, gateway.client(hello=False) as one, gateway.client(hello=False) as two:
        ann, other = described(one, listener), described(two, listener)
        await ann.ask("hello", token="t", client="test/1")
        await other.ask("hello")
        await _streams(ann, gateway)
        session = (await ann.ask("session.create", title="t", system="s", model="scripted/count"))["session"]
        await _talk(ann, other, session, gateway)
        await _about(ann, session)
        await ann.ask("session.delete", session=session)
        await ann.heard(lambda frame: frame.get("deleted"))
        await ann.ask("session.open", session=session)
    assert set(MESSAGES) - listener.seen == RARE


async def _streams(ann: Described, gateway: Gateway) -> None:
    """Streams without a session: every kind of entry, and the ways to read and to stop them."""
    accepted = await ann.ask("generate", model="hand/any", messages=[{"role": "user", "content": "a"}], request_id="r")
    await until(lambda: gateway.hand.calls)
    call = gateway.hand.calls[0]
    call.say(HEADERS, DeltaThinking("hm"), DeltaToolCall(0, "{}", "c", "f"), DeltaRefusal("no"))
    call.words("yes")
    call.end()
    stream = accepted["stream"]
    await ann.heard(lambda frame: frame["type"] == "stream_end")
    await ann.ask("subscribe", stream=stream)
    await ann.ask("subscribe", stream=stream, epoch=1, offset=2)
    await ann.ask("unsubscribe", stream=stream)
    await ann.ask("cancel", stream=stream)
    await ann.ask("models")
    await ann.ask("ping", anything=[1])
    await ann.ask("auth", token="t")
    await ann.ask("cancel")


async def _talk(ann: Described, other: Described, session: str, gateway: Gateway) -> None:
    """Turns of a session that two have open: one that waits for a tool, one that is queued behind it."""
    await ann.ask("session.open", session=session)
    await other.ask("session.open", session=session)
    await ann.heard(lambda frame: frame["type"] == "presence")
    ann.listener.say({"type": "typing", "session": session, "typing": True})
    await other.send(type="typing", session=session, typing=True)
    await ann.heard(lambda frame: frame["type"] == "typing")
    accepted = await ann.ask("generate", session=session, content="hi", model="hand/any")
    await until(lambda: len(gateway.hand.calls) > 1)
    await ann.ask("generate", session=session, content=[{"type": "text", "text": "then"}], **COUNT)
    gateway.hand.calls[1].say(HEADERS, *(DeltaToolCall(index, "{}", f"c{index}", "f") for index in (0, 1)))
    gateway.hand.calls[1].end(Finish("tool_calls"))
    await ann.heard(lambda frame: "tool_calls" in frame.get("message", ()))
    await ann.ask("session.open", session=session, responses=[{"stream": accepted["stream"]}])
    stream = accepted["stream"]
    await ann.ask("tool_result", session=session, stream=stream, results=[{"call_id": "c0", "content": {"n": 1}}])
    await ann.ask("tool_approval", session=session, stream=stream, approvals=[{"call_id": "c1", "approved": True}])
    await ann.ask("tool_result", session=session, stream=stream, results=[{"call_id": "c1", "content": "2"}])
    await ann.ask("cancel", session=session)
    await ann.heard(lambda frame: frame["type"] == "turn_end" and frame["reason"] == "complete")


async def _about(ann: Described, session: str) -> None:
    """What is asked of a session beside its turns."""
    await ann.ask("subscribe", stream=session, epoch=3, offset=2)
    await ann.ask("session.update", session=session, title="u")
    await ann.ask("session.list", limit=1)
    await ann.ask("session.history", session=session)
    await ann.ask("session.export", session=session, format="json")
    await ann.ask("member.add", session=session, user="ben", role="viewer")
    await ann.ask("member.remove", session=session, user="ben")
    await ann.ask("session.close", session=session)
    await ann.ask("session.open", session=session, history=2)
