"""Whatever a client may send that it should not: the exact code, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

import msgpack
import pytest
from tests.gateway.conftest import JSON, MESSAGES, MSGPACK, Client, Gateway, serving
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

BOTH = pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])


async def still_usable(client: Client) -> None:
    assert (await client.ask("ping", x=1))["type"] == "pong"


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Any:
    """Nothing that a client sends may end in an exception that nobody expected."""
    yield
    bad = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not bad


@pytest.mark.parametrize("offered", [None, JSON, MSGPACK])
async def test_a_connection_speaks_what_was_agreed_on(gateway: Gateway, offered: str | None) -> None:
    async with gateway.client(offered) as client:
        assert client.socket.subprotocol == offered
        welcome = client.frames[0]
        assert welcome["type"] == "welcome"
        assert (welcome["protocol"], welcome["node"]) == (1, gateway.node.id)
        assert welcome["limits"]["frame_bytes"] == 1_048_576
        assert welcome["connection"].startswith("c_")
        assert welcome["user"] == {"id": "anonymous", "name": "Anonymous"}


async def test_of_several_subprotocols_one_that_is_known_is_taken(gateway: Gateway) -> None:
    async with connect(gateway.ws_url, subprotocols=["other", MSGPACK]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == MSGPACK


async def test_only_unknown_subprotocols_are_refused_with_400(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with gateway.client("graphql-ws"):
            pass
    assert refused.value.response.status_code == 400


@pytest.mark.parametrize("data", ["", "{", "[]", "1", "null", "{}", '{"type":1}', "[" * 50_000, "\ud7ff", b"{}"])
async def test_what_is_no_json_frame_is_answered_and_the_connection_goes_on(
    gateway: Gateway, data: str | bytes
) -> None:
    async with gateway.client(JSON) as client:
        await client.raw(data)
        frame = await client.next()
        assert (frame["type"], frame["code"], frame["retryable"]) == ("error", "protocol.bad_frame", False)
        await still_usable(client)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xc1", b"\x90", b"\x80", "text", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\x91" * 50_000,
        b"\xdb\xff\xff\xff\xff", b"\xdd\x00\x0f\xff\xff" * 1000, msgpack.packb({"type": "ping"}) + b"x",
    ],
    ids=range(11),
)  # fmt: skip
async def test_what_is_no_messagepack_frame_is_answered_and_the_connection_goes_on(
    gateway: Gateway, data: str | bytes
) -> None:
    async with gateway.client(MSGPACK) as client:
        await client.raw(data)
        assert (await client.next())["code"] == "protocol.bad_frame"
        await still_usable(client)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({"type": "nonsense"}, "protocol.unknown_type"),
        ({"type": "hello"}, "request.invalid"),
        ({"type": "subscribe"}, "request.invalid"),
        ({"type": "subscribe", "stream": 5}, "request.invalid"),
        ({"type": "subscribe", "stream": "r_0a" + "a" * 26}, "stream.unknown"),
        ({"type": "subscribe", "stream": "nothing"}, "stream.unknown"),
        ({"type": "subscribe", "stream": "r_\n" + "é" * 27}, "stream.unknown"),
        ({"type": "cancel", "stream": "r_0a" + "a" * 26}, "stream.unknown"),
        ({"type": "cancel"}, "request.invalid"),
        ({"type": "cancel", "session": "s_1"}, "session.unknown"),
        ({"type": "generate"}, "request.invalid"),
        ({"type": "generate", "model": "scripted/count"}, "request.invalid"),
        ({"type": "generate", "model": "scripted/count", "messages": []}, "request.invalid"),
        ({"type": "generate", "model": "count", "messages": MESSAGES}, "request.invalid"),
        ({"type": "generate", "model": "nobody/x", "messages": MESSAGES}, "model.unknown"),
        ({"type": "generate", "model": "scripted/none", "messages": MESSAGES}, "model.unknown"),
        ({"type": "generate", "model": "scripted/count", "messages": MESSAGES, "params": {"rate": -1}},
         "request.invalid"),
        ({"type": "generate", "model": "scripted/count", "messages": MESSAGES, "params": {"raet": 1}},
         "request.invalid"),
        ({"type": "generate", "model": "scripted/count", "session": "s_1", "content": "x"}, "session.unknown"),
        ({"type": "generate", "model": "scripted/count", "session": "r_0a" + "a" * 26, "content": "x"},
         "session.unknown"),
        ({"type": "generate", "model": "scripted/count", "session": "s_1", "messages": MESSAGES}, "request.invalid"),
        ({"type": "generate", "model": "scripted/count", "content": "x", "messages": MESSAGES}, "request.invalid"),
        ({"type": "generate", "content": "x"}, "request.invalid"),
        ({"type": "generate", "model": "count", "content": "x"}, "request.invalid"),
        ({"type": "generate", "model": "scripted/count", "content": "x", "on_busy": "wait"}, "request.invalid"),
        ({"type": "generate", "model": "scripted/count", "content": [{"type": "text"}]}, "request.invalid"),
        ({"type": "session.create", "title": 5}, "request.invalid"),
        ({"type": "session.create", "model": "count"}, "request.invalid"),
        ({"type": "session.create", "members": [{"user": "x", "role": "king"}]}, "request.invalid"),
        ({"type": "session.open"}, "request.invalid"),
        ({"type": "session.open", "session": "s_0a" + "a" * 26}, "session.unknown"),
        ({"type": "session.open", "session": "s_1", "history": 501}, "request.invalid"),
        ({"type": "session.list", "limit": 0}, "request.invalid"),
        ({"type": "session.list", "before": "yesterday"}, "request.invalid"),
        ({"type": "session.history", "session": "s_1"}, "session.unknown"),
        ({"type": "session.export", "session": "s_1", "format": "pdf"}, "request.invalid"),
        ({"type": "session.update", "session": "s_1"}, "session.unknown"),
        ({"type": "session.delete", "session": "s_1"}, "session.unknown"),
        ({"type": "member.add", "session": "s_1", "user": ""}, "request.invalid"),
        ({"type": "member.remove", "session": "s_1", "user": "x"}, "session.unknown"),
        ({"type": "tool_result", "session": "s_1", "stream": "r_1", "results": []}, "request.invalid"),
        ({"type": "tool_approval", "session": "s_1", "stream": "r_1", "approvals": [{"call_id": "c"}]},
         "request.invalid"),
        ({"type": "typing", "session": "s_1"}, "request.invalid"),
        ({"type": "subscribe", "stream": "s_0a" + "a" * 26}, "session.unknown"),
        ({"type": "auth"}, "request.invalid"),
    ],
)  # fmt: skip
@BOTH
async def test_a_command_that_cannot_be_carried_out_says_why_and_changes_nothing(
    gateway: Gateway, frame: dict[str, Any], code: str, subprotocol: str
) -> None:
    async with gateway.client(subprotocol) as client:
        reply = await client.ask(frame["type"], **{k: v for k, v in frame.items() if k != "type"})
        assert (reply["type"], reply["code"]) == ("error", code)
        await still_usable(client)
    assert gateway.node.counters.streams_started == 0


@pytest.mark.parametrize("command_id", [1, 0, -5, 2**53, "a", "ż" * 100])
@BOTH
async def test_ids_come_back_as_they_were(gateway: Gateway, command_id: str | int, subprotocol: str) -> None:
    async with gateway.client(subprotocol) as client:
        await client.send(type="models", id=command_id)
        assert (await client.next())["id"] == command_id


async def test_numbers_that_only_json_has_come_back_whole(gateway: Gateway) -> None:
    async with gateway.client(JSON) as client:
        await client.raw('{"type":"ping","id":123456789012345678901234567890}')
        assert await client.next() == {"type": "pong", "id": 123456789012345678901234567890}


async def test_a_command_before_hello_closes_with_4510(gateway: Gateway) -> None:
    async with gateway.client(hello=False) as client:
        await client.send(type="ping", id=1)
        assert (await client.next())["code"] == "protocol.hello_expected"
        assert await client.closed() == 4510


async def test_no_hello_closes_with_4510() -> None:
    async with serving(hello_timeout_s=0.1) as gateway, gateway.client(hello=False) as client:
        assert await client.closed() == 4510
        assert client.frames[-1]["code"] == "protocol.hello_expected"


async def test_ten_bad_frames_in_a_row_close_with_4500(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for _ in range(10):
            await client.raw("{")
        assert await client.closed() == 4500
        assert [frame["code"] for frame in client.frames[1:]] == ["protocol.bad_frame"] * 10


async def test_a_client_that_leaves_in_the_middle_of_its_bad_frames_is_no_trouble(gateway: Gateway) -> None:
    for _ in range(10):
        async with gateway.client() as client:
            for _ in range(15):
                await client.raw("{")
            client.socket.transport.abort()
    async with gateway.client() as client:
        await still_usable(client)


@pytest.mark.parametrize("size", [1_048_577, 5_000_000])
async def test_a_frame_that_is_too_large_closes_with_1009_or_4509(gateway: Gateway, size: int) -> None:
    async with gateway.client() as client:
        with contextlib.suppress(ConnectionClosed):  # it may be told before it has sent all
            await client.raw(json.dumps({"type": "ping", "x": "y" * size}))
        assert await client.closed() in (1009, 4509)


async def test_a_prompt_just_below_the_limit_is_taken(gateway: Gateway) -> None:
    async with gateway.client() as client:
        prompt = "word " * 200_000
        stream = await client.generate(
            "scripted/echo", messages=[{"role": "user", "content": prompt}], params={"rate": 0}
        )
        await client.ended(stream)
        assert client.streams[stream].text == prompt


@BOTH
async def test_a_repeated_request_gets_the_first_reply_and_starts_nothing(gateway: Gateway, subprotocol: str) -> None:
    asked = {"request_id": "q-1", "params": {"tokens": 5, "rate": 0}}
    async with gateway.client(subprotocol) as one, gateway.client(subprotocol) as two:
        first = await one.generate(**asked)
        await one.ended(first)
        replies = [
            await client.ask("generate", model="scripted/count", messages=MESSAGES, **asked) for client in (two, two)
        ]
        assert [reply["stream"] for reply in replies] == [first, first]
    assert gateway.node.counters.streams_started == 1


async def test_the_same_request_twenty_times_at_once_starts_one_stream(gateway: Gateway) -> None:
    async with gateway.client() as client:
        streams = set()
        for n in range(20):
            await client.send(
                type="generate", id=f"g{n}", request_id="q", model="scripted/count", messages=MESSAGES,
                params={"tokens": 1000, "rate": 10},
            )  # fmt: skip
        replied = 0
        while replied < 20:
            data = json.loads(await client.socket.recv())
            if str(data.get("id", "")).startswith("g"):
                replied += 1
                streams.add(data["stream"])
        assert len(streams) == 1
    assert gateway.node.counters.streams_started == 1


async def test_more_commands_at_once_than_allowed_are_refused_for_now() -> None:
    async with serving(commands_in_flight=3) as gateway, gateway.client() as client:
        gateway.store.available = True
        stream = await client.generate("hand/any")
        await asyncio.wait_for(gateway_calls(gateway), 5)
        gateway.store.available = False
        for n in range(5):
            await client.send(type="cancel", id=f"c{n}", stream=stream)
        refused = [await client.until(lambda frame: frame["type"] == "error") for _ in range(2)]
        assert {frame["code"] for frame in refused} == {"limit.rate"}
        assert all(frame["retryable"] and frame["retry_after_ms"] for frame in refused)
        gateway.store.available = True
        await client.until(lambda frame: frame["type"] == "cancelled")


async def gateway_calls(gateway: Gateway) -> None:
    while not gateway.hand.calls:
        await asyncio.sleep(0.001)  # pause: between two looks at the provider


async def test_no_connection_reads_more_streams_than_it_may() -> None:
    async with serving(streams_per_connection=4) as gateway, gateway.client() as client:
        for n in range(10):  # all at once: none has been answered when the next is asked for
            await client.send(type="generate", id=f"g{n}", model="hand/any", messages=MESSAGES)
        replies = [await client.until(lambda frame: "id" in frame) for _ in range(10)]
        assert [reply["type"] for reply in replies].count("accepted") == 4
        assert {reply.get("code") for reply in replies} == {None, "limit.streams"}
        read = next(reply["stream"] for reply in replies if "stream" in reply)
        assert (await client.ask("unsubscribe", stream=read))["type"] == "ok"
        assert (await client.ask("generate", model="hand/any", messages=MESSAGES))["type"] == "accepted"
