"""What a reader gets of a stream: its text, its result, and a place to come back to in another life."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.gateway.conftest import Gateway, count_text, serving
from tests.house.fake_server import FakeServer, answer, end, fake_server, text, until

from everstream.client import Client, Position, Stream, TextWithdrawn
from everstream.core.errors import EverstreamError
from everstream.reader import FRAMES_WAITING_MAX, Given, merged
from everstream.reconnect import Backoff
from everstream.reducer import Frame, StreamState

SEAM: Frame = {"type": "seam", "epoch": 9, "attempt": 2, "reason": "node_lost", "check": None, "node": "b"}
USAGE = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8, "source": "provider"}


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as fake:
        yield fake


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with serving() as gateway:
        yield gateway


def client_of(server: FakeServer | Gateway) -> Client:
    url = server.url if isinstance(server, FakeServer) else server.ws_url
    return Client(url, backoff=Backoff(0.01, 0.05))


async def pieces(stream: Stream, most: int | None = None) -> list[str]:
    """The next pieces of the text: `most`, or all there are."""
    got: list[str] = []
    async with asyncio.timeout(20):
        async for piece in stream.text_deltas():
            got.append(piece)
            if len(got) == most:
                break
    return got


# --------------------------------------------------------------------------- asking


async def test_a_question_may_be_a_text_and_parameters_may_be_keywords(server: FakeServer) -> None:
    async with asyncio.timeout(30), client_of(server) as client:
        budget = {"output_tokens": 9}
        await client.generate("fake/one", "hi", params={"seed": 1}, temperature=0.2, budget=budget, request_id="q")
        await client.generate(model="fake/one", messages=[{"role": "user", "content": "ho"}])
    first, second = server.said("generate")
    assert first["messages"] == [{"role": "user", "content": "hi"}]
    assert first["params"] == {"seed": 1, "temperature": 0.2}
    assert (first["budget"], first["request_id"]) == (budget, "q")
    assert second.keys() == {"type", "id", "request_id", "model", "messages"}


async def test_a_ping_is_answered_and_timed(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        assert 0 < await client.ping() < 10


# --------------------------------------------------------------------------- text and result


async def test_text_comes_piece_by_piece_and_joined_it_is_the_result(server: FakeServer) -> None:
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        assert await pieces(stream) == ["one", " two", " three"]
        assert (await stream.result()).text == "one two three"


async def test_a_result_says_all_that_there_is_of_an_answer(server: FakeServer) -> None:
    call = {"type": "delta_tool_call", "index": 0, "call_id": "c", "name": "f", "arguments": "{}"}
    thinking = {"type": "delta_thinking", "text": "hm"}
    server.script = lambda _: [thinking, text("yes"), call, {"type": "delta_refusal", "text": "no"}, end()]
    async with asyncio.timeout(30), client_of(server) as client:
        result = await (await client.generate("fake/one", "hi")).result()
    assert (result.text, result.thinking, result.refusal) == ("yes", "hm", "no")
    assert result.tool_calls == [{"index": 0, "call_id": "c", "name": "f", "arguments": "{}"}]
    assert (result.reason, result.finish_reason, result.partial) == ("complete", "stop", False)
    assert (result.usage, result.cost, result.error) == (USAGE, None, None)
    assert result.metrics is not None


async def test_an_answer_that_failed_is_a_result_with_its_part_and_its_error(server: FakeServer) -> None:
    fault = {"code": "provider.overloaded", "message": "too busy", "retryable": True, "retry_after_ms": 5}
    server.script = lambda _: [text("part"), end("failed", fault)]
    async with asyncio.timeout(30), client_of(server) as client:
        result = await (await client.generate("fake/one", "hi")).result()
    assert (result.text, result.partial, result.reason) == ("part", True, "failed")
    assert isinstance(result.error, EverstreamError)
    assert (result.error.code, result.error.retry_after_ms) == ("provider.overloaded", 5)


async def test_waiting_for_the_result_takes_nothing_from_the_reader(server: FakeServer) -> None:
    server.allowed = 2
    async with client_of(server) as client, asyncio.timeout(20):
        stream = await client.generate("fake/one", "hi")
        waiting = asyncio.create_task(stream.result())
        assert await pieces(stream, 1) == ["one"]
        server.streams[stream.id].allow()
        assert (await waiting).text == "one two three"
        assert await pieces(stream) == [" two", " three"]


async def test_a_slow_reader_of_text_gets_the_rest_at_once(server: FakeServer) -> None:
    words = [f"{n} " for n in range(3 * FRAMES_WAITING_MAX)]
    server.script = lambda _: answer(*words)
    server.allowed = 3
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        assert await pieces(stream, 2) == words[:2]
        server.streams[stream.id].allow()
        await until(lambda: stream.state.ended)
        assert await pieces(stream) == ["".join(words[2:])]


async def test_text_that_is_withdrawn_is_told_and_reading_goes_on(server: FakeServer) -> None:
    restart = {**SEAM, "continuation": "restart"}
    server.script = lambda _: [text("bad"), restart, text("go"), text("od"), end()]
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        with pytest.raises(TextWithdrawn) as caught:
            await pieces(stream)
        assert caught.value.text == ""
        assert await pieces(stream) == ["go", "od"]
        assert (await stream.result()).text == "good"


async def test_a_snapshot_that_says_otherwise_withdraws_and_one_that_says_more_goes_on(server: FakeServer) -> None:
    server.allowed = 2
    whole = {"thinking": "", "tool_calls": [], "status": "open", "end": None}
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        assert await pieces(stream, 1) == ["one"]
        at: Frame = {"type": "snapshot", "stream": stream.id, **whole}
        await server.send_all({**at, "epoch": 8, "upto": 3, "text": "one more"})
        assert await pieces(stream, 1) == [" more"]
        await server.send_all({**at, "epoch": 9, "upto": 2, "text": "other"})
        with pytest.raises(TextWithdrawn) as caught:
            await pieces(stream)
        assert caught.value.text == "other"
        assert stream.position == Position(stream.id, 9, 2, len("other"))


async def test_a_stream_that_is_left_ends_its_reader_and_has_no_result(server: FakeServer) -> None:
    server.allowed = 2
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        await until(lambda: stream.state.offset == 2)
        await stream.unsubscribe()
        assert await pieces(stream) == ["one"]
        with pytest.raises(ConnectionError):
            await stream.result()


async def test_a_closed_client_ends_readers_and_waits_with_an_error(server: FakeServer) -> None:
    server.allowed = 2
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        await until(lambda: stream.state.offset == 2)
    with pytest.raises(ConnectionError):
        await pieces(stream)
    with pytest.raises(ConnectionError):
        await stream.result()


async def test_a_cancel_whose_reply_is_late_knows_the_fence_from_the_end(server: FakeServer) -> None:
    server.allowed = 2
    server.hold["cancel"] = asyncio.Event()
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        cancelling = asyncio.create_task(stream.cancel())
        await until(lambda: stream.state.ended)
        assert not cancelling.done()
    assert await cancelling == stream.state.offset == 3


# --------------------------------------------------------------------------- positions


def test_a_position_is_a_text_and_back() -> None:
    for position in (Position("r_1", 7, 3, 20), Position("r_1"), Position("r_1", 1 << 52, 1)):
        assert Position.parse(str(position)) == position
    assert Position.parse("r_1@7:3") == Position("r_1", 7, 3)
    for wrong in ("", "r_1", "r_1@7", "r_1@x:1", "@7:1:1", "r_1@7:1:1 "):
        with pytest.raises(ValueError, match="not a position"):
            Position.parse(wrong)


async def test_a_position_is_the_readers_and_not_that_of_what_has_come(server: FakeServer) -> None:
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        await until(lambda: stream.state.ended)
        assert stream.position == Position(stream.id)
        assert await pieces(stream, 2) == ["one", " two"]
        assert stream.position == Position(stream.id, 7, 3, len("one two"))


async def test_a_position_keeps_the_epoch_that_it_was_read_in(server: FakeServer) -> None:
    """What was given belongs to the history of then, whatever has come since and not been given."""
    server.allowed = 2
    async with asyncio.timeout(30), client_of(server) as client:
        stream = await client.generate("fake/one", "hi")
        await until(lambda: stream.state.offset == 2)
        whole = {"thinking": "", "tool_calls": [], "status": "open", "end": None, "text": "other"}
        await server.send_all({"type": "snapshot", "stream": stream.id, "epoch": 9, "upto": 2, **whole})
        await until(lambda: stream.state.epoch == 9)
        await pieces(stream, 1)
        assert stream.position == Position(stream.id, 7, 2, 3)


async def test_a_stream_that_a_snapshot_made_whole_is_not_read_again_for_its_result(server: FakeServer) -> None:
    async with client_of(server) as client, asyncio.timeout(20):
        first = await client.generate("fake/one", "hi")
        await first.result()
        server.streams[first.id].allowed = 3
        stream = await client.subscribe(first.id, 7, 3)
        whole = {"thinking": "", "tool_calls": [], "status": "ended", "end": end(), "text": "one two three"}
        await server.send_all({"type": "snapshot", "stream": stream.id, "epoch": 7, "upto": 5, **whole})
        assert (await stream.result()).text == "one two three"
    assert len(server.said("subscribe")) == 1


async def test_a_new_client_goes_on_from_a_saved_position_and_has_the_whole_result(gateway: Gateway) -> None:
    ask = {"model": "scripted/count", "messages": "hi", "tokens": 40, "rate": 200}
    async with client_of(gateway) as client:
        stream = await client.generate(**ask)
        first = await pieces(stream, 5)
        saved = json.dumps({"place": str(stream.position)})
    async with client_of(gateway) as another:
        stream = await another.subscribe(Position.parse(json.loads(saved)["place"]))
        rest = await pieces(stream)
        result = await stream.result()
    assert "".join(first + rest) == result.text == count_text(40)
    assert stream.state.text == "".join(rest)  # what came the second time; the result was read from the start


async def test_a_position_at_the_end_has_nothing_more_and_the_whole_result(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        stream = await client.generate("scripted/count", "hi", tokens=5, rate=0)
        await pieces(stream)
        place = stream.position
    async with client_of(gateway) as another, asyncio.timeout(20):
        stream = await another.subscribe(place)
        assert await pieces(stream) == []
        assert (await stream.result()).text == count_text(5)
        assert not another.places()


async def test_where_a_position_is_unknown_the_text_still_goes_on_where_it_was(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        stream = await client.generate("scripted/count", "hi", tokens=30, rate=0)
        await stream.result()
        unknown = Position(stream.id, 1, 4, len(count_text(3)))  # an epoch that nobody has had
        again = await client.subscribe(unknown)
        assert "".join(await pieces(again)) == count_text(30)[len(count_text(3)) :]
        assert again.position.characters == len(count_text(30))


async def test_a_slow_reader_that_began_late_loses_nothing_and_keeps_few_frames(server: FakeServer) -> None:
    words = [f"{n} " for n in range(4 * FRAMES_WAITING_MAX)]
    server.script = lambda _: answer(*words)
    async with asyncio.timeout(30), client_of(server) as client:
        first = await client.generate("fake/one", "hi")
        await first.result()
        stream = await client.subscribe(first.id, 7, 3)  # the first two words have been read in another life
        await until(lambda: stream.state.ended)
        got = await pieces(stream)
    assert "".join(got) == "".join(words[2:])
    assert len(got) <= 2 * FRAMES_WAITING_MAX


def test_merged_frames_amount_to_the_same_and_calls_stay_apart() -> None:
    call = {"type": "delta_tool_call", "index": 0, "arguments": "a"}
    entries: list[Frame] = [text("a"), text("b"), {"type": "delta_thinking", "text": "t"}, text("c")]
    entries += [{**call, "name": "f"}, call, {**call, "name": "g", "index": 1}, {**call, "index": 1}, end()]
    frames = [{**entry, "stream": "r", "after": n, "upto": n + 1} for n, entry in enumerate(entries)]
    few = merged(deque((frame, 7) for frame in frames))
    assert [(frame["after"], frame["upto"]) for frame, _ in few] == [(0, 2), (2, 3), (3, 4), (4, 6), (6, 8), (8, 9)]
    states = []
    for each in (frames, [frame for frame, _ in few]):
        state = StreamState("r")
        for frame in each:
            state.apply(frame)
        states.append((state.text, state.thinking, state.tool_calls, state.position, state.end))
    assert states[0] == states[1]


def test_of_what_was_given_in_another_life_only_the_length_is_known() -> None:
    def snapshot(said: str) -> dict[str, Any]:
        return {"type": "snapshot", "text": said}

    given = Given(3)
    assert given.take(text("d")) == ("d", False)
    assert given.take(snapshot("abcdef")) == ("ef", False)
    assert given.take(snapshot("abcdef")) == ("", False)
    assert given.take(snapshot("abc")) == ("abc", True)
    assert Given(3).take(snapshot("ab")) == ("ab", True)
    assert Given().take(snapshot("ab")) == ("ab", False)
    assert given.take({"type": "seam", "continuation": "exact"}) == ("", False)
    assert given.take({"type": "delta_text", "text": 5}) == ("", False)
