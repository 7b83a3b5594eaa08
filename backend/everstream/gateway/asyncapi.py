"""`/asyncapi.json`: what is said over the WebSocket, as AsyncAPI 3.0.

The commands are those that connections understand, the entries those that streams are made of, and the schemas are
those of their types.  As that specification has
it (asyncapi.com/docs/reference/specification/v3.0.0), what the server `receive`s comes from a client.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everstream import __version__
from everstream.core.commands import COMMANDS
from everstream.core.errors import FAULTS
from everstream.core.events import EVENTS, Event, Params
from everstream.core.protocol import PROTOCOL_VERSION
from everstream.core.session_events import SESSION_EVENTS
from everstream.core.wire import SUBPROTOCOLS
from everstream.gateway import replies
from everstream.gateway.openapi import reached, schemas_of

Shape = type[msgspec.Struct]

# What a command is answered with beside `error`: the frame's `type`, and what is in it.
ANSWERS: dict[str, tuple[tuple[str, Shape], ...]] = {
    "hello": (("welcome", replies.Welcome),),
    "generate": (("accepted", replies.Accepted),),
    "cancel": (("cancelled", replies.Cancelled),),
    "subscribe": (
        ("subscribed", replies.Subscribed),
        ("snapshot", replies.Snapshot),
        ("snapshot", replies.SessionSnapshot),
    ),
    "unsubscribe": (("ok", replies.Done),),
    "session.create": (("ok", replies.SessionMade),),
    "session.open": (("ok", replies.SessionOpened),),
    "session.close": (("ok", replies.Done),),
    "session.update": (("ok", replies.Done),),
    "session.delete": (("ok", replies.Done),),
    "session.list": (("ok", replies.SessionsListed),),
    "session.history": (("ok", replies.MessagesListed),),
    "session.export": (("ok", replies.SessionExported),),
    "member.add": (("ok", replies.Done),),
    "member.remove": (("ok", replies.Done),),
    "tool_result": (("accepted", replies.TurnAccepted), ("ok", replies.ResultsMissing)),
    "tool_approval": (("ok", replies.Done),),
    "typing": (),
    "auth": (("ok", replies.Done),),
    "models": (("ok", replies.ModelsListed),),
    "ping": (("pong", replies.Anything),),
}
# What the server says by itself, beside entries.
OTHER_FRAMES: dict[str, Shape] = {
    "error": replies.ErrorFrame,
    "heartbeat": replies.Done,
    "goaway": replies.Goaway,
    "presence": replies.Presence,
    "typing": replies.TypingShown,
}
_ID = {"description": "The command's `id`, where it had one.", "anyOf": [{"type": "string"}, {"type": "integer"}]}
_OFFSET = {"type": "integer", "minimum": 0}
_SOCKET = "#/channels/ws"
_INTRODUCTION = (
    "The first command is `hello`. A frame is one JSON object, or one MessagePack map with the same keys, as the "
    "subprotocol says. Entries carry the half-open range `(after, upto]` of their stream that they cover: a client at "
    "`n` applies what has `after == n`, ignores what has `upto <= n`, and subscribes anew where `after > n`. "
    "Unknown keys are to be ignored by both sides."
)


def document(root: str = "") -> dict[str, Any]:
    """The whole document, for an application that is mounted at `root`."""
    frames = _frames()
    messages, schemas = _described(frames)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Everstream",
            "version": __version__,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "ws": {
                "address": f"{root}/ws",
                "title": f"Everstream protocol, version {PROTOCOL_VERSION}",
                "description": "Subprotocols: " + ", ".join(f"`{name}`" for name in SUBPROTOCOLS) + ".",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in frames},
            }
        },
        "operations": _operations(),
        "components": {
            "messages": messages,
            "schemas": schemas,
        },
        "x-error-codes": {
            code: {"retryable": fault.retryable, "http_status": fault.http_status}
            | ({} if fault.close_code is None else {"close_code": fault.close_code})
            for code, fault in FAULTS.items()
        },
    }


class Frame:
    """A kind of frame: its `type`, the type of what is in it, and what this wire adds to that."""

    def __init__(self, kind: str, shape: Shape, what: str, added: dict[str, Any], needed: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.shape = shape
        self.what = what
        self._added = added
        self._needed = needed

    def schema(self, components: dict[str, Any]) -> dict[str, Any]:
        """The type's own schema with the frame's `type`, and what is added to it."""
        own = components[self.shape.__name__]
        properties = {"type": {"const": self.kind}} | {
            name: value for name, value in own["properties"].items() if name != "type"
        }
        needed = ["type", *(name for name in own.get("required", ()) if name != "type"), *self._needed]
        said: dict[str, Any] = {"type": "object"}
        if "description" in own:
            said["description"] = own["description"]
        return said | {"properties": properties | self._added, "required": list(dict.fromkeys(needed))}


def command_name(command: str) -> str:
    return f"command.{command}"


def _reply_name(command: str, number: int) -> str:
    return f"reply.{command}" + (f".{number + 1}" if number else "")


def _frames() -> dict[str, Frame]:
    """Every frame, by the name of its message."""
    found: dict[str, Frame] = {}
    for name, shape in COMMANDS.items():
        said_with: Shape = replies.Anything if name == "ping" else shape
        found[command_name(name)] = Frame(name, said_with, f"The command `{name}`.", {"id": _ID})
    for name, answers in ANSWERS.items():
        for number, (kind, answer) in enumerate(answers):
            said = f"What `{name}` is answered with."
            found[_reply_name(name, number)] = Frame(kind, answer, said, {"id": _ID})
    for event in EVENTS:
        found[f"entry.{_tag(event)}"] = _entry(event, "An entry of a response stream.", {})
    for event in SESSION_EVENTS:
        found[f"session_entry.{_tag(event)}"] = _entry(
            event, "An entry of a session's stream.", {"session": {"type": "string"}}
        )
    for kind, other in OTHER_FRAMES.items():
        found[f"frame.{kind}"] = Frame(kind, other, "No entry of a stream.", {"id": _ID} if kind == "error" else {})
    return found


def _entry(event: type[Event], what: str, named: dict[str, Any]) -> Frame:
    added = named | {"after": _OFFSET, "upto": _OFFSET}
    if "stream" not in event.__struct_fields__:
        added["stream"] = {"type": "string"}
    return Frame(_tag(event), event, what, added, tuple(sorted(added)))


def _tag(event: type[Event]) -> str:
    return str(event.__struct_config__.tag)


def _described(frames: dict[str, Frame]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The messages, and the schemas of what they are made of."""
    # Here a `discriminator` would be a name alone; each part says what it is by its `type` all the same.
    components = _without(
        "discriminator", schemas_of([*dict.fromkeys(frame.shape for frame in frames.values()), Params])
    )
    messages: dict[str, Any] = {}
    for name, frame in frames.items():
        payload = frame.schema(components)
        if frame.kind == "error":
            payload["properties"]["code"] = payload["properties"]["code"] | {"enum": list(FAULTS)}
        messages[name] = {"name": frame.kind, "title": frame.kind, "summary": frame.what, "payload": payload}
    # A type that is only ever a frame is described as that frame.
    return messages, reached(messages, components)


