"""A WebSocket server that says back what it hears, over our own protocol class: `python echo_server.py PORT`."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from everstream.gateway import transport

# The suite sends as fast as it can, and measures no pace.
transport.FRAMES_AT_ONCE = transport.FRAMES_PER_S = 1_000_000


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        kind = "text" if message.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: message[kind]})


if __name__ == "__main__":
    uvicorn.run(
        echo,
        port=int(sys.argv[1]),
        ws=transport.DirectProtocol,
        ws_max_size=1 << 26,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="info",
    )
