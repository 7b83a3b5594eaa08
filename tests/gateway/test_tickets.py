"""A ticket lets its bearer in once, soon, on any node, to read; and then to read on what it began, and nothing else."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.gateway.conftest import Gateway, count_text, serving
from tests.gateway.people import Door, person
from tests.gateway.test_event_source import COUNT, text_in, told
from tests.gateway.test_http_events import frames
from tests.gateway.test_http_streams import http
from tests.runtime.conftest import until

from everstream.gateway.auth import Credentials, Principal
from everstream.gateway.authenticator import Authenticator
from everstream.gateway.keys import Keys
from everstream.gateway.tickets import READING_S, TICKET_S
from everstream.store.memory import MemoryStore

KEY = "es_shown_in_a_header"
ANN = {"x-api-key": KEY}
EVENTS = {"accept": "text/event-stream"}


class Pair:
    """Two nodes of one store, whose clock can be put forward."""

    def __init__(self, one: Gateway, two: Gateway, door: Door) -> None:
        self.one, self.two, self.door = one, two, door
        self.ahead_s = 0.0
        one.store.disk.clock_ms = lambda: int((time.monotonic() + self.ahead_s) * 1000)


@asynccontextmanager
async def pair(ann: Principal | None = None) -> AsyncIterator[Pair]:
    store, door = MemoryStore(), Door(**{KEY: ann or person("ann", "1"), "bob": person("bob", "2")})
    async with (
        serving(store, authenticate=door) as one,
        serving(store.beside(), authenticate=door) as two,
    ):
        yield Pair(one, two, door)


async def ticket_of(gateway: Gateway, headers: dict[str, str] | None = None) -> str:
    async with (
        http(gateway) as session,
        session.post("/v1/tickets", headers=ANN if headers is None else headers) as made,
    ):
        assert (made.status, made.headers["cache-control"]) == (200, "no-store")
        said = await made.json()
    assert said == {"ticket": said["ticket"], "expires_ms": TICKET_S * 1000}
    assert said["ticket"].startswith("tk_")
    return str(said["ticket"])


async def got(gateway: Gateway, path: str, place: str = "", **query: str) -> tuple[int, Any]:
    """A whole answer: events where it is one of events, else what its body says."""
    headers = EVENTS | ({"last-event-id": place} if place else {})
    async with http(gateway) as session, session.get(path, params=query, headers=headers) as answer:
        if answer.status == 200:
            return 200, await told(answer)
        body = await answer.read()
        if answer.status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            return 401, answer.headers.get("x-everstream-error") or json.loads(body)["error"]["code"]
        return answer.status, body


async def counted(gateway: Gateway, ticket: str) -> tuple[str, list[tuple[str, Any]]]:
    """An answer begun with a ticket: its stream and events."""
    status, events = await got(gateway, "/stream", **COUNT, ticket=ticket)
    assert status == 200
    return events[0][0].rpartition(":")[0], events


DENIED = (401, "auth.denied")


async def test_a_ticket_of_one_node_begins_an_answer_on_another_as_its_bearer_and_only_once() -> None:
    async with pair() as pair_of:
        ticket = await ticket_of(pair_of.one)
        stream, events = await counted(pair_of.two, ticket)
        assert text_in(events) == count_text(8)
        feed = await pair_of.two.node.find(stream, "ann")
        assert feed.owner.user == "ann"
        for gateway in (pair_of.one, pair_of.two):
            assert await got(gateway, "/stream", **COUNT, ticket=ticket) == DENIED
        assert len(list(pair_of.two.node.hub)) == 1


async def test_of_twenty_that_come_at_once_with_a_ticket_one_is_let_in() -> None:
    async with pair() as pair_of:
        ticket, nodes = await ticket_of(pair_of.one), (pair_of.one, pair_of.two)
        asked = (got(nodes[n % 2], "/stream", **COUNT, ticket=ticket) for n in range(20))
        statuses = Counter(status for status, _ in await asyncio.gather(*asked))
        assert statuses == {200: 1, 401: 19}


async def test_a_browser_that_comes_back_reads_on_in_the_stream_that_it_began_and_in_no_other() -> None:
    async with pair() as pair_of:
        other, _ = await counted(pair_of.one, await ticket_of(pair_of.one))
        ticket = await ticket_of(pair_of.one)
        stream, events = await counted(pair_of.one, ticket)
        for number, (place, _) in enumerate(events[:-1]):
            status, rest = await got(pair_of.two, "/stream", place, **COUNT, ticket=ticket)
            assert status == 200
            assert text_in(events[: number + 1]) + text_in(rest) == count_text(8)
        assert (await got(pair_of.two, "/stream", events[-1][0], **COUNT, ticket=ticket))[0] == 204
        assert (await got(pair_of.two, f"/v1/streams/{stream}", "1", ticket=ticket))[0] == 200
        for place in (f"{other}:1", f"{stream}:", f" x{stream}:1", "over"):
            assert await got(pair_of.two, "/stream", place, **COUNT, ticket=ticket) == DENIED, place
        for path in (f"/v1/streams/{other}", "/v1/events", "/api/chat/c/stream"):
            for place in ("", f"{stream}:1"):
                assert await got(pair_of.two, path, place, ticket=ticket) == DENIED, path
        pair_of.ahead_s += READING_S + 1
        assert await got(pair_of.two, "/stream", events[0][0], **COUNT, ticket=ticket) == DENIED


async def test_a_ticket_that_was_used_to_read_a_stream_is_good_for_that_stream() -> None:
    async with pair() as pair_of:
        stream, _ = await counted(pair_of.one, await ticket_of(pair_of.one))
        ticket = await ticket_of(pair_of.one)
        for place in ("", "1", "2"):
            assert (await got(pair_of.two, f"/v1/streams/{stream}", place, ticket=ticket))[0] == 200
        assert await got(pair_of.two, "/stream", **COUNT, ticket=ticket) == DENIED


async def test_events_and_a_chat_are_opened_with_a_ticket_once() -> None:
    async with pair() as pair_of, http(pair_of.two) as session:
        ticket = await ticket_of(pair_of.one)
        async with session.get("/v1/events", params={"ticket": ticket}) as answer:
            assert (await anext(frames(answer)))["user"]["id"] == "ann"
        assert await got(pair_of.one, "/v1/events", ticket=ticket) == DENIED
        ticket = await ticket_of(pair_of.one)
        assert (await got(pair_of.two, "/api/chat/c/stream", ticket=ticket))[0] == 204
        assert await got(pair_of.two, "/api/chat/c/stream", ticket=ticket) == DENIED


async def test_a_ticket_is_too_late_after_its_time_and_what_is_none_is_refused() -> None:
    async with pair() as pair_of:
        soon, late = await ticket_of(pair_of.one), await ticket_of(pair_of.one)
        pair_of.ahead_s += TICKET_S - 2
        await counted(pair_of.two, soon)
        pair_of.ahead_s += 2.1
        assert await got(pair_of.two, "/stream", **COUNT, ticket=late) == DENIED
        for wrong in ("tk_" + "a" * 43, late[:-1], late + "a", "x", KEY, "tk_\n", "é"):
            assert await got(pair_of.two, "/stream", **COUNT, ticket=wrong) == DENIED, wrong


async def test_other_routes_take_no_ticket_and_leave_it_unused() -> None:
    async with pair() as pair_of, http(pair_of.one) as session:
        ticket = await ticket_of(pair_of.one)
        shown = {"ticket": ticket}
        for method, path in (
            ("GET", "/v1/models"), ("GET", "/v1/sessions"), ("POST", "/v1/tickets"), ("POST", "/v1/commands"),
            ("POST", "/v1/chat/completions"), ("POST", "/api/chat"), ("DELETE", "/api/chat/c/stream"),
            ("HEAD", "/v1/streams/r_x"), ("POST", "/v1/streams/r_x/cancel"),
        ):  # fmt: skip
            async with session.request(method, path, params=shown) as answer:
                assert answer.status == 401, path
        for headers in ({"x-api-key": ticket}, {"authorization": f"Bearer {ticket}"}):
            async with session.get("/v1/models", headers=headers) as answer:
                assert answer.status == 401
        async with session.get("/stream", params=COUNT | shown, headers={"accept": "image/png"}) as answer:
            assert answer.status == 400, "an image in a page of others"
        await counted(pair_of.one, ticket)


async def test_nobody_gets_a_ticket_without_being_let_in() -> None:
    async with pair() as pair_of, http(pair_of.one) as session:
        for headers in ({}, {"x-api-key": "nobody"}):
            async with session.post("/v1/tickets", headers=headers) as answer:
                assert answer.status == 401
        assert pair_of.one.store.disk.notes == {}


async def test_tickets_of_a_key_that_was_revoked_are_refused_also_for_reading_on() -> None:
    store = MemoryStore()
    keys = Keys(store)
    id, key = await keys.create("ann")
    async with serving(store, authenticate=Authenticator(keys, None)) as gateway:
        unused, used = [await ticket_of(gateway, {"x-api-key": key}) for _ in range(2)]
        _, events = await counted(gateway, used)
        assert (await got(gateway, "/stream", events[0][0], **COUNT, ticket=used))[0] == 200
        await keys.revoke(id)
        assert await got(gateway, "/stream", **COUNT, ticket=unused) == DENIED
        assert await got(gateway, "/stream", events[0][0], **COUNT, ticket=used) == DENIED


async def test_what_was_begun_with_a_ticket_ends_with_its_key_and_is_paid_for_by_it() -> None:
    async with pair() as pair_of, http(pair_of.two) as session:
        asked = {"prompt": "hi", "provider": "hand", "model": "any", "ticket": await ticket_of(pair_of.one)}
        async with session.get("/stream", params=asked, headers=EVENTS) as answer:
            await until(lambda: pair_of.two.hand.calls)
            assert pair_of.two.hand.calls[0].request.paid_by == "key:1"
            await pair_of.one.node.revoke("key:1")
            await answer.read()
        pair_of.two.hand.calls[0].end()


async def test_a_ticket_holds_no_longer_than_the_token_that_it_was_made_with() -> None:
    ends_at = time.time() + 0.3
    async with pair(person("ann", expires_at=ends_at)) as pair_of:
        before, after = await ticket_of(pair_of.one), await ticket_of(pair_of.one)
        async with http(pair_of.one) as session, session.get("/v1/events", params={"ticket": before}) as answer:
            await answer.read()  # to its end, which comes with the token's
        assert time.time() >= ends_at
        assert await got(pair_of.one, "/stream", **COUNT, ticket=after) == DENIED


async def test_where_nobody_asks_who_is_there_tickets_are_taken_all_the_same() -> None:
    async with serving() as gateway:
        ticket = await ticket_of(gateway, {})
        await counted(gateway, ticket)
        assert await got(gateway, "/stream", **COUNT, ticket=ticket) == DENIED
        assert (await got(gateway, "/stream", **COUNT))[0] == 200


async def test_a_store_that_is_away_lets_nobody_in_by_ticket_and_says_to_come_again() -> None:
    async with pair() as pair_of:
        ticket = await ticket_of(pair_of.one)
        pair_of.one.store.available = False
        status, body = await got(pair_of.one, "/v1/events", ticket=ticket)
        assert (status, json.loads(body)["error"]["code"]) == (503, "store.unavailable")
        pair_of.one.store.available = True
        await counted(pair_of.one, ticket)


async def test_no_ticket_is_in_the_log_or_in_the_store(capfd: pytest.CaptureFixture[str]) -> None:
    def fails(credentials: Credentials) -> Principal:
        if credentials.token == KEY:
            return person("ann", "1")
        raise RuntimeError("out of order")

    store = MemoryStore()
    async with serving(store, authenticate=fails, log_level="debug") as gateway, http(gateway) as session:
        used, unused = [await ticket_of(gateway) for _ in range(2)]
        await counted(gateway, used)
        for ticket in (used, unused, "tk_" + "z" * 43):
            for path in ("/stream", "/v1/streams/r_x", "/v1/events", "/api/chat/c/stream", "/v1/models", "/nowhere"):
                headers = EVENTS | {"origin": "https://elsewhere.example"}
                for sent in (EVENTS, headers):
                    async with session.get(path, params=COUNT | {"ticket": ticket}, headers=sent) as answer:
                        if path != "/v1/events" or answer.status != 200:
                            assert ticket.encode() not in await answer.read()
        kept = repr((store.disk.notes, store.disk.accounts))
    said = "".join(capfd.readouterr())
    assert "out of order" in said, "this test reads the log"
    for ticket in (used, unused, "tk_" + "z" * 43):
        assert ticket not in said
        assert ticket[3:] not in said
        assert ticket[3:] not in kept
    assert KEY not in said
