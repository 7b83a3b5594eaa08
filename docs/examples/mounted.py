"""Everstream inside a FastAPI application: its own routes, its own users, its own table of answers.

    pip install fastapi
    uvicorn docs.examples.mounted:api

The page is at /chat/, the WebSocket at /chat/ws.  FastAPI does not start what is mounted, so it is given the lifespan.
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI

import everstream

USERS = {"t-ann": everstream.Principal("ann", "Ann"), "t-bob": everstream.Principal("bob", "Bob")}
ANSWERS: list[dict[str, str]] = []


async def who(credentials: everstream.Credentials) -> everstream.Principal | None:
    """By a token, or by the cookie that the page's visitor has from our login."""
    return USERS.get(credentials.token or credentials.cookies.get("token", ""))


async def keep(turn: everstream.Turn) -> None:
    """Called for every answer that ended; a database would go here."""
    ANSWERS.append({"user": turn.user, "answer": turn.text, "ended": turn.end.reason})


chat = everstream.create_app(authenticate=who, on_turn=keep)


@chat.model("parrot")
async def parrot(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    for word in str(request.messages[-1].content).split():
        yield f"{word}! "
        await asyncio.sleep(0.02)


api = FastAPI(lifespan=chat.lifespan)


@api.get("/answers")
async def answers() -> list[dict[str, str]]:
    return ANSWERS


api.mount("/chat", chat)
