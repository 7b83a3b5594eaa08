"""Inputs drawn from a seed: valid ones, and what becomes of them when values, bytes and lengths are changed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import msgpack

MESSAGES = [{"role": "user", "content": "hello"}]
PARAMS = {"rate": 0, "tokens": 3}
STREAM, SESSION = "r_0a" + "a" * 26, "s_0a" + "a" * 26

COMMANDS: tuple[dict[str, Any], ...] = (
    {"type": "hello", "id": 1, "client": "x", "resume": [{"stream": STREAM, "epoch": 1, "offset": 2}]},
    {"type": "generate", "id": 2, "model": "scripted/count", "messages": MESSAGES, "params": PARAMS},
    {"type": "generate", "id": 3, "model": "scripted/echo", "content": "hi", "params": PARAMS, "on_busy": "queue"},
    {"type": "cancel", "id": 4, "stream": STREAM},
    {"type": "subscribe", "id": 5, "stream": STREAM, "epoch": 1, "offset": 0},
    {"type": "unsubscribe", "id": 6, "stream": STREAM},
    {"type": "session.create", "id": 7, "title": "t", "members": [{"user": "u", "role": "viewer"}]},
    {"type": "session.open", "id": 8, "session": SESSION, "history": 5},
    {"type": "session.list", "limit": 3},
    {"type": "session.history", "session": SESSION, "limit": 3, "before": "m_1"},
    {"type": "session.update", "session": SESSION, "title": "t", "system": "s"},
    {"type": "member.add", "session": SESSION, "user": "u", "role": "editor"},
    {"type": "tool_result", "session": SESSION, "stream": STREAM, "results": [{"call_id": "c", "content": {"a": 1}}]},
    {"type": "tool_approval", "session": SESSION, "stream": STREAM, "approvals": [{"call_id": "c", "approved": True}]},
    {"type": "typing", "session": SESSION, "typing": True},
    {"type": "auth", "token": "t"},
    {"type": "models"},
    {"type": "ping", "id": "p", "x": [1, {"y": None}]},
)
PING = {"type": "ping"}


def nested(rng: random.Random) -> Any:
    value: Any = 1
    for _ in range(rng.choice((5, 100, 127, 128, 129, 300))):
        value = [value] if rng.random() < 0.5 else {"k": value}
    return value


ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: rng.choice((None, True, False, 0, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 0.5, 1e308)),
    lambda rng: rng.choice(("", "\x00", "\u202e", "\ud7ff", "../..", "%00", "\r\n", "scripted/count", "r_", "own_1")),
    lambda rng: "x" * rng.choice((1, 63, 64, 65, 255, 257, 1000, 9000)),
    lambda rng: rng.choice(([], {}, [[]], [None], {"type": "ping"}, {"": ""})),
    lambda rng: [0] * rng.choice((1, 100, 2000)),
    nested,
)


def changed(rng: random.Random, value: Any) -> Any:
    """The same value with one of its parts changed, left out, doubled or renamed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        return rng.choice(ODD)(rng)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        return [*value[:at], changed(rng, value[at]), *value[at + 1 :]] if rng.random() < 0.7 else value * 2
    name = rng.choice(list(value))
    kept = {key: item for key, item in value.items() if key != name}
    choice = rng.random()
    if choice < 0.15:
        return kept
    if choice < 0.25:
        return kept | {name[::-1]: value[name]}
    return kept | {name: changed(rng, value[name])}


LENGTHS = (b"\xdb\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdd\x00\x0f\xff\xff", b"\xc1",
           b"\x91" * 200, b"[" * 200, b'{"a":' * 200, b"\xc7\xff\x01", b"1e999", b"-0", b"\xed\xa0\x80")  # fmt: skip


