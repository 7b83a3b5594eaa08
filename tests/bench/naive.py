"""The naive relay: what most people write first, and the measure of what a better one is worth.

Starlette and `send_json`, the provider's SDK iterated chunk by chunk, one awaited XADD a delta.  It speaks enough of
the protocol for the bench's load client: `hello`, `generate`, `cancel`, and `resume` by reading the Redis stream.  It
is honest work, not a straw man: uvloop, hiredis and a shared connection pool, and nothing in it is slow on purpose.
Some of its cancels get lost on Python 3.11: redis-py sends under `asyncio.wait_for`, which before 3.12 forgets a
cancel that comes in the same turn as the result.  That is what the usual code does, so it stays.

    REDIS_SOCKET=… OPENAI_BASE_URL=… OPENAI_API_KEY=… python -m uvicorn tests.bench.naive:app
"""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import Any

import openai
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

CONNECTIONS = 2000

client = openai.AsyncOpenAI(max_retries=0)
redis = Redis(unix_socket_path=os.environ["REDIS_SOCKET"], max_connections=CONNECTIONS, decode_responses=True)


async def relay(socket: WebSocket, stream: str, command: dict[str, Any]) -> None:
    """Ask the provider and pass each delta on: first to Redis, then to the client."""
    offset = 0
    answer = await client.chat.completions.create(
        model=command["model"].removeprefix("openai/"), messages=command["messages"], stream=True
    )
    async with answer:
        async for chunk in answer:
            if not chunk.choices or not chunk.choices[0].delta.content:
                continue
            text = chunk.choices[0].delta.content
            offset += 1
            await redis.xadd(f"stream:{stream}", {"type": "delta_text", "text": text})
            await socket.send_json(
                {"type": "delta_text", "stream": stream, "after": offset - 1, "upto": offset, "text": text}
            )
    await finish(socket, stream, offset, "complete")


async def finish(socket: WebSocket, stream: str, offset: int, reason: str) -> None:
    await redis.xadd(f"stream:{stream}", {"type": "stream_end", "reason": reason})
    await socket.send_json(
        {"type": "stream_end", "stream": stream, "after": offset, "upto": offset + 1, "reason": reason}
    )


async def resume(socket: WebSocket, stream: str, offset: int) -> None:
    entries: Any = await redis.xrange(f"stream:{stream}")
    for place, (_, fields) in enumerate(entries[offset:], offset):
        await socket.send_json({**fields, "stream": stream, "after": place, "upto": place + 1})


async def connection(socket: WebSocket) -> None:
    await socket.accept(subprotocol="everstream.v1.json")
    tasks: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            command = await socket.receive_json()
            kind, reply = command["type"], {"id": command.get("id")}
            if kind == "hello":
                await socket.send_json({"type": "welcome", **reply, "protocol": 1})
                for position in command.get("resume", []):
                    await resume(socket, position["stream"], position["offset"])
            elif kind == "generate":
                stream = f"r_{secrets.token_hex(8)}"
                await socket.send_json({"type": "accepted", **reply, "stream": stream, "epoch": 1})
                tasks[stream] = asyncio.create_task(relay(socket, stream, command))
            elif kind == "cancel":
                stream = command["stream"]
                tasks[stream].cancel()
                await asyncio.wait([tasks.pop(stream)])
                await socket.send_json({"type": "cancelled", **reply, "streams": [{"stream": stream}]})
                await finish(socket, stream, 0, "cancelled")
    except WebSocketDisconnect:
        pass
    finally:
        for task in tasks.values():
            task.cancel()


app = Starlette(routes=[WebSocketRoute("/ws", connection)])
