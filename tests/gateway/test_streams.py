"""Streams over real sockets: resuming, multiplexing, slow readers, both encodings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import socket as sockets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.gateway.conftest import JSON, MESSAGES, MSGPACK, Client, Gateway, Held, count_text, serving
from tests.runtime.conftest import FINISH, HEADERS, text, until

from everstream.core.lease import stream_id
from everstream.gateway.app import app_around
from everstream.gateway.websocket import Connections
from everstream.runtime.hub import Feed

BOTH = pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])


@BOTH
async def test_a_whole_answer_arrives_as_it_was_said(gateway: Gateway, subprotocol: str) -> None:
    async with gateway.client(subprotocol) as client:
        stream = await client.generate(params={"tokens": 300, "rate": 0})
        end = await client.ended(stream)
        assert (end["reason"], end["finish_reason"], end["usage"]["output_tokens"]) == ("complete", "stop", 300)
        assert client.streams[stream].text == count_text(300)
        kinds = [frame["type"] for frame in client.streams[stream].frames]
        assert kinds[:3] == ["request_start", "headers_received", "first_token"]
        assert kinds[-2:] == ["last_token", "stream_end"]


async def test_both_encodings_carry_the_same_frames(gateway: Gateway) -> None:
    async with gateway.client(JSON) as one, gateway.client(MSGPACK) as two:
        stream = await one.generate(
            params={
                "tokens": 40, "thinking_tokens": 10, "rate": 0,
                "tool_call": {"name": "f", "arguments": {"ż": ["🙂", 1.5, None]}},
            }
        )  # fmt: skip
        await one.ended(stream)
        async with gateway.client(JSON) as again:
            for client in (again, two):
                await client.ask("subscribe", stream=stream)
                await client.ended(stream)
            assert again.streams[stream].frames == two.streams[stream].frames


async def test_a_hundred_thousand_tokens_come_whole(gateway: Gateway) -> None:
    async with gateway.client() as client:
        stream = await client.generate(params={"tokens": 100_000, "rate": 0})
        await client.ended(stream)
        assert client.streams[stream].text == count_text(100_000)


async def test_many_streams_on_many_connections_never_mix(gateway: Gateway) -> None:
    async def talk(subprotocol: str, mark: str) -> None:
        async with gateway.client(subprotocol) as client:
            said = {}
            for n in range(20):
                words = " ".join(f"{mark}.{n}.{word}" for word in range(60))
                messages = [{"role": "user", "content": words}]
                stream = await client.generate("scripted/echo", messages=messages, params={"rate": 2000})
                said[stream] = words
            for stream, words in said.items():
                await client.ended(stream)
                assert client.streams[stream].text == words
            assert client.streams.keys() == said.keys()

    await asyncio.gather(*(talk((JSON, MSGPACK)[n % 2], f"c{n}") for n in range(8)))


async def test_all_readers_of_a_stream_see_the_same_text_however_late_they_come(gateway: Gateway) -> None:
    async with gateway.client() as maker:
        stream = await maker.generate(params={"tokens": 400, "rate": 2000})

        async def read(after: int) -> str:
            await until(lambda: gateway.node.hub.get(stream).log.committed > after)  # type: ignore[union-attr]
            async with gateway.client() as client:
                reply = await client.ask("subscribe", stream=stream)
                assert (reply["type"], reply["offset"]) == ("subscribed", 0)
                await client.ended(stream)
                return client.streams[stream].text

        texts = await asyncio.gather(maker.ended(stream), *(read(n * 40) for n in range(10)))
        assert set(texts[1:]) == {count_text(400)}


async def test_an_unsubscribed_stream_is_silent_and_goes_on_from_the_place_that_is_asked_for(gateway: Gateway) -> None:
    async with gateway.client() as client:
        stream = await client.generate("hand/any")
        await until(lambda: gateway.hand.calls)
        call = gateway.hand.calls[0]
        call.say(HEADERS, *text("one"))
        await client.until(lambda frame: frame["type"] == "delta_text")
        assert (await client.ask("unsubscribe", stream=stream))["type"] == "ok"
        held = client.streams[stream]
        offset, epoch = held.offset, gateway.node.hub.get(stream).log.epoch  # type: ignore[union-attr]
        call.words(" two")
        await until(lambda: gateway.node.hub.get(stream).log.committed == offset + 1)  # type: ignore[union-attr]
        await client.ask("ping")
        assert held.text == "one"
        reply = await client.ask("subscribe", stream=stream, epoch=epoch, offset=offset)
        assert (reply["offset"], reply["tail"], reply["status"]) == (offset, offset + 1, "open")
        call.end(FINISH)
        await client.ended(stream)
        assert held.text == "one two"


# --------------------------------------------------------------------------- resume


async def test_one_hello_brings_back_every_kind_of_stream(gateway: Gateway) -> None:
    async with gateway.client() as client:
        ended = await client.generate(params={"tokens": 50, "rate": 0})
        await client.ended(ended)
        running = [await client.generate(params={"tokens": 300, "rate": 600}) for _ in range(5)]
        await client.until(lambda _: all(client.streams[s].offset > 20 for s in running if s in client.streams))
        before = client.streams
        epoch = gateway.node.hub.get(ended).log.epoch  # type: ignore[union-attr]
    places = [{"stream": s, "epoch": gateway.node.hub.get(s).log.epoch, "offset": before[s].offset} for s in running]  # type: ignore[union-attr]
    unknown = stream_id(5, b"u" * 17)
    async with gateway.client(hello=False) as client:
        client.streams = {stream: before[stream] for stream in running}
        client.streams[ended] = Held()
        places += [
            {"stream": ended, "epoch": epoch, "offset": 10},
            {"stream": unknown, "epoch": 1, "offset": 3},
            {"stream": "no id at all"},
        ]
        client.streams[ended].offset = 10
        welcome = await client.ask("hello", resume=places)
        assert welcome["type"] == "welcome"
        for stream in (*running, ended):
            await client.ended(stream)
        while sum(frame["type"] == "error" for frame in client.frames) < 2:
            await client.next()
        errors = {frame["stream"]: frame["code"] for frame in client.frames if frame["type"] == "error"}
        assert errors == {unknown: "stream.unknown", "no id at all": "stream.unknown"}
        subscribed = [frame for frame in client.frames if frame["type"] == "subscribed"]
        assert {frame["stream"] for frame in subscribed} == {*running, ended}
        assert all("id" not in frame for frame in subscribed)
        for stream in running:
            assert client.streams[stream].text == count_text(300)
        assert client.streams[ended].text == count_text(50)[len(count_text(7)) :]


@pytest.mark.parametrize(("epoch", "offset"), [(5, 20), (2**52, 9), (None, 10), (0, 3)])
async def test_a_place_in_no_known_history_gets_a_snapshot(gateway: Gateway, epoch: int | None, offset: int) -> None:
    async with gateway.client() as client:
        stream = await client.generate(params={"tokens": 30, "rate": 0})
        await client.ended(stream)
    async with gateway.client() as client:
        place = {"stream": stream, "offset": offset} | ({} if epoch is None else {"epoch": epoch})
        reply = await client.ask("subscribe", **place)
        assert (reply["type"], reply["status"], reply["text"]) == ("snapshot", "ended", count_text(30))
        assert reply["end"]["reason"] == "complete"
        assert (await client.ask("ping"))["type"] == "pong"
        assert len(client.streams[stream].frames) == 0, "the snapshot stands for all entries"


async def test_an_open_stream_goes_on_after_its_snapshot(gateway: Gateway) -> None:
    async with gateway.client() as client:
        stream = await client.generate(params={"tokens": 300, "rate": 600})
        await client.until(lambda frame: frame["type"] == "delta_text")
        async with gateway.client() as other:
            reply = await other.ask("subscribe", stream=stream, epoch=1, offset=2)
            assert (reply["type"], reply["status"]) == ("snapshot", "open")
            await other.ended(stream)
            assert other.streams[stream].text == count_text(300)
            assert other.streams[stream].snapshots == 1


async def test_a_client_that_drops_again_and_again_misses_nothing(gateway: Gateway) -> None:
    async with gateway.client() as client:
        stream = await client.generate(params={"tokens": 600, "rate": 600})
    held, drops = Held(), 0
    epoch = gateway.node.hub.get(stream).log.epoch  # type: ignore[union-attr]
    while held.end is None:
        async with gateway.client(hello=False) as client:
            client.streams[stream] = held
            await client.ask("hello", resume=[{"stream": stream, "epoch": epoch, "offset": held.offset}])
            goal = held.offset + 40
            while held.offset < goal and held.end is None:
                await client.next()
            drops += 1
            client.socket.transport.abort()
    assert held.text == count_text(600)
    assert drops > 5
    assert held.snapshots == 0


# --------------------------------------------------------------------------- cancel


async def test_cancel_answers_with_the_fence_and_nothing_comes_after_it(gateway: Gateway) -> None:
    async with gateway.client() as client:
        stream = await client.generate(params={"tokens": 100_000, "rate": 5000})
        await client.until(lambda frame: frame["type"] == "delta_text")
        reply = await client.ask("cancel", stream=stream)
        assert reply["type"] == "cancelled"
        (fence,) = reply["streams"]
        end = await client.ended(stream)
        assert (end["reason"], end["upto"]) == ("cancelled", fence["offset"])
        again = await client.ask("cancel", stream=stream)
        assert again["streams"] == reply["streams"]
        await client.ask("ping")
        assert client.streams[stream].offset == fence["offset"]


async def test_a_cancel_is_heard_while_the_same_client_floods_the_server(gateway: Gateway) -> None:
    async with gateway.client() as client:
        stream = await client.generate(params={"tokens": 100_000, "rate": 1000})
        for n in range(500):
            await client.send(type="ping", id=f"p{n}")
        reply = await client.ask("cancel", stream=stream)
        assert reply["type"] == "cancelled"


# --------------------------------------------------------------------------- slow readers


@contextlib.asynccontextmanager
async def raw_reader(gateway: Gateway) -> AsyncIterator[sockets.socket]:
    """A WebSocket by hand, whose receiving side the test controls."""
    with sockets.socket() as raw:
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", gateway.port))
        raw.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = b""
        raw.setblocking(False)
        async with asyncio.timeout(10):
            while b"\r\n\r\n" not in head:
                head += await asyncio.get_running_loop().sock_recv(raw, 1)
        assert head.startswith(b"HTTP/1.1 101")
        yield raw


@contextlib.asynccontextmanager
async def slow_reader(gateway: Gateway, stream: str) -> AsyncIterator[tuple[sockets.socket, Feed]]:
    """A second reader of the stream, who takes nothing by itself; and the stream as the node holds it."""
    async with raw_reader(gateway) as slow:
        for command in ({"type": "hello"}, {"type": "subscribe", "stream": stream}):
            await asyncio.get_running_loop().sock_sendall(slow, masked(command))
        feed = gateway.node.hub.get(stream)
        assert feed is not None
        await until(lambda: len(feed.cursors) == 2)
        yield slow, feed


def masked(frame: dict[str, Any]) -> bytes:
    payload = json.dumps(frame).encode()
    head = b"\x81" + (bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big"))
    return head + bytes(4) + payload


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_reader_that_stops_reading_costs_little_and_slows_nobody() -> None:
    async with serving(write_timeout_s=60, write_high_water_bytes=16_384) as gateway, gateway.client() as quick:
        stream = await quick.generate("hand/any")
        await until(lambda: gateway.hand.calls)
        async with slow_reader(gateway, stream) as (slow, feed):
            call = gateway.hand.calls[0]
            call.say(HEADERS)
            before = memory_bytes()
            for _ in range(400):
                call.words("x" * 10_000)
                await quick.until(lambda frame: frame["type"] == "delta_text")
            lagging = max(cursor.lag(feed.log) for cursor in feed.cursors.values())
            assert lagging > 100, "the slow reader is not slow"
            assert memory_bytes() - before < 40_000_000  # 4 MB of text are in the log, and in the quick client
            call.end(FINISH)
            await quick.ended(stream)
            assert len(quick.streams[stream].text) == 4_000_000
            received = await received_from(slow)
            assert received.count(b'"delta_text"') < 400 - lagging / 2, "nothing was merged"
            assert sum(map(len, re.findall(rb"x{100,}", received))) == 4_000_000
            assert b'"stream_end"' in received


async def received_from(slow: sockets.socket) -> bytes:
    loop, received = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(20):
        while b'"stream_end"' not in received[-2000:]:
            received += await loop.sock_recv(slow, 1 << 20)
    return bytes(received)


async def test_a_reader_that_takes_nothing_is_cut_off_and_can_resume() -> None:
    async with serving(write_timeout_s=0.3, write_high_water_bytes=16_384) as gateway, gateway.client() as quick:
        stream = await quick.generate("hand/any")
        await until(lambda: gateway.hand.calls)
        async with slow_reader(gateway, stream) as (_, feed):
            call = gateway.hand.calls[0]
            call.say(HEADERS)
            call.words(*["x" * 50_000] * 100)
            await until(lambda: gateway.node.counters.slow_readers == 1)
            await until(lambda: len(feed.cursors) == 1)
            assert gateway.node.counters.connections == 1
        async with gateway.client() as back:
            await back.ask("subscribe", stream=stream)
            call.end(FINISH)
            await back.ended(stream)
            assert len(back.streams[stream].text) == 5_000_000


async def test_who_sends_commands_and_reads_no_replies_is_asked_for_no_more() -> None:
    async with serving(write_timeout_s=1.0, write_high_water_bytes=16_384) as gateway:
        loop, sent, before = asyncio.get_running_loop(), 0, memory_bytes()
        async with raw_reader(gateway) as rude:
            await loop.sock_sendall(rude, masked({"type": "hello"}))
            ping = masked({"type": "ping", "x": "y" * 50_000})
            with contextlib.suppress(OSError):  # in the end it is cut off
                async with asyncio.timeout(10):
                    while sent < 1_000_000_000:
                        await loop.sock_sendall(rude, ping)
                        sent += len(ping)
        assert sent < 40_000_000
        assert memory_bytes() - before < 40_000_000
        await until(lambda: gateway.node.counters.connections == 0)


# --------------------------------------------------------------------------- signs of life, other servers


async def test_a_silent_connection_gets_heartbeats_and_a_busy_one_none() -> None:
    async with serving(heartbeat_ms=100) as gateway, gateway.client() as client:
        for _ in range(3):
            assert await client.next() == {"type": "heartbeat"}
        client.frames.clear()
        stream = await client.generate(params={"tokens": 50, "rate": 100})
        await client.ended(stream)
        assert not [frame for frame in client.frames if frame["type"] == "heartbeat"]


async def test_a_client_that_does_not_answer_pings_is_let_go() -> None:
    async with serving(ping_interval_s=0.1, ping_timeout_s=0.1) as gateway, raw_reader(gateway):
        await until(lambda: gateway.node.counters.connections_total == 1)
        await until(lambda: gateway.node.counters.connections == 0)


@BOTH
async def test_under_another_server_the_frames_are_the_same(gateway: Gateway, subprotocol: str) -> None:
    """Starlette's test client speaks plain ASGI: what goes straight to a socket elsewhere goes through it here."""
    async with gateway.client(subprotocol) as client:
        stream = await client.generate(params={"tokens": 50, "rate": 0})
        await client.ended(stream)
        async with gateway.client(subprotocol) as again:
            await again.ask("subscribe", stream=stream)
            await again.ended(stream)
        expected = again.streams[stream].frames
    seen = await asyncio.to_thread(plain_frames, gateway, subprotocol, stream)
    assert seen == expected


