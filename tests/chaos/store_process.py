"""A valkey-server of our own for the chaos tests, with its append-only file on, that can die and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.store.servers import StoreServer

from everstream.store.folder import find_binary


@asynccontextmanager
async def running_store(folder: Path) -> AsyncIterator[StoreServer]:
    """`folder` is there and empty.  The server ends with the block."""
    server = StoreServer(find_binary(None), folder)
    try:
        yield await server.start()
    finally:
        await asyncio.to_thread(server.kill)
