"""Mutated HTTP requests, each on a connection of its own; each has to be answered, and not with 500, within a bound."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

from everstream.gateway import openapi
from tests.fuzz.inputs import request

HOST = "127.0.0.1"
BOUND_S = 20.0
AT_ONCE = 32  # some of them wait: for the rest of what is too short, or for an answer's words
ANSWER_BYTES = 262_144  # enough has been read of what goes on for longer
ENDED_BY_US = b"\r\nconnection: close\r\n"
ENDLESS = "read_events"  # it ends when its client goes


async def _ask(port: int, sent: bytes, said: Counter[str]) -> None:
    said["requests"] += 1
    answer = b""
    try:
        async with asyncio.timeout(BOUND_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(sent)
                size = 0
                while size < ANSWER_BYTES and (piece := await reader.read(65_536)):
                    answer = answer or piece
                    size += len(piece)
                    if ENDED_BY_US not in sent:
                        break  # the connection would stay, for another request
            finally:
                writer.transport.abort()
    except TimeoutError:
        said["hangs"] += 1
        said[f"hang: {sent[:160]!r}"] += 1
    except ConnectionError:
        said["cut"] += 1
    status = answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.1 ") else "none"
    said[status] += 1
    if status == "500":
        said[f"500: {sent[:400]!r}"] += 1


async def attack(port: int, count: int, seed: int) -> Counter[str]:
    """Send so many requests; statuses, and what should not be."""
    document = openapi.document()
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if operation["operationId"] != ENDLESS
    ]
    said: Counter[str] = Counter()

    async def some(first: int) -> None:
        for n in range(first, count, AT_ONCE):
            sent = request(random.Random(f"{seed} {n}"), operations, document["components"]["schemas"])
            await _ask(port, sent, said)

    await asyncio.gather(*(some(n) for n in range(AT_ONCE)))
    return said


def run(port: int, count: int, seed: int) -> Counter[str]:
    os.nice(5)  # the server is what is measured
    return asyncio.run(attack(port, count, seed))
