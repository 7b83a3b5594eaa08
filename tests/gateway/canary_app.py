"""The application that the canary tests serve: models and tools that fail with what they were given in their messages,
and a note of all that reached the server, in the file that `CANARY_SEEN` names."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from everstream.gateway.application import App

SEEN = Path(os.environ["CANARY_SEEN"])


def note(*said: object) -> None:
    with SEEN.open("ab") as file:
        for part in said:
            file.write(part if isinstance(part, bytes) else str(part).encode("utf-8", "replace"))
            file.write(b"\n")


class Watched(App):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await super().__call__(scope, receive, send)
        note(scope["path"], scope["query_string"], *(part for pair in scope["headers"] for part in pair))

        async def received() -> Message:
            message = await receive()
            note(*(message[name] for name in ("body", "text", "bytes") if message.get(name)))
            return message

        return await super().__call__(scope, received, send)


async def told(ended: Any) -> None:
    raise RuntimeError(f"on_turn {ended!r}")


app = Watched(on_turn=told)


@app.model("fails")
async def fails(request: Any, stream: Any) -> Any:
    raise RuntimeError(f"cannot answer {request!r}")


@app.model("breaks")
async def breaks(request: Any, stream: Any) -> Any:
    yield "a word "
    try:
        raise KeyError(str(request))
    except KeyError as error:
        raise ExceptionGroup(f"several {request!r}", [ValueError(f"inner {request!r}")]) from error


@app.model("blocks")
def blocks(request: Any, stream: Any) -> Any:
    yield "a word "
    raise OSError(5, f"no disk for {request!r}")


@app.tool
def failing(text: str) -> str:
    """Fails."""
    raise RuntimeError(f"failed with {text}")


@app.tool
async def odd(text: str) -> Any:
    """Returns what is no JSON."""
    asyncio.get_running_loop().create_future().set_exception(RuntimeError(f"nobody hears {text}"))
    return {text: object()}
