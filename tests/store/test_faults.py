"""A server that is away, restarted, emptied, too old or locked: what the store says, and that it works again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.server import HOST, free_port
from tests.store.conftest import Seat, new_stream, until
from tests.store.servers import StoreServer

from everstream.core.events import DeltaText, Event
from everstream.core.log import Verdict
from everstream.store.base import Reply, StoreUnavailable, Write
from everstream.store.folder import find_binary
from everstream.store.valkey import ValkeyStore

AGAIN_S = 15.0


@asynccontextmanager
async def seated(url: str, node: str = "n_one") -> AsyncIterator[Seat]:
    seat = Seat(ValkeyStore(url, timeout_s=0.5), node)
    await seat.store.open(node, seat.pushes.append, seat.messages.append)
    try:
        yield seat
    finally:
        await seat.store.close()


async def persisted(call: Callable[[], Awaitable[Any]]) -> Any:
    """As every caller does: again, until the store is there."""
    async with asyncio.timeout(AGAIN_S):
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await asyncio.sleep(0.02)  # pause: between two tries


async def refusal(url: str) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        async with seated(url):
            pass
    assert caught.value.code == "store.unavailable"
    return caught.value.message


def text(*words: str) -> list[Event]:
    return [DeltaText(word) for word in words]


async def test_lost_functions_are_loaded_again_and_no_entry_is_doubled(server: StoreServer) -> None:
    async with seated(server.unix_url) as seat:
        stream = new_stream()
        created = await seat.store.create(stream, "", b"m")
        await server.ask("FUNCTION FLUSH")
        write = Write(stream, created.epochs, 0, text("a"), False, "n_one", b"m")
        assert await persisted(lambda: seat.store.commit([write])) == [Reply(Verdict.OK, 1, False)]
        await server.ask("FUNCTION FLUSH")
        state = await seat.store.read(stream)
        assert state is not None
        assert state.entries == text("a")


async def test_two_nodes_may_load_the_functions_at_once(server: StoreServer) -> None:
    async with seated(server.unix_url) as one, seated(server.unix_url, "n_two") as two:
        await server.ask("FUNCTION FLUSH")
        await asyncio.gather(one.store.nodes(), two.store.nodes())


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_killed_server_is_unavailable_and_goes_on_where_it_was(server: StoreServer, kind: str) -> None:
    async with seated(server.unix_url if kind == "unix" else server.tcp_url) as seat:
        stream = new_stream()
        created = await seat.store.create(stream, "q", b"m")
        first = Write(stream, created.epochs, 0, text("a", "b"), False, "n_one", b"m")
        await seat.store.commit([first])
        server.kill()
        second = Write(stream, created.epochs, 2, text("c"), False, "n_one")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: seat.store.commit([second]),
            lambda: seat.store.read(stream),
            lambda: seat.store.create(new_stream(), "", b""),
            lambda: seat.store.renew(1000),
            lambda: seat.store.follow(new_stream()),
            seat.store.ping,
            seat.store.open_streams,
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call()
        await server.start()
        assert await persisted(lambda: seat.store.commit([second])) == [Reply(Verdict.OK, 3, False)]
        state = await seat.store.read(stream)
        assert state is not None
        assert state.entries == text("a", "b", "c")
        assert not (await seat.store.create(new_stream(), "q", b"")).fresh


async def test_pushes_and_messages_come_again_after_a_restart(server: StoreServer) -> None:
    async with seated(server.tcp_url) as one, seated(server.tcp_url, "n_two") as two:
        stream = new_stream()
        created = await one.store.create(stream, "", b"m")
        await two.store.follow(stream)
        server.kill()
        await server.start()
        tail = 0

        async def pushed() -> None:
            nonlocal tail
            while not (two.pushes and two.messages):
                write = Write(stream, created.epochs, tail, text("x"), False, "n_one", b"m")
                (reply,) = await persisted(partial(one.store.commit, [write]))
                tail = reply.tail
                await persisted(lambda: one.store.send("n_two", b"hi"))
                await asyncio.sleep(0.02)  # pause: between two tries

        await asyncio.wait_for(pushed(), AGAIN_S)


async def test_a_server_that_says_nothing_is_unavailable_within_the_time_out(server: StoreServer) -> None:
    async with seated(server.unix_url) as seat:
        stream = new_stream()
        created = await seat.store.create(stream, "", b"m")
        write = Write(stream, created.epochs, 0, text("a"), False, "n_one", b"m")
        await server.ask("CLIENT PAUSE 1500 ALL")
        for call in (lambda: seat.store.commit([write]), seat.store.ping):
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(call(), 3)
        assert await persisted(lambda: seat.store.commit([write])) == [Reply(Verdict.OK, 1, False)]
        state = await seat.store.read(stream)
        assert state is not None
        assert state.entries == text("a"), "the first try may have been carried out too, but only once"


async def test_a_primary_that_was_deposed_is_let_go_and_taken_back(server: StoreServer) -> None:
    """Behind one address, as behind a load balancer: whoever answers there next is spoken to on new connections."""
    async with seated(server.tcp_url) as seat:
        stream = new_stream()
        created = await seat.store.create(stream, "", b"m")
        write = Write(stream, created.epochs, 0, text("a"), False, "n_one", b"m")
        await server.ask(f"REPLICAOF {HOST} {free_port()}")
        for call in (lambda: seat.store.commit([write]), lambda: seat.store.renew(1000)):
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await call()
            assert seat.store._deployment.server(0).line.lost is not None  # type: ignore[attr-defined]
        await server.ask("REPLICAOF NO ONE")
        assert await persisted(lambda: seat.store.commit([write])) == [Reply(Verdict.OK, 1, False)]
        assert await persisted(lambda: seat.store.renew(1000))


async def test_a_call_that_was_given_up_does_not_spoil_the_next(server: StoreServer) -> None:
    async with seated(server.unix_url) as seat:
        made = [(s := new_stream(), (await seat.store.create(s, "", b"m")).epochs) for _ in range(2)]
        writes = [
            Write(s, e, 0, text("a", "b") if n else text("a"), False, "n_one", b"m") for n, (s, e) in enumerate(made)
        ]
        given_up = asyncio.create_task(seat.store.commit([writes[0]]))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert await persisted(lambda: seat.store.commit([writes[1]])) == [Reply(Verdict.OK, 2, False)]


async def test_closing_right_after_opening_ends_at_once(server: StoreServer) -> None:
    async def come_and_go() -> None:
        async with seated(server.tcp_url):
            pass

    for _ in range(5):
        await asyncio.wait_for(come_and_go(), 3)


# --------------------------------------------------------------------------- what cannot be used, and why


async def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    assert "is it running" in await refusal(f"redis://{HOST}:{free_port()}/0")
    assert "is it running" in await refusal(f"unix://{tmp_path}/none.sock")


async def test_a_wrong_password_is_named_but_not_shown(tmp_path: Path) -> None:
    server = await StoreServer(find_binary(None), tmp_path, password="right").start()
    try:
        for url in (f"redis://:wrong-one@{HOST}:{server.port}/0", server.tcp_url):
            message = await refusal(url)
            assert "password" in message
            assert "wrong-one" not in message
        async with seated(f"redis://:right@{HOST}:{server.port}/0") as seat:
            await seat.store.ping()
    finally:
        server.kill()


@asynccontextmanager
async def pretender(info: bytes) -> AsyncIterator[str]:
    """A server that answers INFO with `info` and everything else with OK."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    length = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(length + 2))[:-2])
                if words[0].upper() == b"INFO":
                    writer.write(b"$%d\r\n%b\r\n" % (len(info), info))
                elif words[0].upper() == b"HELLO":
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                else:
                    writer.write(b"+OK\r\n")
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield f"redis://{HOST}:{server.sockets[0].getsockname()[1]}/0"
    finally:
        server.close()


async def test_an_old_server_is_refused_with_what_would_do() -> None:
    async with pretender(b"# Server\r\nredis_version:6.2.14\r\n") as url:
        message = await refusal(url)
    assert "6.2.14" in message
    assert "7.0" in message


async def test_a_server_of_another_kind_is_refused_and_not_a_crash() -> None:
    async with pretender(b"# Server\r\nname:cache\r\n") as url:
        assert "store" in await refusal(url)


@pytest.mark.parametrize("url", ["redis://host:notaport/0", "redis://localhost:99999/0"])
async def test_an_address_that_is_none_is_refused(url: str) -> None:
    assert "store" in await refusal(url)


async def test_a_listener_outlives_a_message_that_nobody_understands(server: StoreServer) -> None:
    async with seated(server.unix_url) as seat:
        stream = new_stream()
        created = await seat.store.create(stream, "", b"m")
        await seat.store.follow(stream)
        await server.ask(f"SPUBLISH es:{{p7}}:f:{stream} junk")
        write = Write(stream, created.epochs, 0, text("a"), False, "n_one", b"m")
        await seat.store.commit([write])
        await until(lambda: bool(seat.pushes))
        assert seat.pushes[0].entries == text("a")
