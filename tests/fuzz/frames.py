"""Mutated frames over sockets, many connections at a time; each of them has to be answered or closed within a bound."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import struct
from collections import Counter

from tests.fuzz.inputs import PING, broken, frame, packed

HOST = "127.0.0.1"
BOUND_S = 20.0
FRAMES_OF_ONE = 1_000  # below what a connection may send at once
CONNECTIONS_AT_ONCE = 16
PING_EVERY = 6  # ten bad frames in a row would end the connection
CLOSE = struct.pack("!H", 1000)


def framed(data: bytes, opcode: int) -> bytes:
    """A client's WebSocket frame (RFC 6455 section 5.2), its mask zero."""
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + data


def _opening(rng: random.Random, in_msgpack: bool) -> bytes:
    key = base64.b64encode(rng.randbytes(16)).decode()
    name = "msgpack" if in_msgpack else "json"
    lines = ("GET /ws HTTP/1.1", "host: 127.0.0.1", "upgrade: websocket", "connection: Upgrade",
             "sec-websocket-version: 13", f"sec-websocket-key: {key}",
             f"sec-websocket-protocol: everstream.v1.{name}")  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


def _salvo(rng: random.Random, count: int, in_msgpack: bool) -> bytes:
    """The frames of one connection; in some of them the last are no frames of a WebSocket any more."""
    opcode = 2 if in_msgpack else 1
    sent = [framed(packed({"type": "hello"}, in_msgpack), opcode)] if rng.random() < 0.95 else []
    for n in range(count):
        data = packed(PING, in_msgpack) if n % PING_EVERY == 0 else frame(rng, in_msgpack)
        if opcode == 1:
            data = data.decode("utf-8", "replace").encode()  # what is no text ends the connection
        sent.append(framed(data, opcode))
    if rng.random() < 0.3:
        sent += [broken(rng, framed(frame(rng, in_msgpack), rng.randrange(16)), sent[-1]) for _ in range(3)]
    return b"".join([*sent, framed(CLOSE, 8)])


async def _connection(port: int, rng: random.Random, count: int, said: Counter[str]) -> None:
    in_msgpack = rng.random() < 0.5
    salvo = _salvo(rng, count, in_msgpack)
    try:
        async with asyncio.timeout(BOUND_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(_opening(rng, in_msgpack))
                await reader.readuntil(b"\r\n\r\n")
                writing = asyncio.create_task(_write(writer, salvo))
                while piece := await reader.read(65_536):
                    said["answers"] += piece.count(b"type")
                await writing
                said["connections"] += 1
            finally:
                writer.transport.abort()
    except TimeoutError:
        said["hangs"] += 1
    except (ConnectionError, asyncio.IncompleteReadError):
        said["connections that were cut"] += 1
    said["frames"] += count


async def _write(writer: asyncio.StreamWriter, salvo: bytes) -> None:
    try:
        writer.write(salvo)
        await writer.drain()
        writer.write_eof()
    except OSError:
        return  # it was closed in the middle


async def attack(port: int, count: int, seed: int) -> Counter[str]:
    """Send so many frames; what came of it."""
    said: Counter[str] = Counter()
    shares = [min(FRAMES_OF_ONE, count - at) for at in range(0, count, FRAMES_OF_ONE)]

    async def some(first: int) -> None:
        for n in range(first, len(shares), CONNECTIONS_AT_ONCE):
            await _connection(port, random.Random(f"{seed} {n}"), shares[n], said)

    await asyncio.gather(*(some(n) for n in range(CONNECTIONS_AT_ONCE)))
    return said


def run(port: int, count: int, seed: int) -> Counter[str]:
    os.nice(5)  # the server is what is measured
    return asyncio.run(attack(port, count, seed))
