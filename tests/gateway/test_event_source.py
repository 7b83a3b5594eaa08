"""`GET /stream`, as a browser's `EventSource` uses it, and as everything else that follows links must not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from tests.gateway.conftest import Gateway, count_text, serving
from tests.gateway.test_http_streams import http
from tests.runtime.conftest import HEADERS, until

from everstream.core.events import DeltaRefusal, DeltaText, DeltaThinking
from everstream.gateway.auth import Credentials
from everstream.gateway.event_source import PROMPT_CHARS_MAX
from everstream.providers.base import ProviderError

BY_HAND = {"prompt": "hi", "provider": "hand", "model": "any"}
COUNT = {"prompt": "hi", "provider": "scripted", "model": "count", "max_tokens": "8"}


async def told(answer: aiohttp.ClientResponse) -> list[tuple[str, Any]]:
    """Each event with its id; an event without data, which a page does not see, is None."""
    found: list[tuple[str, Any]] = []
    name, data = "", None
    async for line in answer.content:
        if line.startswith(b"id: "):
            name = line[4:].decode().strip()
        elif line.startswith(b"data: "):
            data = json.loads(line[6:])
        elif line == b"\n" and name:
            found.append((name, data))
            data = None
    return found


async def asked(gateway: Gateway, place: str = "", **given: Any) -> tuple[int, list[tuple[str, Any]]]:
    headers = {"accept": "text/event-stream"} | ({"last-event-id": place} if place else {})
    async with http(gateway) as session, session.get("/stream", params=given, headers=headers) as answer:
        return answer.status, await told(answer)


def text_in(events: list[tuple[str, Any]]) -> str:
    return "".join(said["text"] for _, said in events if said and said["type"] == "token")


async def test_tokens_come_one_by_one_and_the_first_id_before_them(gateway: Gateway) -> None:
    status, events = await asked(gateway, **COUNT)
    assert status == 200
    (first, nothing), *said, (last, done) = events
    assert nothing is None
    stream = first.rpartition(":")[0]
    assert text_in(said) == count_text(8)
    assert {kind["type"] for _, kind in said} == {"token"}
    assert (done["type"], done["usage"]["output_tokens"]) == ("done", 8)
    offsets = [int(name.removeprefix(f"{stream}:")) for name, _ in events]
    assert offsets == sorted(offsets)
    assert last == f"{stream}:{(await gateway.node.find(stream)).log.committed}"


async def test_a_browser_that_comes_back_goes_on_in_the_same_stream_from_every_place(gateway: Gateway) -> None:
    _, events = await asked(gateway, **COUNT)
    for number, (place, _) in enumerate(events[:-1]):
        status, rest = await asked(gateway, place, **COUNT)
        assert status == 200
        assert text_in(events[: number + 1]) + text_in(rest) == count_text(8)
        assert rest[-1] == events[-1]
    assert len(list(gateway.node.hub)) == 1


async def test_after_the_end_it_is_told_to_come_no_more(gateway: Gateway) -> None:
    _, events = await asked(gateway, **COUNT)
    assert await asked(gateway, events[-1][0], **COUNT) == (204, [])
    assert len(list(gateway.node.hub)) == 1


async def test_a_url_with_a_key_is_one_answer_even_before_the_first_id(gateway: Gateway) -> None:
    one, other = [await asked(gateway, **COUNT, request_id="k") for _ in range(2)]
    assert text_in(one[1]) == text_in(other[1]) == count_text(8)
    assert len(list(gateway.node.hub)) == 1


async def test_a_refusal_in_words_is_shown_and_thinking_is_not(gateway: Gateway) -> None:
    running = asyncio.ensure_future(asked(gateway, **BY_HAND))
    await until(lambda: gateway.hand.calls)
    gateway.hand.calls[0].say(HEADERS, DeltaThinking("hm"), DeltaText("I "), DeltaRefusal("won't"))
    gateway.hand.calls[0].end()
    _, events = await running
    assert text_in(events) == "I won't"


async def test_a_failure_is_an_event_after_which_nobody_comes_back() -> None:
    async with serving(carry_on=False) as gateway:
        running = asyncio.ensure_future(asked(gateway, **BY_HAND))
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].say(HEADERS, DeltaText("a"))
        gateway.hand.calls[0].fail(ProviderError("provider.overloaded", "too much"))
        status, events = await running
        assert status == 200
        place, error = events[-1]
        assert (error["type"], error["message"], error["code"]) == ("error", "too much", "provider.overloaded")
        assert await asked(gateway, place, **BY_HAND) == (204, [])
        assert len(gateway.hand.calls) == 1


async def test_what_is_refused_before_there_is_a_stream_is_an_event_too(gateway: Gateway) -> None:
    status, [(place, error)] = await asked(gateway, prompt="hi", model="nobody/any")
    assert (status, error["type"]) == (200, "error")
    assert await asked(gateway, place, prompt="hi", model="nobody/any") == (204, [])


async def test_a_model_may_be_named_in_parts_or_whole_or_not_at_all(gateway: Gateway) -> None:
    for given in (
        {"provider": "hand", "model": "any"},
        {"model": "hand/any"},
        {"provider": "hand", "model": "hand/any"},
    ):
        running = asyncio.ensure_future(asked(gateway, prompt="hi", system="kind", temperature="0.5", **given))
        before = len(gateway.hand.calls)
        await until(lambda: len(gateway.hand.calls) > before)  # noqa: B023
        call = gateway.hand.calls[-1]
        call.say(HEADERS)
        call.end()
        await running
        assert (call.request.model, call.request.params.system) == ("hand/any", "kind")
        assert call.request.params.temperature == 0.5
    async with serving(default_model="scripted/echo") as other:
        _, events = await asked(other, prompt="as it is")
    assert text_in(events) == "as it is"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"prompt": " "},
        {"prompt": "x" * (PROMPT_CHARS_MAX + 1)},
        {"prompt": "hi", "provider": "hand"},
        {"prompt": "hi", "model": "any"},
        {**BY_HAND, "max_tokens": "many"},
        {**BY_HAND, "request_id": ""},
    ],
)
async def test_what_cannot_be_meant_is_a_status(gateway: Gateway, given: dict[str, str]) -> None:
    status, _ = await asked(gateway, **given)
    assert status == 400
    assert not gateway.hand.calls


async def test_a_place_that_is_none_begins_nothing(gateway: Gateway) -> None:
    for place, wanted in (("17", 400), ("r_00" + "a" * 26 + ":5", 404), ("s_x:1", 400)):
        status, _ = await asked(gateway, place, **BY_HAND)
        assert status == wanted
    assert not gateway.hand.calls


async def test_for_a_place_that_is_no_history_all_text_comes_in_place_of_what_was_shown(gateway: Gateway) -> None:
    _, events = await asked(gateway, **COUNT)
    stream = events[0][0].partition(":")[0]
    running = asyncio.ensure_future(asked(gateway, **BY_HAND))
    await until(lambda: gateway.hand.calls)
    call = gateway.hand.calls[0]
    call.say(HEADERS)
    call.words("a", "b")
    other = next(feed.stream for feed in gateway.node.hub if feed.stream != stream)
    beyond = asyncio.ensure_future(asked(gateway, f"{other}:9999", **BY_HAND))
    await until(lambda: gateway.node.counters.snapshots == 1)
    call.words("c")
    call.end()
    await running
    _, [(_, shown), *rest] = await beyond
    assert shown["type"] == "snapshot"
    assert shown["text"] + text_in(rest) == "abc"
    assert rest[-1][1]["type"] == "done"


async def test_while_the_store_is_away_a_browser_keeps_coming_back(gateway: Gateway) -> None:
    def away(*_: Any) -> None:
        raise ProviderError("store.unavailable", "away")

    _, events = await asked(gateway, **COUNT)
    place = events[3][0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gateway.node, "find", away)
        assert await asked(gateway, place, **COUNT) == (200, [])
    _, rest = await asked(gateway, place, **COUNT)
    assert text_in(events[:4]) + text_in(rest) == count_text(8)


# --------------------------------------------------------------------- who asks


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"accept": "text/event-stream", "sec-fetch-site": "same-origin"}, 200),
        ({"accept": "text/event-stream", "referer": "OWN/page"}, 200),
        ({"accept": "text/event-stream", "origin": "https://evil.example"}, 403),
        ({"accept": "text/event-stream", "sec-fetch-site": "cross-site"}, 403),
        ({"accept": "*/*", "sec-fetch-site": "same-site"}, 403),
        # Where a browser says nothing of the site, as for http on another machine.
        ({"accept": "image/avif,image/webp,image/*,*/*;q=0.8"}, 400),
        ({"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, 400),
        ({"accept": "*/*", "referer": "https://evil.example/"}, 403),
    ],
)
async def test_only_what_is_meant_to_begin_an_answer_begins_one(
    gateway: Gateway, headers: dict[str, str], status: int
) -> None:
    sent = {name: value.replace("OWN", gateway.url) for name, value in headers.items()}
    async with http(gateway) as session, session.get("/stream", params=COUNT, headers=sent) as answer:
        assert answer.status == status
        await answer.read()
    assert len(list(gateway.node.hub)) == (status == 200)


async def test_asking_for_the_head_begins_nothing(gateway: Gateway) -> None:
    async with http(gateway) as session, session.head("/stream", params=COUNT) as answer:
        assert answer.status == 405
    assert not list(gateway.node.hub)


async def test_a_cookie_is_what_a_page_can_show() -> None:
    def by_cookie(credentials: Credentials) -> str | None:
        return {"a": "ann", "b": "ben"}.get(credentials.cookies.get("user", ""))

    async with serving(authenticate=by_cookie) as gateway, http(gateway) as session:
        async with session.get("/stream", params=COUNT, headers={"cookie": "user=a"}) as answer:
            assert answer.status == 200
            place = (await told(answer))[2][0]
        for cookie, status in (("user=b", 404), ("user=c", 401), ("user=a", 200)):
            headers = {"cookie": cookie, "last-event-id": place}
            async with session.get("/stream", params=COUNT, headers=headers) as answer:
                assert answer.status == status


async def test_a_long_url_is_taken_as_it_is(gateway: Gateway) -> None:
    prompt = "ä" * PROMPT_CHARS_MAX
    _, events = await asked(gateway, prompt=prompt, model="scripted/echo")
    assert text_in(events) == prompt