def broken(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Bytes with some of them flipped, cut off, doubled, mixed with others, or announced where there are none."""
    at = rng.randrange(len(data) + 1)
    choice = rng.randrange(6)
    if choice == 0:
        mutable = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            if mutable:
                mutable[rng.randrange(len(mutable))] ^= 1 << rng.randrange(8)
        return bytes(mutable)
    if choice == 1:
        return data[:at]
    if choice == 2:
        return data[:at] + other[rng.randrange(len(other) + 1) :]
    if choice == 3:
        return data[:at] + data[rng.randrange(len(data) + 1) :]
    if choice == 4:
        return data[:at] + rng.choice(LENGTHS) + data[at:]
    return rng.randbytes(rng.randint(0, 60))


def packed(value: Any, in_msgpack: bool) -> bytes:
    if not in_msgpack:
        return json.dumps(value).encode()
    try:
        return bytes(msgpack.packb(value))
    except (ValueError, OverflowError):  # what only JSON can say
        return bytes(msgpack.packb(PING))


def frame(rng: random.Random, in_msgpack: bool) -> bytes:
    """A command, or what was one."""
    value: Any = rng.choice(COMMANDS)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        value = changed(rng, value)
    data = packed(value, in_msgpack)
    if rng.random() < 0.5:
        return data
    return broken(rng, data, packed(rng.choice(COMMANDS), in_msgpack))


def drawn(rng: random.Random, schema: Any, components: dict[str, Any], depth: int = 5) -> Any:
    """A value that a JSON Schema allows, more or less: lengths and patterns are not looked at."""
    if "$ref" in schema:
        return drawn(rng, components[schema["$ref"].rpartition("/")[2]], components, depth - 1)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return drawn(rng, rng.choice(schema[word]), components, depth)
    for word in ("enum", "examples"):
        if schema.get(word):
            return rng.choice(schema[word])
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    if kind == "object":
        wanted = set(schema.get("required", ()))
        names = [name for name in schema.get("properties", {}) if name in wanted or (depth > 0 and rng.random() < 0.5)]
        value = {name: drawn(rng, schema["properties"][name], components, depth - 1) for name in names}
        return value | ({"model": "scripted/echo"} if "model" in value and rng.random() < 0.8 else {})
    if kind == "array":
        items = schema.get("items") or {}
        least = max(schema.get("minItems", 0), 1)
        return [drawn(rng, items, components, depth - 1) for _ in range(rng.randint(least, least + 1))] if depth else []
    return {"integer": rng.randint(0, 9), "number": rng.random(), "boolean": rng.random() < 0.5, "null": None}.get(
        kind, rng.choice(("a", "hello", STREAM, SESSION, "user", "json"))
    )


def request(rng: random.Random, operations: list[tuple[str, str, Any]], components: dict[str, Any]) -> bytes:
    """An HTTP request for one of the operations (method, path, what is described), with mutations anywhere in it."""
    method, path, operation = rng.choice(operations)
    path = re.sub(r"\{\w+\}", lambda _: rng.choice((STREAM, SESSION, "x", "%00", "..%2f", "a" * 300, "%ff")), path)
    names = [given["name"] for given in operation.get("parameters", []) if given["in"] == "query"]
    pairs = [
        f"{name}={rng.choice(('1', '-1', 'x', '', '%00', '%ff%fe', STREAM))}" for name in names if rng.random() < 0.6
    ]
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    body = b""
    if schema is not None:
        value = drawn(rng, schema, components)
        if rng.random() < 0.6:
            value = changed(rng, value)
        body = json.dumps(value).encode()
        if rng.random() < 0.3:
            body = broken(rng, body, b'{"messages":[{"role":"user","content":"hello"}]}')
    heads = [
        b"host: 127.0.0.1",
        b"connection: close",
        b"content-type: application/json",
        b"content-length: %d" % len(body),
    ]
    if rng.random() < 0.2:
        said = rng.choice(
            ("last-event-id", "origin", "authorization", "accept", "cookie", "x-forwarded-for", "upgrade")
        )
        heads.append(f"{said}: {rng.choice(('1', '-1', 'Bearer x', STREAM + ':9', 'é', 'x' * 3000))}".encode("latin-1"))
    line = f"{method} {path}{'?' if pairs else ''}{'&'.join(pairs)} HTTP/1.1".encode()
    head = b"\r\n".join([line, *heads])
    if rng.random() < 0.1:
        head = broken(rng, head, b"transfer-encoding: chunked\r\n\r\nzz\r\n")
    return head + b"\r\n\r\n" + body
