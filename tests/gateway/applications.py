"""Applications of developers, under servers of both kinds: uvicorn as anybody runs it, and ours around a node."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from everstream.gateway.application import App
from everstream.gateway.server import Server, uvicorn_config
from everstream.gateway.websocket import Connections
from everstream.providers.registry import registry_of
from everstream.runtime.node import Node
from everstream.settings import Settings
from everstream.store.memory import MemoryStore

QUICK: dict[str, Any] = {"store": "memory://", "drain_ms": 0, "goaway_spread_ms": 0, "discover": False}


@asynccontextmanager
async def under_uvicorn(application: Any) -> AsyncIterator[str]:
    """Any ASGI application under uvicorn as it is; yields `127.0.0.1:PORT`."""
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, timeout_graceful_shutdown=5))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve([listener]))
        while not server.started and not running.done():
            await asyncio.sleep(0.001)  # pause: until it serves
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def under_ours(app: App) -> AsyncIterator[str]:
    """An application as `everstream serve` runs it; yields `127.0.0.1:PORT`."""
    settings = Settings(**QUICK)
    store = MemoryStore()
    node = Node(settings, store, registry_of(settings, store, app.models), app.on_turn, app.tools)
    await node.start()
    connections = Connections()
    server = Server(uvicorn_config(node, connections, app), node, connections)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve([listener]))
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
            await node.stop()
