"""Limits as clients meet them: over a WebSocket, in a session, over HTTP, by user and by key."""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import pytest
from tests.gateway.conftest import MESSAGES, Gateway, serving
from tests.runtime.conftest import HEADERS, text, until

from everstream.core.events import DeltaToolCall, Finish
from everstream.gateway.authenticator import Authenticator
from everstream.gateway.keys import Keys
from everstream.runtime import quotas
from everstream.runtime.quotas import TABLE, Limits
from everstream.store.memory import MemoryStore

NOON_MS = 20_000 * 86_400_000 + 43_200_000


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "KNOWN_S", 0.0)


@pytest.fixture
def store() -> MemoryStore:
    """Its clock goes, and neither a minute nor a day ends while a test runs."""
    store, begun = MemoryStore(), time.monotonic()
    store.disk.clock_ms = lambda: NOON_MS + int((time.monotonic() - begun) * 1000)
    return store


async def limit(store: MemoryStore, account: str, **limits: object) -> None:
    await store.put_row(TABLE, account, msgspec.msgpack.encode(Limits(**limits)))  # type: ignore[arg-type]


async def posted(gateway: Gateway, path: str, key: str, body: object) -> tuple[int, dict[bytes, bytes], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    said = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\ncontent-length: {len(said)}\r\n\r\n"
    )
    writer.write(head.encode() + said)
    async with asyncio.timeout(10):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        answer = await reader.readexactly(int(headers[b"content-length"]))
    writer.close()
    return int(first.split()[1]), headers, answer


async def test_a_key_is_kept_to_its_models_and_tokens_whatever_way_it_comes(store: MemoryStore) -> None:
    keys = Keys(store)
    id, key = await keys.create("ann")
    _, other = await keys.create("ann")
    await limit(store, f"key:{id}", models=("hand/*",), tokens_per_day=40)
    async with serving(store, authenticate=Authenticator(keys, None)) as gateway:
        async with gateway.client(hello=False) as client:
            await client.ask("hello", token=key)
            for content in ({"messages": MESSAGES}, {"content": "hello"}):
                reply = await client.ask("generate", model="scripted/count", **content)
                assert (reply["type"], reply["code"]) == ("error", "auth.forbidden")
            stream = await client.generate("hand/any")
            await until(lambda: gateway.hand.calls)
            assert 0 < gateway.hand.calls[0].request.params.max_tokens < 40  # type: ignore[operator]
            gateway.hand.calls[0].say(HEADERS, *text("a"))
            gateway.hand.calls[0].end(Finish("stop", None))
            assert (await client.ended(stream))["reason"] == "complete"
            await until(lambda: not store.disk.accounts[f"key:{id}"].holders)
        await limit(store, f"key:{id}", models=("hand/*",), tokens_per_day=5)
        asked = {"model": "hand/any", "messages": MESSAGES}
        status, headers, body = await posted(gateway, "/v1/chat/completions", key, asked)
        assert (status, json.loads(body)["error"]["code"]) == (402, "limit.budget")
        assert int(headers[b"retry-after"]) > 0
        status, _, body = await posted(gateway, "/api/chat", key, {"id": "c", "messages": [], **asked})
        assert status in (400, 402)
        async with gateway.client(hello=False) as client:
            await client.ask("hello", token=other)
            assert (await client.ask("generate", model="scripted/count", messages=MESSAGES))["type"] == "accepted"


async def test_in_a_session_a_turn_that_may_not_begin_is_no_message_and_one_that_was_queued_ends(
    store: MemoryStore,
) -> None:
    async with serving(store, user_starts_per_minute=2) as gateway, gateway.client() as client:
        made = await client.ask("generate", model="hand/any", content="one")
        session = made["session"]
        await until(lambda: gateway.hand.calls)
        queued = await client.ask("generate", session=session, model="hand/any", content="two")
        assert queued["type"] == "accepted"
        await client.ask("session.open", session=session)
        other = await client.ask("generate", model="scripted/count", messages=MESSAGES)
        assert other["type"] == "accepted"
        refused = await client.ask("generate", session=session, model="hand/any", content="three")
        assert (refused["type"], refused["code"]) == ("error", "limit.rate")
        gateway.hand.calls[0].end()
        over = await client.until(lambda frame: frame["type"] == "turn_end" and frame["stream"] == queued["stream"])
        assert (over["reason"], over["error"]["code"]) == ("failed", "limit.rate")
        reply = await client.ask("session.history", session=session)
        assert [message["content"] for message in reply["messages"] if message["role"] == "user"] == ["one", "two"]
        assert len(gateway.hand.calls) == 1


async def test_a_turn_that_goes_on_after_a_tool_claims_anew_for_the_same_key(store: MemoryStore) -> None:
    keys = Keys(store)
    id, key = await keys.create("ann")
    await limit(store, f"key:{id}", starts_per_minute=2)
    door = Authenticator(keys, None)
    async with serving(store, authenticate=door) as gateway, gateway.client(hello=False) as client:
        await client.ask("hello", token=key)
        tool = {"name": "look", "description": "", "parameters": {"type": "object"}}
        made = await client.ask("generate", model="hand/any", content="one", params={"tools": [tool]})
        session = made["session"]
        await client.ask("session.open", session=session)
        for number in range(2):
            await until(lambda n=number: len(gateway.hand.calls) > n)
            call = gateway.hand.calls[number]
            call.say(HEADERS, DeltaToolCall(0, "{}", f"call_{number}", "look"))
            call.end(Finish("tool_calls", None))
            waiting = await client.until(
                lambda frame: frame["type"] == "message" and frame["message"].get("tool_calls")
            )
            results = [{"call_id": f"call_{number}", "content": "seen"}]
            stream = waiting["message"]["stream"]
            reply = await client.ask("tool_result", session=session, stream=stream, results=results)
            assert reply["type"] == "accepted"
        over = await client.until(lambda frame: frame["type"] == "turn_end")
        assert (over["reason"], over["error"]["code"]) == ("failed", "limit.rate")
        assert len(gateway.hand.calls) == 2