def _without(name: str, schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without(name, part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without(name, value) for key, value in schema.items() if key != name}


def _operations() -> dict[str, Any]:
    """What a client may say, each with what it is answered; and what the server says by itself."""
    found: dict[str, Any] = {}
    for name in COMMANDS:
        operation: dict[str, Any] = {
            "action": "receive",
            "channel": {"$ref": _SOCKET},
            "summary": f"The client says `{name}`.",
            "messages": [_named(command_name(name))],
        }
        answers = [_reply_name(name, number) for number in range(len(ANSWERS[name]))]
        operation["reply"] = {
            "channel": {"$ref": _SOCKET},
            "messages": [_named(answer) for answer in (*answers, "frame.error")],
        }
        found[name] = operation
    said = {
        "entries": ("Entries of a response stream.", [f"entry.{_tag(event)}" for event in EVENTS]),
        "session_entries": (
            "Entries of a session's stream.",
            [f"session_entry.{_tag(event)}" for event in SESSION_EVENTS],
        ),
        "frames": ("What is no entry, and answers nothing.", [f"frame.{kind}" for kind in OTHER_FRAMES]),
    }
    for name, (what, frames) in said.items():
        found[name] = {
            "action": "send",
            "channel": {"$ref": _SOCKET},
            "summary": what,
            "messages": [_named(frame) for frame in frames],
        }
    return found


def _named(frame: str) -> dict[str, str]:
    return {"$ref": f"{_SOCKET}/messages/{frame}"}
