"""Models for a bench that drops connections: they say one word, and the rest when nobody listens any more.

EVERSTREAM_STORE=… everstream serve tests.bench.reconnect_app:app
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import everstream

GO = asyncio.Event()

app = everstream.create_app()


def token(number: int) -> str:
    """Each can be told from all others of its stream."""
    return f"{number} "


@app.model("told")
async def told(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    """Token 0; as many as were asked for, once somebody has said go; and then it is not at its end."""
    yield token(0)
    await GO.wait()
    for number in range(1, request.extra["tokens"] + 1):
        yield token(number)
    await asyncio.Event().wait()


@app.model("go")
async def go(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    GO.set()
    yield "gone"
