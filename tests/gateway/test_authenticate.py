"""Who may come in: what an application's `authenticate` says, and what it is shown."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.gateway.applications import QUICK, under_ours
from tests.gateway.conftest import MESSAGES, client_of

from everstream import App, Credentials, Principal, Turn
from everstream.core.errors import EverstreamError
from everstream.gateway.auth import ANONYMOUS, principal_of

PEOPLE = {"t-ann": Principal("ann", "Ann"), "t-ann-2": Principal("ann", "Ann"), "t-bob": Principal("bob", "Bob")}


async def by_token(credentials: Credentials) -> Principal | None:
    await asyncio.sleep(0)
    return PEOPLE.get(credentials.token or "")


def app_with(authenticate: Any, **more: Any) -> App:
    return App(QUICK, {"says": lambda request, stream: "a word"}, authenticate, **more)


async def test_a_token_says_who_somebody_is_and_streams_belong_to_him() -> None:
    turns: asyncio.Queue[Turn] = asyncio.Queue()
    async with under_ours(app_with(by_token, on_turn=turns.put)) as place, asyncio.timeout(10):
        streams = []
        for token in ("t-ann", "t-bob", "t-ann"):
            async with client_of(f"ws://{place}/ws", hello=False) as client:
                welcome = await client.ask("hello", token=token)
                assert (welcome["type"], welcome["user"]["name"]) == ("welcome", PEOPLE[token].name)
                streams.append(await client.generate("app/says", request_id="same"))
                await client.ended(streams[-1])
        assert streams[0] == streams[2] != streams[1], "a repeated request is known by its user"
        assert {(await turns.get()).user, (await turns.get()).user} == {"ann", "bob"}


@pytest.mark.parametrize("token", ["t-eve", None, ""])
async def test_nobody_is_refused_and_told_not_to_come_back(token: str | None) -> None:
    async with under_ours(app_with(by_token)) as place, client_of(f"ws://{place}/ws", hello=False) as client:
        reply = await client.ask("hello", token=token)
        assert (reply["type"], reply["code"], reply["retryable"]) == ("error", "auth.denied", False)
        assert await client.closed() == 4501


async def test_nothing_is_done_before_it_is_known_who_asks() -> None:
    decided = asyncio.Event()

    async def slowly(credentials: Credentials) -> None:
        await decided.wait()

    async with under_ours(app_with(slowly)) as place, client_of(f"ws://{place}/ws", hello=False) as client:
        await client.send(type="hello", id=1, token="t")
        await client.send(type="models", id=2)
        await client.send(type="generate", id=3, model="app/says", messages=MESSAGES)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.socket.recv()
        decided.set()
        assert await client.closed() == 4501
        assert [frame["type"] for frame in client.frames] == ["error"]


async def test_an_authenticator_that_fails_lets_nobody_in_and_says_nothing_of_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(credentials: Credentials) -> str:
        raise KeyError("the secret table")

    async with under_ours(app_with(failing)) as place, client_of(f"ws://{place}/ws", hello=False) as client:
        reply = await client.ask("hello", token="t-very-secret")
        assert (reply["code"], "secret" in reply["message"]) == ("internal", False)
        assert await client.closed() == 1011, "a client may come back: it is not its fault"
    logged = "".join(capsys.readouterr())
    assert "authenticate failed" in logged


async def test_what_came_with_the_upgrade_is_shown() -> None:
    seen: list[Credentials] = []

    def looking(credentials: Credentials) -> str:
        seen.append(credentials)
        assert threading.current_thread() is not threading.main_thread(), "it may ask a database"
        return "somebody"

    headers = {"Authorization": "bearer t-header", "Cookie": "session=s1; other=2", "X-Team": "blue"}
    async with under_ours(app_with(looking)) as place:
        async with client_of(f"ws://{place}/ws", additional_headers=headers) as client:
            assert client.frames[0]["user"] == {"id": "somebody", "name": "somebody"}
        async with client_of(f"ws://{place}/ws", hello=False, additional_headers=headers) as client:
            await client.ask("hello", token="t-said")
    first, second = seen
    assert (first.token, second.token, first.client) == ("t-header", "t-said", "127.0.0.1")
    assert (first.headers["x-team"], first.cookies["session"]) == ("blue", "s1")
    assert "t-header" not in repr(first)
    assert "s1" not in repr(first)


async def test_a_connection_renews_its_own_authentication_and_nobody_elses() -> None:
    async with under_ours(app_with(by_token)) as place, client_of(f"ws://{place}/ws", hello=False) as client:
        await client.ask("hello", token="t-ann")
        assert (await client.ask("auth", token="t-ann-2"))["type"] == "ok"
        assert (await client.ask("auth", token="t-eve"))["code"] == "auth.denied"
        assert (await client.ask("auth", token="t-bob"))["code"] == "auth.forbidden"
        assert (await client.ask("models"))["type"] == "ok", "a failed command changes nothing"


@pytest.mark.parametrize("said", [42, "", "x" * 257, Principal("", "Nobody"), True])
async def test_what_is_no_principal_lets_nobody_in(said: Any) -> None:
    with pytest.raises(EverstreamError) as refused:
        await principal_of(lambda credentials: said, Credentials("t"), 1.0)
    assert refused.value.code == "internal"


async def test_an_authenticator_that_hangs_lets_nobody_in() -> None:
    async def hanging(credentials: Credentials) -> str:
        await asyncio.Event().wait()
        return "somebody"

    with pytest.raises(EverstreamError) as refused:
        await principal_of(hanging, Credentials("t"), 0.01)
    assert refused.value.code == "internal"


async def test_where_nobody_asks_everybody_is_anonymous() -> None:
    assert await principal_of(None, Credentials("whatever"), 1.0) is ANONYMOUS


async def test_an_error_of_its_own_is_told_as_it_is() -> None:
    def busy(credentials: Credentials) -> str:
        raise EverstreamError("limit.rate", "you come too often", retry_after_ms=1000)

    async with under_ours(app_with(busy)) as place, client_of(f"ws://{place}/ws", hello=False) as client:
        reply = await client.ask("hello", token="t")
        assert (reply["code"], reply["retry_after_ms"]) == ("limit.rate", 1000)
        assert await client.closed() == 4003
