"""The client: one answer, whole, whatever happens to the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Literal

import pytest
from tests.house.fake_server import FakeServer, answer, end, fake_server, text, until

from everstream.client import Client, Stream
from everstream.core.errors import EverstreamError
from everstream.link import LinkState, websocket_url
from everstream.reader import FRAMES_WAITING_MAX
from everstream.reconnect import Backoff, Fate, fate, fate_of_status

ASK: dict[str, Any] = {"model": "fake/one", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as fake:
        yield fake


def client_of(server: FakeServer, encoding: Literal["json", "msgpack"] = "json", **more: Any) -> Client:
    return Client(server.url, encoding=encoding, backoff=Backoff(0.01, 0.05), **more)


async def read(stream: Stream) -> str:
    """The text that the frames of `stream` say, read to its end."""
    said = ""
    async with asyncio.timeout(20):
        async for frame in stream:
            if frame["type"] == "snapshot":
                said = frame["text"]
            elif frame["type"] == "delta_text":
                said += frame["text"]
    return said


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_an_answer_comes_whole_in_both_encodings(
    server: FakeServer, encoding: Literal["json", "msgpack"]
) -> None:
    async with client_of(server, encoding) as client:
        stream = await client.generate(**ASK, params={"max_tokens": 5})
        assert await read(stream) == "one two three"
    assert stream.state.text == "one two three"
    assert stream.state.position == (7, 5)
    assert stream.state.end is not None
    assert stream.state.end["usage"]["output_tokens"] == 5
    assert stream.state.metrics is not None
    assert stream.state.metrics["ttft_ms"] == 120.0
    sent = server.said("generate")[0]
    assert sent["params"] == {"max_tokens": 5}
    assert sent["request_id"]


async def test_a_connection_that_drops_again_and_again_loses_and_doubles_nothing(server: FakeServer) -> None:
    pieces = [f"{n} " for n in range(200)]
    server.script = lambda _: answer(*pieces)
    server.drop_after = [3, 0, 7, 1, 20, 0, 0, 60]
    async with client_of(server) as client:
        stream = await client.generate(**ASK)
        assert await read(stream) == "".join(pieces)
    assert server.connected == 9
    assert len(server.streams) == 1
    places = [hello["resume"] for hello in server.said("hello")]
    assert places[0] == []
    assert [place[0]["offset"] for place in places[1:]] == [3, 3, 10, 11, 31, 31, 31, 91]


async def test_one_hello_resumes_every_open_stream(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        streams = [await client.generate(**ASK) for _ in range(5)]
        await until(lambda: all(stream.state.offset == 2 for stream in streams))
        server.drop_all()
        await until(lambda: len(server.said("hello")) == 2)
        assert [place["offset"] for place in server.said("hello")[1]["resume"]] == [2] * 5
        for fake in server.streams.values():
            fake.allow()
        assert await asyncio.gather(*map(read, streams)) == ["one two three"] * 5
        await until(lambda: client.link_state is LinkState.OPEN)
    assert not server.said("subscribe")


@pytest.mark.parametrize("kind", ["generate", "cancel", "models"])
async def test_a_command_whose_reply_was_lost_is_sent_again_and_done_once(server: FakeServer, kind: str) -> None:
    server.allowed = 2
    server.lose_reply = [kind]
    async with client_of(server) as client, asyncio.timeout(10):
        assert len(await client.models()) == 3
        stream = await client.generate(**ASK)
        await until(lambda: stream.state.offset == 2)
        assert await stream.cancel() == 3
        assert await read(stream) == "one"
    assert len(server.said(kind)) == 2
    assert len(server.streams) == 1
    assert len({command["request_id"] for command in server.said("generate")}) == 1


async def test_cancel_answers_with_the_offset_of_the_end(server: FakeServer) -> None:
    server.allowed = 3
    async with client_of(server) as client, asyncio.timeout(10):
        stream = await client.generate(**ASK)
        await until(lambda: stream.state.offset == 3)
        fence = await stream.cancel()
        assert fence == 4
        assert await read(stream) == "one two"
        assert stream.state.offset == fence
        assert await stream.cancel() == fence
    assert len(server.said("cancel")) == 1


async def test_a_stream_can_be_read_again_from_its_start_and_from_a_position(server: FakeServer) -> None:
    async with client_of(server) as client:
        first = await client.generate(**ASK)
        await read(first)
        assert await read(await client.subscribe(first.id)) == "one two three"
        assert await read(await client.subscribe(first.id, 7, 2)) == " two three"


async def test_a_subscription_asked_for_while_the_connection_breaks_is_answered_by_the_next(server: FakeServer) -> None:
    async with client_of(server) as client, asyncio.timeout(10):
        first = await client.generate(**ASK)
        await read(first)
        server.lose_reply = ["subscribe"]
        assert await read(await client.subscribe(first.id)) == "one two three"
        server.lose_reply = ["subscribe"]
        assert await read(await client.subscribe(first.id, 7, 3)) == " three"


async def test_an_unknown_stream_is_an_error_with_its_code(server: FakeServer) -> None:
    async with client_of(server) as client:
        with pytest.raises(EverstreamError) as caught:
            await client.subscribe("r_none")
        assert caught.value.code == "stream.unknown"
        assert not client.places()


async def test_a_stream_that_is_gone_after_a_reconnection_fails_its_reader_and_no_other(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        lost, kept = await client.generate(**ASK), await client.generate(**ASK)
        await until(lambda: lost.state.offset == kept.state.offset == 2)
        del server.streams[lost.id]
        server.drop_all()
        with pytest.raises(EverstreamError) as caught:
            await read(lost)
        assert caught.value.code == "stream.unknown"
        server.streams[kept.id].allow()
        assert await read(kept) == "one two three"


async def test_a_hole_is_asked_about_and_filled(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        stream = await client.generate(**ASK)
        await until(lambda: stream.state.offset == 2)
        await server.send_all({**text(" three"), "stream": stream.id, "after": 3, "upto": 4})
        await until(lambda: server.said("subscribe"))
        assert server.said("subscribe")[0]["offset"] == 2
        server.streams[stream.id].allow()
        assert await read(stream) == "one two three"


async def test_a_snapshot_replaces_what_was_held(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        stream = await client.generate(**ASK)
        await until(lambda: stream.state.offset == 2)
        whole = {"text": "other", "thinking": "", "tool_calls": [], "status": "ended", "end": end()}
        await server.send_all({"type": "snapshot", "stream": stream.id, "epoch": 9, "upto": 3, **whole})
        assert await read(stream) == "other"
        assert stream.state.position == (9, 3)


async def test_a_slow_reader_gets_one_snapshot_and_not_a_pile_of_frames(server: FakeServer) -> None:
    pieces = [f"{n} " for n in range(4 * FRAMES_WAITING_MAX)]
    server.script = lambda _: answer(*pieces)
    async with client_of(server) as client:
        stream = await client.generate(**ASK)
        await until(lambda: stream.state.ended)
        frames = [frame async for frame in stream]
    assert [frame["type"] for frame in frames] == ["snapshot"]
    assert frames[0]["text"] == "".join(pieces)
    assert frames[0]["end"]["reason"] == "complete"


async def test_goaway_moves_the_client_in_time_and_loses_nothing(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        stream = await client.generate(**ASK)
        await until(lambda: stream.state.offset == 2)
        await server.send_all({"type": "goaway", "after_ms": 50, "reason": "drain"})
        await until(lambda: server.connected == 2)
        server.streams[stream.id].allow()
        assert await read(stream) == "one two three"


async def test_a_server_that_falls_silent_is_left(server: FakeServer) -> None:
    server.heartbeat_ms = 40
    server.allowed = 2
    async with client_of(server) as client:
        stream = await client.generate(**ASK)
        await until(lambda: server.connected >= 3)
        server.heartbeat_ms = 15_000
        server.streams[stream.id].allow()
        assert await read(stream) == "one two three"


@pytest.mark.parametrize("code", [1001, 1012, 4001, 4002, 4003, 4005])
async def test_after_these_close_codes_the_client_comes_back(server: FakeServer, code: int) -> None:
    server.close_with = [(code, None)]
    async with client_of(server) as client:
        assert await read(await client.generate(**ASK)) == "one two three"
    assert server.connected == 2


@pytest.mark.parametrize(
    ("close_code", "code"),
    [(4500, "protocol.bad_frame"), (4501, "auth.denied"), (4503, "auth.forbidden"), (4999, "protocol.bad_frame")],
)
async def test_after_these_close_codes_the_client_stays_away(server: FakeServer, close_code: int, code: str) -> None:
    server.close_with = [(close_code, None)]
    with pytest.raises(EverstreamError) as caught:
        await client_of(server).__aenter__()
    assert caught.value.code == code
    assert server.connected == 1


async def test_the_error_before_a_final_close_is_the_one_raised(server: FakeServer) -> None:
    server.close_with = [(4501, {"code": "auth.required", "message": "a token, please", "retryable": False})]
    with pytest.raises(EverstreamError, match="a token, please") as caught:
        await client_of(server).__aenter__()
    assert caught.value.code == "auth.required"


async def test_a_final_close_ends_what_was_under_way(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        stream = await client.generate(**ASK)
        server.lose_reply = ["models"]
        server.close_with = [(4501, None)]
        with pytest.raises(EverstreamError):
            await client.models()
        with pytest.raises(EverstreamError):
            await read(stream)
        assert stream.state.text == "one"
        with pytest.raises(EverstreamError):
            await client.models()


@pytest.mark.parametrize(
    ("status", "code"), [(401, "auth.required"), (403, "auth.forbidden"), (404, "request.not_found")]
)
async def test_a_refused_upgrade_is_final_where_asking_again_cannot_help(
    server: FakeServer, status: int, code: str
) -> None:
    server.refuse_with = [HTTPStatus(status)]
    with pytest.raises(EverstreamError) as caught:
        await client_of(server).__aenter__()
    assert caught.value.code == code


async def test_a_server_that_is_busy_is_asked_again(server: FakeServer) -> None:
    server.refuse_with = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS]
    async with client_of(server) as client:
        assert await read(await client.generate(**ASK)) == "one two three"


async def test_without_a_server_the_client_gives_up_in_its_time() -> None:
    async with fake_server() as gone:
        url = gone.url
    with pytest.raises(ConnectionError, match="no server"):
        await Client(url, backoff=Backoff(0.01, 0.02), connect_timeout_s=0.1).__aenter__()


async def test_a_command_that_is_too_large_is_refused_before_it_costs_the_connection(server: FakeServer) -> None:
    server.limits = {"frame_bytes": 1000}
    async with client_of(server) as client:
        with pytest.raises(EverstreamError) as caught:
            await client.generate(model="fake/one", messages=[{"role": "user", "content": "x" * 1000}])
        assert caught.value.code == "protocol.too_large"
        assert await client.models()
    assert server.connected == 1


async def test_a_command_that_came_at_a_busy_moment_is_sent_again_by_itself(server: FakeServer) -> None:
    server.busy = [("generate", 5), ("generate", 5), ("models", 60_000)]
    async with client_of(server) as client:
        assert await read(await client.generate(**ASK)) == "one two three"
        with pytest.raises(EverstreamError) as caught:
            await client.models()
    assert caught.value.code == "limit.rate"
    assert caught.value.retry_after_ms == 60_000
    assert len(server.said("generate")) == 3
    assert len(server.said("models")) == 1


async def test_on_state_hears_every_step(server: FakeServer) -> None:
    steps: list[LinkState] = []
    async with client_of(server, on_state=lambda state, _: steps.append(state)) as client:
        server.drop_all()
        await until(lambda: steps.count(LinkState.OPEN) == 2)
        assert client.link_state is LinkState.OPEN
    assert steps == [
        LinkState.CONNECTING,
        LinkState.OPEN,
        LinkState.WAITING,
        LinkState.CONNECTING,
        LinkState.OPEN,
        LinkState.CLOSED,
    ]


async def test_a_fresh_token_is_asked_for_at_every_hello(server: FakeServer) -> None:
    tokens = iter(["first", "second"])
    server.close_with = [(4005, None)]
    async with Client(server.url, lambda: next(tokens), backoff=Backoff(0.01)) as client:
        await client.models()
    assert [hello["token"] for hello in server.said("hello")] == ["first", "second"]


async def test_a_stream_that_nobody_waits_for_any_more_is_not_read(server: FakeServer) -> None:
    server.allowed = 2
    server.hold["generate"] = asyncio.Event()
    async with client_of(server) as client:
        asking = asyncio.create_task(client.generate(**ASK))
        await until(lambda: server.said("generate"))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        server.hold["generate"].set()
        await until(lambda: server.said("unsubscribe"))
        assert not client.places()


async def test_unsubscribing_ends_the_reading_and_not_the_stream(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        stream = await client.generate(**ASK)
        await until(lambda: stream.state.offset == 2)
        await stream.unsubscribe()
        assert await read(stream) == "one"
        assert not stream.state.ended
        server.streams[stream.id].allow()
        assert await read(await client.subscribe(stream.id)) == "one two three"


async def test_closing_the_client_leaves_no_task_behind(server: FakeServer) -> None:
    server.allowed = 2
    before = asyncio.all_tasks()
    client = client_of(server)
    async with client:
        stream = await client.generate(**ASK)
    await client.aclose()
    with pytest.raises(ConnectionError):
        await read(stream)
    await until(lambda: not server.connections)
    await until(lambda: asyncio.all_tasks() <= before)


# --------------------------------------------------------------------------- the policy


def test_backoff_doubles_from_a_quarter_of_a_second_to_fifteen_and_jitters_fully() -> None:
    most = Backoff(chance=lambda: 1.0)
    assert [most.next_s() for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15]
    most.reset()
    assert most.next_s() == 0.25
    assert Backoff(chance=lambda: 0.0).next_s() == 0
    assert most.next_s(at_least_s=3) == 3.5
    assert most.within_s(500) == 0.5


@pytest.mark.parametrize("code", range(4000, 5000, 7))
def test_close_codes_from_4500_mean_stay_away(code: int) -> None:
    assert fate(code) is (Fate.STAY_AWAY if code >= 4500 else Fate.COME_BACK)


def test_only_hopeless_statuses_are_final() -> None:
    assert {status for status in range(200, 600) if fate_of_status(status) is Fate.STAY_AWAY} == set(
        range(400, 500)
    ) - {408, 425, 429}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://localhost:8000", "ws://localhost:8000/ws"),
        ("https://chat.example/", "wss://chat.example/ws"),
        ("localhost:8000", "ws://localhost:8000/ws"),
        ("wss://h/other/ws?x=1", "wss://h/other/ws?x=1"),
    ],
)
def test_an_address_may_be_given_as_people_do(given: str, meant: str) -> None:
    assert websocket_url(given) == meant


@pytest.mark.parametrize("url", ["ftp://x", "ws://", "ws:///ws"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the address"):
        websocket_url(url)
