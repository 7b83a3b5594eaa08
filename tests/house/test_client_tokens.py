"""Tokens that expire: where a client gets a fresh one, when it sends it, and when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.house.fake_server import FakeServer, fake_server, until

from everstream.client import Client
from everstream.core.errors import EverstreamError
from everstream.link import LinkState, Token
from everstream.reconnect import Backoff


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as fake:
        yield fake


class Source:
    """Gives the tokens in turn, the last one again and again; or fails, where the turn has an error."""

    def __init__(self, *turns: str | Exception) -> None:
        self.turns = list(turns)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, Exception):
            raise turn
        return turn


def client_of(server: FakeServer, token: Token, connect_timeout_s: float = 10.0) -> Client:
    return Client(server.url, token, backoff=Backoff(0.01, 0.05), connect_timeout_s=connect_timeout_s)


def shown(server: FakeServer, kind: str = "hello") -> list[str | None]:
    return [command.get("token") for command in server.said(kind)]


# --------------------------------------------------------------------------- connecting


async def test_an_expired_token_is_replaced_on_the_way_back_and_the_answer_goes_on(server: FakeServer) -> None:
    server.allowed, server.tokens = 2, {"first"}
    async with client_of(server, Source("first", "second")) as client:
        stream = await client.generate("fake/one", "hi")
        await until(lambda: stream.state.offset == 2)
        server.tokens = {"second"}
        await server.close_all(4005)
        await until(lambda: server.connected == 2)
        server.streams[stream.id].allow()
        assert (await stream.result()).text == "one two three"
    assert shown(server) == ["first", "second"]


async def test_a_plain_function_serves_as_well_as_an_async_one(server: FakeServer) -> None:
    server.tokens = {"t"}
    async with client_of(server, lambda: "t") as client:
        assert await client.models()
    assert shown(server) == ["t"]


async def test_a_refused_token_is_asked_for_once_more(server: FakeServer) -> None:
    server.tokens = {"new"}
    async with client_of(server, Source("old", "new")) as client:
        assert await client.models()
    assert shown(server) == ["old", "new"]


async def test_a_token_that_is_refused_twice_is_given_up(server: FakeServer) -> None:
    server.tokens = set()
    source = Source("old")
    with pytest.raises(EverstreamError, match="will not do") as caught:
        await client_of(server, source).__aenter__()
    assert caught.value.code == "auth.denied"
    assert (source.asked, server.connected) == (2, 2)


async def test_after_a_connection_of_use_a_refused_token_is_asked_for_anew_again(server: FakeServer) -> None:
    server.tokens = {"b", "d"}
    async with client_of(server, Source("a", "b", "c", "d")) as client:
        await client.models()
        server.drop_all()
        await until(lambda: shown(server) == ["a", "b", "c", "d"])
        await client.models()


async def test_a_fixed_token_that_is_refused_is_refused_for_good(server: FakeServer) -> None:
    server.tokens = set()
    with pytest.raises(EverstreamError):
        await client_of(server, "old").__aenter__()
    assert server.connected == 1


async def test_being_forbidden_is_nothing_that_a_token_mends(server: FakeServer) -> None:
    server.close_with = [(4503, None)]
    with pytest.raises(EverstreamError) as caught:
        await client_of(server, Source("t")).__aenter__()
    assert (caught.value.code, server.connected) == ("auth.forbidden", 1)


# --------------------------------------------------------------------------- where tokens come from


async def test_a_source_that_cannot_be_reached_is_asked_again(server: FakeServer) -> None:
    async with client_of(server, Source(ConnectionError("away"), TimeoutError(), "t")) as client:
        assert await client.models()
    assert shown(server) == ["t"]


async def test_a_source_with_a_mistake_in_it_says_so_at_once(server: FakeServer) -> None:
    with pytest.raises(KeyError, match="access"):
        await client_of(server, Source(KeyError("access"))).__aenter__()
    assert server.connected == 0


async def test_a_source_that_fails_later_costs_no_stream(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server, Source("t", RuntimeError("odd"), RuntimeError("odd"), "t")) as client:
        stream = await client.generate("fake/one", "hi")
        await until(lambda: stream.state.offset == 2)
        server.drop_all()
        await until(lambda: server.connected == 2)
        server.streams[stream.id].allow()
        assert (await stream.result()).text == "one two three"


async def test_a_source_that_says_never_ends_the_client(server: FakeServer) -> None:
    gone = EverstreamError("auth.denied", "signed out")
    async with client_of(server, Source("t", gone)) as client:
        server.drop_all()
        await until(lambda: client.link_state is LinkState.CLOSED or server.connected > 1)
        with pytest.raises(EverstreamError, match="signed out"):
            await client.models()
    assert server.connected == 1


async def test_giving_up_says_what_was_in_the_way(server: FakeServer) -> None:
    with pytest.raises(ConnectionError, match=r"no token: ConnectionError"):
        await client_of(server, Source(ConnectionError("away")), connect_timeout_s=0.1).__aenter__()


# --------------------------------------------------------------------------- while connected


async def test_authentication_is_renewed_in_band_and_kept_for_the_next_connection(server: FakeServer) -> None:
    server.tokens = {"old", "new"}
    async with client_of(server, "old") as client:
        await client.authenticate("new")
        assert shown(server, "auth") == ["new"]
        server.drop_all()
        await until(lambda: server.connected == 2)
        await client.models()
    assert shown(server) == ["old", "new"]


async def test_a_token_that_is_refused_in_band_is_not_kept(server: FakeServer) -> None:
    server.tokens = {"old"}
    async with client_of(server, "old") as client:
        with pytest.raises(EverstreamError) as caught:
            await client.authenticate("wrong")
        assert caught.value.code == "auth.denied"
        server.drop_all()
        await until(lambda: server.connected == 2)
        await client.models()
    assert shown(server) == ["old", "old"]


async def test_without_a_token_the_source_is_asked_for_the_renewal(server: FakeServer) -> None:
    async with client_of(server, Source("first", "second")) as client:
        await client.authenticate()
    assert (shown(server), shown(server, "auth")) == (["first"], ["second"])


async def test_commands_that_are_refused_for_their_token_are_sent_again_behind_one_fresh_token(
    server: FakeServer,
) -> None:
    async with client_of(server, Source("first", "second", "third")) as client, asyncio.timeout(10):
        server.stale = ["models", "generate"]
        _, stream = await asyncio.gather(client.models(), client.generate("fake/one", "hi"))
        assert (await stream.result()).text == "one two three"
    assert shown(server, "auth") == ["second"]
    assert len(server.said("models")) == len(server.said("generate")) == 2


async def test_a_subscription_that_is_refused_for_its_token_is_sent_again_too(server: FakeServer) -> None:
    async with client_of(server, Source("first", "second")) as client, asyncio.timeout(10):
        stream = await client.generate("fake/one", "hi")
        await stream.result()
        server.stale = ["subscribe"]
        assert (await (await client.subscribe(stream.id)).result()).text == "one two three"
    assert shown(server, "auth") == ["second"]


async def test_a_command_whose_token_cannot_be_renewed_fails_with_its_own_error(server: FakeServer) -> None:
    server.tokens = {"first"}
    async with client_of(server, Source("first", "wrong")) as client, asyncio.timeout(10):
        server.stale = ["models", "subscribe"]
        with pytest.raises(EverstreamError) as caught:
            await client.models()
        assert caught.value.code == "auth.required"
        with pytest.raises(EverstreamError) as caught:
            await client.subscribe("r_1")
        assert caught.value.code == "auth.required"
    assert len(server.said("models")) == 1


async def test_a_server_that_says_that_the_token_ends_is_given_a_fresh_one(server: FakeServer) -> None:
    async with client_of(server, Source("first", "second")) as client:
        await client.models()
        await server.send_all({"type": "error", "code": "auth.required", "message": "soon", "retryable": False})
        await until(lambda: shown(server, "auth") == ["second"])
    assert server.connected == 1


async def test_closing_does_not_wait_for_a_source_that_hangs(server: FakeServer) -> None:
    asked = asyncio.Event()
    turns = iter(["first"])

    async def source() -> str:
        for turn in turns:
            return turn
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    async with asyncio.timeout(5), client_of(server, source) as client:
        await client.models()
        await server.send_all({"type": "error", "code": "auth.required", "message": "soon", "retryable": False})
        await asked.wait()
