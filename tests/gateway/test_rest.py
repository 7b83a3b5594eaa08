"""Sessions over HTTP do what the commands do, for the same people, and answer what is described."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway.conftest import Gateway, count_text, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import HEADERS, until

from everstream.core.events import Cost, DeltaToolCall, Usage
from everstream.core.session_events import TurnEnd, TurnQueued, TurnStart
from everstream.gateway.rest import REST
from everstream.gateway.session_usage import used
from everstream.providers.base import Finish

DOOR = Door(ann=person("ann"), ben=person("ben"), eve=person("eve"))
COUNT = {"model": "scripted/count", "params": {"tokens": 5, "rate": 0}}


class Rest:
    """One person who asks a server."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.http = session

    async def ask(self, method: str, path: str, body: Any = None, *, status: int = 200, **headers: str) -> Any:
        """The body of the answer, whose status must be this."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, f"/v1/sessions{path}", json=body, headers=sent) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return await answer.json() if "json" in answer.content_type else text

    async def made(self, **fields: Any) -> str:
        return str((await self.ask("POST", "", fields, status=201))["session"])

    async def read(self, stream: str) -> str:
        """A stream to its end, as text."""
        async with self.http.get(f"/v1/streams/{stream}") as answer:
            return await answer.text()

    async def answered(self, session: str, content: str, **fields: Any) -> dict[str, Any]:
        """Send a message, and wait until the answer is whole; what was accepted."""
        sent = {"content": content, **COUNT, **fields}
        accepted: dict[str, Any] = await self.ask("POST", f"/{session}/messages", sent, status=202)
        assert '"stream_end"' in await self.read(accepted["stream"])
        await self.ended(session, accepted["turn"])
        return accepted

    async def ended(self, session: str, turn: str) -> None:
        """Until a turn is over: its answer becomes a message just after its stream has ended."""
        for _ in range(1000):
            shown = await self.ask("GET", f"/{session}?history=0")
            if all(running["turn"] != turn for running in shown["running"]):
                return
        raise AssertionError("the turn did not end")


@asynccontextmanager
async def rest(gateway: Gateway, token: str = "") -> AsyncIterator[Rest]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(gateway.url, headers=headers, timeout=aiohttp.ClientTimeout(10)) as session:
        yield Rest(session)


async def test_a_session_is_made_changed_listed_and_erased() -> None:
    async with serving() as gateway, rest(gateway) as ann:
        first, second = await ann.made(title="one", model="scripted/count"), await ann.made(title="two")
        await ann.ask("PATCH", f"/{first}", {"title": "uno", "model": ""}, status=204)
        shown = await ann.ask("GET", f"/{first}")
        assert (shown["title"], shown["model"], shown["role"]) == ("uno", "", "owner")
        assert (shown["messages"], shown["running"]) == ([], [])
        page = await ann.ask("GET", "?limit=1")
        rest_of_them = await ann.ask("GET", f"?limit=1&before={page['next']}")
        assert {page["sessions"][0]["session"], rest_of_them["sessions"][0]["session"]} == {first, second}
        await ann.ask("DELETE", f"/{first}", status=204)
        failed = await ann.ask("GET", f"/{first}", status=404)
        assert failed["error"]["code"] == "session.unknown"


async def test_a_message_is_answered_by_a_stream_and_stands_in_the_session() -> None:
    async with serving() as gateway, rest(gateway) as ann:
        session = await ann.made()
        accepted = await ann.answered(session, "count")
        assert accepted.keys() == {"session", "turn", "message", "stream", "epoch"}
        again = await ann.ask("POST", f"/{session}/messages", {"parent": accepted["message"], **COUNT}, status=202)
        await ann.read(again["stream"])
        await ann.ended(session, again["turn"])
        page = await ann.ask("GET", f"/{session}/messages?limit=2")
        assert [(m["role"], m["content"]) for m in page["messages"]] == [("assistant", count_text(5))] * 2
        assert {m["parent"] for m in page["messages"]} == {accepted["message"]}
        assert page["more"] is True
        older = await ann.ask("GET", f"/{session}/messages?before={page['messages'][0]['id']}")
        assert [m["content"] for m in older["messages"]] == ["count"]


async def test_a_request_that_is_repeated_starts_nothing() -> None:
    async with serving() as gateway, rest(gateway) as ann:
        made = [await ann.ask("POST", "", {}, status=201, Idempotency_Key="k") for _ in range(2)]
        assert made[0] == made[1]
        session = made[0]["session"]
        asked = {"content": "count", **COUNT}
        sent = [
            await ann.ask("POST", f"/{session}/messages", asked, status=202, Idempotency_Key="m"),
            await ann.ask("POST", f"/{session}/messages", {**asked, "request_id": "m"}, status=202),
        ]
        assert sent[0] == sent[1]
        await ann.ended(session, sent[0]["turn"])
        assert len((await ann.ask("GET", f"/{session}/messages"))["messages"]) == 2


async def test_stopping_a_session_answers_with_the_fences() -> None:
    async with serving() as gateway, rest(gateway) as ann:
        session = await ann.made(model="hand/any")
        accepted = await ann.ask("POST", f"/{session}/messages", {"content": "hi"}, status=202)
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].say(HEADERS)
        busy = await ann.ask("POST", f"/{session}/messages", {"content": "x", "on_busy": "reject"}, status=409)
        assert busy["error"]["code"] == "session.busy"
        (fence,) = (await ann.ask("POST", f"/{session}/cancel"))["streams"]
        assert fence["stream"] == accepted["stream"]
        said = await ann.read(accepted["stream"])
        assert f"id: {fence['offset']}\n" in said
        assert '"cancelled"' in said


async def test_results_of_tools_are_taken_and_the_turn_goes_on() -> None:
    async with serving() as gateway, rest(gateway) as ann:
        session = await ann.made(model="hand/any")
        accepted = await ann.ask("POST", f"/{session}/messages", {"content": "hi"}, status=202)
        await until(lambda: gateway.hand.calls)
        calls = [DeltaToolCall(index, "{}", f"c{index}", "f") for index in (0, 1)]
        gateway.hand.calls[0].say(HEADERS, *calls)
        gateway.hand.calls[0].end(Finish("tool_calls"))
        await ann.read(accepted["stream"])
        given = {"stream": accepted["stream"], "results": [{"call_id": "c0", "content": {"n": 1}}]}
        await until(lambda: any(turn.state == "waiting" for turn in _turns(gateway, session)))
        missing = await ann.ask("POST", f"/{session}/tool_results", given)
        assert missing["missing"] == ["c1"]
        given["results"] = [{"call_id": "c1", "content": "two"}]
        going_on = await ann.ask("POST", f"/{session}/tool_results", given, status=202)
        assert going_on["turn"] == accepted["turn"]
        assert going_on["stream"] != accepted["stream"]
        await ann.ask("POST", f"/{session}/approvals", {"stream": "r_none", "approvals": []}, status=400)
        await ann.ask("POST", f"/{session}/cancel")


def _turns(gateway: Gateway, session: str) -> list[Any]:
    feed = gateway.node.hub.get(session)
    assert feed is not None
    return gateway.node.sessions.view(feed).busy


async def test_each_member_may_do_what_the_role_allows() -> None:
    async with serving(authenticate=DOOR) as gateway, rest(gateway, "ann") as ann, rest(gateway, "ben") as ben:
        session = await ann.made()
        await ben.ask("GET", f"/{session}", status=404)
        await ann.ask("PUT", f"/{session}/members/ben", {"role": "viewer"}, status=204)
        assert (await ben.ask("GET", f"/{session}"))["role"] == "viewer"
        failed = await ben.ask("POST", f"/{session}/messages", {"content": "hi", **COUNT}, status=403)
        assert failed["error"]["code"] == "auth.forbidden"
        await ben.ask("DELETE", f"/{session}", status=403)
        await ann.ask("PUT", f"/{session}/members/a%2Fb", {}, status=204)
        members = (await ben.ask("GET", f"/{session}/members"))["members"]
        assert {m["user"]: m["role"] for m in members} == {"ann": "owner", "ben": "viewer", "a/b": "editor"}
        await ben.ask("DELETE", f"/{session}/members/ben", status=204)
        await ben.ask("GET", f"/{session}/members", status=404)
        await ann.ask("DELETE", f"/{session}/members/ann", status=400)
        async with rest(gateway) as nobody:
            assert (await nobody.ask("GET", "", status=401))["error"]["code"] in ("auth.required", "auth.denied")


async def test_a_session_comes_as_a_document() -> None:
    async with serving() as gateway, rest(gateway) as ann:
        session = await ann.made(title="Counting")
        await ann.answered(session, "count")
        assert (await ann.ask("GET", f"/{session}/export")).startswith("# Counting\n")
        whole = await ann.ask("GET", f"/{session}/export?format=json")
        assert [m["content"] for m in whole["messages"]] == ["count", count_text(5)]
        await ann.ask("GET", f"/{session}/export?message=none", status=404)


async def test_usage_adds_up_the_turns_that_have_ended() -> None:
    async with serving() as gateway, rest(gateway) as ann:
        session = await ann.made()
        for content in ("one", "two"):
            await ann.answered(session, content)
        running = {"content": "three", "model": "hand/any"}
        await ann.ask("POST", f"/{session}/messages", running, status=202)
        usage = await ann.ask("GET", f"/{session}/usage")
        assert (usage["turns"], usage["running"]) == (2, 1)
        (model,) = usage["models"]
        assert (model["model"], model["turns"], model["output_tokens"]) == ("scripted/count", 2, 10)
        assert model["total_tokens"] == model["input_tokens"] + 10
        await ann.ask("POST", f"/{session}/cancel")


def test_the_document_names_every_route() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rest.md").read_text()
    missing = [f"{r.row.method} {r.row.path}" for r in REST if f"`{r.row.method} {r.row.path}`" not in text]
    assert not missing


def test_what_never_began_is_not_counted_and_unknown_prices_are_told() -> None:
    usage, cost = Usage(2, 3, 5, "estimated", cached_tokens=1), Cost(0.1, 0.2, 0.3)
    entries = [
        TurnStart("t1", "r_1", "a/x", "m1", "ann"),
        TurnQueued("t2", 1, "r_2", "a/x", "ann", "m2"),
        TurnEnd("t2", "r_2", "cancelled", None),
        TurnStart("t3", "r_3", "b/y", "m3", "ann"),
        TurnEnd("t1", "r_1", "complete", "m4", usage=usage, cost=cost),
        TurnStart("t4", "r_4", "a/x", "m5", "ann"),
        TurnEnd("t4", "r_4", "complete", "m6", usage=usage, cost=cost),
        TurnStart("t5", "r_5", "a/x", "m5", "ann"),
        TurnEnd("t5", "r_5", "failed", "m7"),
    ]
    (found,) = used(entries)
    assert (found.model, found.turns, found.unknown, found.unpriced, found.estimated) == ("a/x", 3, 1, 1, 2)
    assert (found.input_tokens, found.output_tokens, found.total_tokens, found.cached_tokens) == (4, 6, 10, 2)
    assert found.cost is not None
    assert found.cost.total == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "?limit=0", None),
        ("GET", "?limit=many", None),
        ("GET", "?limit=1&limit=2", None),
        ("GET", "?before=yesterday", None),
        ("POST", "", {"title": 7}),
        ("POST", "", {"model": "nothing"}),
        ("POST", "", [1]),
        ("POST", "/{s}/messages", {}),
        ("POST", "/{s}/messages", {"content": "  ", "model": "scripted/count"}),
        ("POST", "/{s}/messages", {"content": "a", "messages": []}),
        ("PUT", "/{s}/members/ben", {"role": "king"}),
        ("GET", "/{s}/export?format=pdf", None),
    ],
)
async def test_what_makes_no_sense_is_refused(method: str, path: str, body: Any) -> None:
    async with serving() as gateway, rest(gateway) as ann:
        session = await ann.made()
        failed = await ann.ask(method, path.replace("{s}", session), body, status=400)
        assert failed["error"]["code"] == "request.invalid"


async def test_another_method_is_told_which_there_are() -> None:
    async with serving() as gateway, rest(gateway) as ann, ann.http.put("/v1/sessions/s_1") as answer:
        assert answer.status == 405
        assert {"GET", "PATCH", "DELETE"} <= set(answer.headers["allow"].split(", "))
