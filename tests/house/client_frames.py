"""The frames of the TypeScript client, made from the server's own types.

`python -m tests.house.client_frames` writes `web/client/src/frames.ts`.  The JSON Schemas are those that
`/asyncapi.json` shows; here they become one interface a frame, named after the server's type.  A command's name ends
in `Command` and an entry's in `Entry`, for some of them say the same word.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.house.tree import ROOT

from everstream.core.commands import COMMANDS
from everstream.core.errors import FAULTS
from everstream.core.events import EVENTS
from everstream.core.session_events import SESSION_EVENTS
from everstream.gateway.asyncapi import ANSWERS, OTHER_FRAMES, document

FILE = ROOT / "web" / "client" / "src" / "frames.ts"
WIDTH = 120
# What an application calls a thing, where the server's name for it is about the server.
NAMES = {"ModelInfo": "Model", "SessionCard": "SessionInfo", "Anything": "Pong"}
# Objects that may have keys of their own beside those that are known.
OPEN = {"Params", "PingCommand", "Pong"}
# Schemas that come often enough to have a name, which the server's types leave to a union.
ALIASES = {
    "ContentPart": "TextPart | ImagePart",
    "Content": "string | ContentPart[]",
    "Role": '"editor" | "owner" | "viewer"',
    "EndReason": '"budget" | "cancelled" | "complete" | "failed" | "interrupted"',
}
PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
HEAD = """\
// The frames of the protocol.  Made from the server's types by `python -m tests.house.client_frames`: do not edit.
//
// Keys that are not named here, and frames of an unknown `type`, are of a later version: they are to be ignored.
"""
LATER = """\
/** What a frame may say of what it is about: every frame is one of these. */
export interface Envelope {
  type: string;
  id?: string | number;
  stream?: string | null;
  session?: string | null;
  epoch?: number | null;
  after?: number;
  upto?: number;
}

/**
 * A frame of a later version.  Its `type` is any other text; this one stands for all of them, so that a `switch` on
 * `type` tells the known ones apart.
 */
export interface UnknownFrame extends Envelope {
  type: "of a later version";
}
"""


def frames_module() -> str:
    """The text of `frames.ts`."""
    said = document()["components"]
    messages = {name: message["payload"] for name, message in said["messages"].items()}
    commands = {f"{shape.__name__}Command": f"command.{name}" for name, shape in COMMANDS.items()}
    replies: dict[str, str] = {}
    for name, answers in ANSWERS.items():
        for number, (_, shape) in enumerate(answers):
            replies.setdefault(_named(shape.__name__), f"reply.{name}" + (f".{number + 1}" if number else ""))
    entries = {f"{event.__name__}Entry": f"entry.{_tag(event)}" for event in EVENTS}
    session_entries = {f"{event.__name__}Entry": f"session_entry.{_tag(event)}" for event in SESSION_EVENTS}
    others = {
        "Heartbeat" if kind == "heartbeat" else shape.__name__: f"frame.{kind}" for kind, shape in OTHER_FRAMES.items()
    }
    groups = {
        "Command": ("What a client says.", commands),
        "Reply": ("What a command is answered with; or by `ErrorFrame`.", replies),
        "Entry": ("An entry of a response stream, or several that came together.", entries),
        "SessionEntry": ("An entry of a session.", session_entries),
        "OtherFrame": ("What the server says by itself, beside entries.", others),
    }
    parts = [HEAD, _union("ErrorCode", "What a command may fail with.", [json.dumps(code) for code in FAULTS])]
    parts += [f"export type {name} = {value};\n" for name, value in ALIASES.items()]
    parts += [_interface(_named(name), _untagged(schema)) for name, schema in said["schemas"].items()]
    for what, frames in groups.values():
        parts.append(f"// {'-' * 75} {what}\n")
        parts += [_interface(name, messages[message]) for name, message in frames.items()]
    parts += [_union(name, what, frames) for name, (what, frames) in groups.items()]
    parts += [LATER, _union("KnownFrame", "", ["Reply", "Entry", "SessionEntry", "OtherFrame"])]
    parts += [_union("Frame", "What a server sends.", ["(KnownFrame & Envelope)", "UnknownFrame"]), _replies()]
    return "\n".join(parts)


def _replies() -> str:
    lines = ["/** What each command is answered with. */", "export interface Replies {"]
    for name, answers in ANSWERS.items():
        shapes = " | ".join(_named(shape.__name__) for _, shape in answers) or "never"
        lines.append(f"  {_key(name)}: {shapes};")
    return "\n".join([*lines, "}", "", 'export type ReplyTo<C extends Command> = Replies[C["type"]];', ""])


def _interface(name: str, schema: dict[str, Any]) -> str:
    needed = set(schema.get("required", ()))
    lines = _comment(schema.get("description", ""), "")
    lines.append(f"export interface {name} {{")
    for key, value in schema["properties"].items():
        lines += _comment(value.get("description", ""), "  ") if key != "id" else []
        written = "ErrorCode" if name == "ErrorFrame" and key == "code" else _type(value)
        lines.append(f"  {_key(key)}{'' if key in needed else '?'}: {written};")
    if name in OPEN:
        lines.append("  [name: string]: unknown;")
    return "\n".join([*lines, "}", ""])


def _type(schema: dict[str, Any]) -> str:
    """A schema as a type.  Bounds of numbers and lengths have no place in it."""
    if "$ref" in schema:
        written = _named(schema["$ref"].rpartition("/")[2])
    elif "const" in schema:
        written = json.dumps(schema["const"])
    elif "enum" in schema:
        written = " | ".join(json.dumps(value) for value in schema["enum"])
    elif "anyOf" in schema:
        written = " | ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    elif schema.get("type") == "array":
        item = _type(schema["items"])
        written = f"({item})[]" if " | " in item else f"{item}[]"
    elif schema.get("type") == "object":
        written = "Record<string, unknown>"
    else:
        written = PLAIN.get(schema.get("type", ""), "unknown")
    for alias, meant in ALIASES.items():
        written = written.replace(f"({meant})", alias).replace(meant, alias)
    return written


def _untagged(schema: dict[str, Any]) -> dict[str, Any]:
    """What an entry says, where it is part of something else, does not say again that it is one."""
    tag = schema["properties"].get("type", {}).get("enum", [])
    if tag not in [[_tag(event)] for event in EVENTS]:
        return schema
    return schema | {"properties": {key: value for key, value in schema["properties"].items() if key != "type"}}


def _union(name: str, what: str, members: Iterable[str]) -> str:
    line = f"export type {name} = {' | '.join(members)};"
    wrapped = [line] if len(line) <= WIDTH else [f"export type {name} =", *(f"  | {member}" for member in members)]
    if len(wrapped) > 1:
        wrapped[-1] += ";"
    return "\n".join([*_comment(what, ""), *wrapped, ""])


def _comment(text: str, indent: str) -> list[str]:
    words = re.sub(r"\bNone\b", "null", " ".join(text.split()))
    if not words:
        return []
    if len(indent) + len(words) + 7 <= WIDTH:
        return [f"{indent}/** {words} */"]
    wrapped = textwrap.wrap(words, WIDTH - len(indent) - 3)
    return [f"{indent}/**", *(f"{indent} * {line}" for line in wrapped), f"{indent} */"]


def _named(name: str) -> str:
    return NAMES.get(name, name)


def _key(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


def _tag(event: Any) -> str:
    return str(event.__struct_config__.tag)


def write(path: Path = FILE) -> None:
    path.write_text(frames_module(), encoding="utf-8")


if __name__ == "__main__":
    write()