def plain_frames(gateway: Gateway, subprotocol: str, stream: str) -> list[dict[str, Any]]:
    """The node belongs to another loop; reading an ended stream touches nothing of it that waits."""
    packed = subprotocol == MSGPACK
    frames: list[dict[str, Any]] = []
    app = app_around(gateway.node, Connections())
    with TestClient(app).websocket_connect("ws://127.0.0.1/ws", subprotocols=[subprotocol]) as socket:
        for command in ({"type": "hello"}, {"type": "subscribe", "stream": stream}):
            if packed:
                socket.send_bytes(msgspec.msgpack.encode(command))
            else:
                socket.send_text(json.dumps(command))
        while not frames or frames[-1]["type"] != "stream_end":
            frame = msgspec.msgpack.decode(socket.receive_bytes()) if packed else json.loads(socket.receive_text())
            if "after" in frame:
                frames.append(frame)
    return frames


async def test_a_stream_that_is_repeated_on_its_own_connection_begins_anew(gateway: Gateway) -> None:
    async with gateway.client() as client:
        asked = {
            "request_id": "q",
            "model": "scripted/count",
            "messages": MESSAGES,
            "params": {"tokens": 50, "rate": 0},
        }
        first = await client.ask("generate", **asked)
        await client.ended(first["stream"])
        client.streams[first["stream"]] = Held()
        again = await client.ask("generate", **asked)
        assert again["stream"] == first["stream"]
        await client.ended(first["stream"])
        assert client.streams[first["stream"]].text == count_text(50)


async def test_an_interrupted_connection_leaves_nothing_of_itself(gateway: Gateway) -> None:
    async with gateway.client() as client:
        streams = [await client.generate(params={"tokens": 5000, "rate": 50}) for _ in range(10)]
        client.socket.transport.abort()
    await until(lambda: gateway.node.counters.connections == 0)
    feeds = [gateway.node.hub.get(stream) for stream in streams]
    assert all(feed is not None and not feed.cursors for feed in feeds)
    assert gateway.node.generating == 10, "an answer outlives the client that asked for it"
    assert isinstance(client, Client)
