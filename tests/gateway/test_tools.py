"""Tools over the wire: the server runs an application's functions, people allow them, and the turn outlives it all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.gateway.conftest import Client, Gateway, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import CountingStore, Hand, until

from everstream import App, ToolContext, ToolError, create_app
from everstream.core.events import DeltaToolCall, ImagePart, Message, TextPart
from everstream.providers.base import Finish
from everstream.providers.registry import Registry
from everstream.providers.windows import Windows
from everstream.runtime import keeper
from everstream.settings import Settings
from everstream.store.memory import MemoryStore

DOOR = Door(ann=person("ann"), ed=person("ed"), vic=person("vic"))
ROLES = [{"user": "ed", "role": "editor"}, {"user": "vic", "role": "viewer"}]
DYING = {"lease_ms": 200, "lease_renew_ms": 20}
UNKNOWN = "The server stopped while this tool ran: whether it had any effect is not known."


class Desk:
    """An application with tools of every kind, and what became of them."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.go = asyncio.Event()
        self.stopped = 0
        self.app: App = create_app()
        self.app.tool(self.add, repeatable=True)
        self.app.tool(self.order, approval=True)
        self.app.tool(self.wait, timeout_s=30)
        self.app.tool(self.wait_again, repeatable=True)
        self.app.tool(self.hang, timeout_s=0.02)
        self.app.tool(self.fail)
        self.app.tool(self.refuse)

    def add(self, a: int, b: int = 1) -> dict[str, int]:
        """Add two numbers."""
        self.ran.append((a, b))
        return {"sum": a + b}

    def order(self, what: str, context: ToolContext) -> str:
        self.ran.append((what, context.user, context.approved_by))
        return f"{what} is ordered"

    async def wait(self) -> str:
        self.ran.append("wait")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return "waited"

    async def wait_again(self) -> str:
        return await self.wait()

    async def hang(self) -> None:
        await asyncio.Event().wait()

    def fail(self) -> None:
        raise RuntimeError("the password is swordfish")

    def refuse(self) -> None:
        raise ToolError("There is none.")


@asynccontextmanager
async def at(gateway: Gateway, token: str = "ann") -> AsyncIterator[Client]:
    async with gateway.client(hello=False) as client:
        assert (await client.ask("hello", token=token))["type"] == "welcome"
        yield client


@asynccontextmanager
async def desk_of(desk: Desk, store: MemoryStore | None = None, **given: Any) -> AsyncIterator[Gateway]:
    async with serving(store, authenticate=DOOR, tools=desk.app.tools, **given) as gateway:
        yield gateway


async def asked(client: Client, **params: Any) -> dict[str, Any]:
    """A session that is open, and a message sent in it."""
    session = (await client.ask("session.create", members=ROLES))["session"]
    assert (await client.ask("session.open", session=session))["type"] == "ok"
    sent = await client.ask("generate", session=session, model="hand/any", content="Please.", params=params)
    assert sent["type"] == "accepted", sent
    return sent


async def calls(hand: Hand, number: int, *made: tuple[str, str, str]) -> None:
    """The model's answer of that number calls tools: (call_id, name, arguments)."""
    await until(lambda: len(hand.calls) > number)
    call = hand.calls[number]
    call.say(*(DeltaToolCall(index, arguments, call_id, name) for index, (call_id, name, arguments) in enumerate(made)))
    call.end(Finish("tool_calls"))


async def says(hand: Hand, number: int, *words: str) -> None:
    await until(lambda: len(hand.calls) > number)
    hand.calls[number].words(*words)
    hand.calls[number].end()


async def end(client: Client) -> dict[str, Any]:
    return await client.until(lambda frame: frame["type"] == "turn_end")


async def message(client: Client, role: str) -> dict[str, Any]:
    frame = await client.until(lambda frame: frame["type"] == "message" and frame["message"]["role"] == role)
    found: dict[str, Any] = frame["message"]
    return found


def told(hand: Hand, number: int) -> list[tuple[str | None, Any, bool]]:
    """What the model was told of its calls."""
    return [(m.call_id, m.content, m.is_error) for m in hand.calls[number].request.messages if m.role == "tool"]


async def outcome(desk: Desk, name: str, arguments: str = "{}") -> tuple[Any, bool]:
    """What the model is told of one call."""
    async with desk_of(desk) as gateway, at(gateway) as ann:
        await asked(ann)
        await calls(gateway.hand, 0, ("c1", name, arguments))
        await says(gateway.hand, 1, "Well.")
        assert (await end(ann))["reason"] == "complete"
        ((call_id, content, is_error),) = told(gateway.hand, 1)
        assert call_id == "c1"
        return content, is_error


# ------------------------------------------------------------------------------ functions run


async def test_a_function_is_offered_runs_and_its_result_is_read() -> None:
    desk = Desk()
    async with desk_of(desk) as gateway, at(gateway) as ann:
        sent = await asked(ann)
        await calls(gateway.hand, 0, ("c1", "add", '{"a": "2", "b": 3}'))
        await says(gateway.hand, 1, "Five.")
        offered = {tool.name: tool.description for tool in gateway.hand.calls[0].request.params.tools or ()}
        assert offered == {name: tool.description for name, tool in desk.app.tools.items()}
        over = await end(ann)
        assert (over["turn"], over["reason"], over["finish_reason"]) == (sent["turn"], "complete", "stop")
        await ann.ended(over["stream"])
        assert ann.streams[over["stream"]].text == "Five."
        assert desk.ran == [(2, 3)]
        question, answer, tool = gateway.hand.calls[1].request.messages
        assert [call.call_id for call in answer.tool_calls or ()] == ["c1"]
        assert (question.content, tool) == ("Please.", Message("tool", '{"sum":5}', call_id="c1"))
    kinds = [f["type"] for f in ann.frames if f.get("session") == sent["session"] and "after" in f and "turn" in f]
    assert [kind for kind in kinds if kind.startswith(("turn", "tool"))] == [
        "turn_start", "tool_start", "turn_start", "turn_end",
    ]  # fmt: skip
    said = [f["message"] for f in ann.frames if f["type"] == "message"]
    assert [(m["role"], m["author"]) for m in said] == [
        ("user", "ann"), ("assistant", "hand/any"), ("tool", "server"), ("assistant", "hand/any"),
    ]  # fmt: skip
    assert said[1]["tool_calls"] == [
        {"call_id": "c1", "name": "add", "arguments": '{"a": "2", "b": 3}', "server": True}
    ]
    assert [(f["call_id"], f["user"]) for f in ann.frames if f["type"] == "tool_start"] == [("c1", None)]


async def test_wrong_arguments_reach_the_model_and_not_the_function() -> None:
    desk = Desk()
    content, is_error = await outcome(desk, "add", '{"a": "many"}')
    assert is_error
    assert "a" in content and "integer" in content  # noqa: PT018
    assert not desk.ran


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hang", "hang took longer than 0.02 s; it was stopped"),
        ("fail", "fail failed: RuntimeError"),
        ("refuse", "There is none."),
    ],
)
async def test_what_goes_wrong_is_told_to_the_model_and_the_turn_goes_on(name: str, words: str) -> None:
    assert await outcome(Desk(), name) == (words, True)


async def test_a_tool_that_nobody_has_is_answered_by_the_server_and_never_run() -> None:
    desk = Desk()
    async with desk_of(desk) as gateway, at(gateway) as ann:
        await asked(ann, app_tools=["add"])
        await calls(gateway.hand, 0, ("c1", "invented", "{}"), ("c2", "wait", "{}"))
        await says(gateway.hand, 1, "Oh.")
        assert (await end(ann))["reason"] == "complete"
        assert told(gateway.hand, 1) == [
            ("c1", "there is no tool invented", True),
            ("c2", "there is no tool wait", True),
        ]
        assert not desk.ran


async def test_where_the_server_offers_none_every_call_is_the_clients() -> None:
    async with desk_of(Desk()) as gateway, at(gateway) as ann:
        sent = await asked(ann, app_tools=False)
        await calls(gateway.hand, 0, ("c1", "add", "{}"))
        assert "server" not in (await message(ann, "assistant"))["tool_calls"][0]
        given = [{"call_id": "c1", "content": "no such tool", "is_error": True}]
        reply = await ann.ask("tool_result", session=sent["session"], stream=sent["stream"], results=given)
        assert (reply["type"], reply["turn"]) == ("accepted", sent["turn"])
        await until(lambda: len(gateway.hand.calls) > 1)
        assert told(gateway.hand, 1) == [("c1", "no such tool", True)]


async def test_calls_with_one_id_or_none_are_kept_apart() -> None:
    desk = Desk()
    async with desk_of(desk) as gateway, at(gateway) as ann:
        await asked(ann)
        await calls(gateway.hand, 0, ("c", "add", '{"a": 1}'), ("c", "add", '{"a": 2}'), ("", "add", '{"a": 3}'))
        await says(gateway.hand, 1, "Three.")
        await end(ann)
        assert sorted(desk.ran) == [(1, 1), (2, 1), (3, 1)]
        ids = [call.call_id for call in gateway.hand.calls[1].request.messages[1].tool_calls or ()]
        assert len({*ids}) == 3
        assert sorted(call_id or "" for call_id, _, _ in told(gateway.hand, 1)) == sorted(ids)


# ------------------------------------------------------------------------------ which tools


@pytest.mark.parametrize(
    ("app_tools", "offered"), [(None, None), (["add", "fail", "none"], ["add", "fail"]), ([], []), (False, [])]
)
async def test_a_client_says_which_of_the_servers_tools_are_offered(app_tools: Any, offered: list[str] | None) -> None:
    desk = Desk()
    async with desk_of(desk) as gateway, at(gateway) as ann:
        await asked(ann, **({} if app_tools is None else {"app_tools": app_tools}))
        await until(lambda: gateway.hand.calls)
        request = gateway.hand.calls[0].request
        names = [tool.name for tool in request.params.tools or ()]
        assert names == (list(desk.app.tools) if offered is None else offered)
        assert "app_tools" not in request.extra


@pytest.mark.parametrize("app_tools", ["add", True, [1], {"add": True}])
async def test_what_names_no_tools_is_refused(app_tools: Any) -> None:
    async with desk_of(Desk()) as gateway, at(gateway) as ann:
        reply = await ann.ask("generate", model="hand/any", content="x", params={"app_tools": app_tools})
        assert (reply["type"], reply["code"]) == ("error", "request.invalid")
        assert "app_tools" in reply["message"]


async def test_a_clients_tool_of_the_same_name_is_meant() -> None:
    desk = Desk()
    own = {"name": "add", "description": "My own.", "parameters": {"type": "object"}}
    async with desk_of(desk) as gateway, at(gateway) as ann:
        sent = await asked(ann, tools=[own])
        await calls(gateway.hand, 0, ("c1", "add", '{"a": 1}'))
        assert "server" not in (await message(ann, "assistant"))["tool_calls"][0]
        offered = [tool.description for tool in gateway.hand.calls[0].request.params.tools or () if tool.name == "add"]
        assert offered == ["My own."]
        given = [{"call_id": "c1", "content": {"sum": 9}}]
        await ann.ask("tool_result", session=sent["session"], stream=sent["stream"], results=given)
        await says(gateway.hand, 1, "Nine.")
        assert told(gateway.hand, 1) == [("c1", '{"sum":9}', False)]
        assert not desk.ran


# ------------------------------------------------------------------------------ approval


@pytest.mark.parametrize("where", ["leader", "elsewhere"])
async def test_a_member_allows_a_call_and_is_named(where: str) -> None:
    desk, store = Desk(), MemoryStore()
    async with (
        desk_of(desk, store) as gateway,
        desk_of(Desk(), store.beside()) as other,
        at(gateway) as ann,
        at(gateway if where == "leader" else other, "ed") as ed,
        at(gateway, "vic") as vic,
    ):
        sent = await asked(ann)
        await calls(gateway.hand, 0, ("c1", "order", '{"what": "tea"}'))
        call = (await message(ann, "assistant"))["tool_calls"][0]
        assert (call["server"], call["approval"]) == (True, True)
        place = {"session": sent["session"], "stream": sent["stream"]}
        yes = [{"call_id": "c1", "approved": True}]
        assert (await vic.ask("tool_approval", **place, approvals=yes))["code"] == "auth.forbidden"
        results = [{"call_id": "c1", "content": "I did it"}]
        assert (await ed.ask("tool_result", **place, results=results))["code"] == "request.invalid"
        assert not desk.ran
        assert (await ed.ask("tool_approval", **place, approvals=yes))["type"] == "ok"
        started = await ann.until(lambda frame: frame["type"] == "tool_start")
        assert (started["call_id"], started["user"]) == ("c1", "ed")
        await says(gateway.hand, 1, "Done.")
        await end(ann)
        assert desk.ran == [("tea", "ann", "ed")]
        assert told(gateway.hand, 1) == [("c1", "tea is ordered", False)]


async def test_what_is_not_allowed_is_told_with_the_reason() -> None:
    desk = Desk()
    async with desk_of(desk) as gateway, at(gateway) as ann, at(gateway, "ed") as ed:
        sent = await asked(ann)
        await calls(gateway.hand, 0, ("c1", "order", '{"what": "gold"}'), ("c2", "order", '{"what": "tin"}'))
        await message(ann, "assistant")
        no = [{"call_id": "c1", "approved": False, "reason": "Too dear."}, {"call_id": "c2", "approved": False}]
        assert (await ed.ask("tool_approval", session=sent["session"], stream=sent["stream"], approvals=no))[
            "type"
        ] == "ok"
        tool = await message(ann, "tool")
        assert (tool["author"], tool["is_error"]) == ("ed", True)
        await says(gateway.hand, 1, "I see.")
        await end(ann)
        assert told(gateway.hand, 1) == [("c1", "Too dear.", True), ("c2", "This tool was not allowed to run.", True)]
        assert not desk.ran


# ------------------------------------------------------------------------------ results from many sides


async def test_the_turn_goes_on_when_server_and_client_have_all_results() -> None:
    desk = Desk()
    async with desk_of(desk) as gateway, at(gateway) as ann, at(gateway, "ed") as ed:
        tools = [{"name": name, "parameters": {"type": "object"}} for name in ("mine", "yours")]
        sent = await asked(ann, tools=tools)
        made = [("c1", "mine", "{}"), ("c2", "add", '{"a": 1}'), ("c3", "yours", "{}")]
        await calls(gateway.hand, 0, *made)
        assert (await message(ann, "tool"))["call_id"] == "c2"
        place = {"session": sent["session"], "stream": sent["stream"]}
        half = await ann.ask("tool_result", **place, results=[{"call_id": "c1", "content": "one"}])
        assert (half["type"], half["missing"]) == ("ok", ["c3"])
        again = await ed.ask("tool_result", **place, results=[{"call_id": "c1", "content": "other"}])
        assert again["code"] == "request.invalid"
        unheard = await ed.ask("tool_result", **place, results=[{"call_id": "c9", "content": "x"}])
        assert unheard["code"] == "request.not_found"
        assert len(gateway.hand.calls) == 1
        whole = await ed.ask("tool_result", **place, results=[{"call_id": "c3", "content": ["three"]}])
        assert (whole["type"], whole["turn"]) == ("accepted", sent["turn"])
        await says(gateway.hand, 1, "All.")
        over = await end(ann)
        assert over["stream"] == whole["stream"]
        assert told(gateway.hand, 1) == [("c2", '{"sum":2}', False), ("c1", "one", False), ("c3", '["three"]', False)]
        authors = [f["message"]["author"] for f in ann.frames if f["type"] == "message"]
        assert authors == ["ann", "hand/any", "server", "ann", "ed", "hand/any"]


async def waits_for_ann(gateway: Gateway, ann: Client) -> dict[str, Any]:
    """A turn that waits for her result."""
    sent = await asked(ann, tools=[{"name": "mine", "parameters": {"type": "object"}}], temperature=0.5)
    await calls(gateway.hand, 0, ("c1", "mine", "{}"))
    await message(ann, "assistant")
    return sent


async def goes_on(gateway: Gateway, sent: dict[str, Any]) -> Any:
    """Her result comes, and the turn ends; what the model was asked."""
    async with at(gateway) as ann:
        opened = await ann.ask("session.open", session=sent["session"])
        (turn,) = opened["running"]
        assert (turn["state"], turn["missing"]) == ("waiting", ["c1"])
        results = [{"call_id": "c1", "content": "late"}]
        reply = await ann.ask("tool_result", session=sent["session"], stream=sent["stream"], results=results)
        assert (reply["type"], reply["turn"]) == ("accepted", sent["turn"])
        number = len(gateway.hand.calls) - 1
        await says(gateway.hand, max(number, 0), "At last.")
        over = await end(ann)
        assert (over["turn"], over["reason"]) == (sent["turn"], "complete")
        request = gateway.hand.calls[-1].request
        assert [m.content for m in request.messages if m.role == "tool"] == ["late"]
        return request


async def test_a_result_may_come_when_the_session_rests_and_to_another_server() -> None:
    store = MemoryStore()
    async with desk_of(Desk(), store, session_rest_s=0.0) as gateway, desk_of(Desk(), store.beside()) as other:
        async with at(gateway) as ann:
            sent = await waits_for_ann(gateway, ann)
        await until(lambda: not len(gateway.node.sessions))
        assert await store.open_streams() == []
        request = await goes_on(other, sent)
        assert "mine" in [tool.name for tool in request.params.tools or ()]
        assert request.params.temperature == 0.5


async def test_a_result_may_come_when_all_servers_were_stopped_meanwhile() -> None:
    store = MemoryStore()
    async with desk_of(Desk(), store) as gateway, at(gateway) as ann:
        sent = await waits_for_ann(gateway, ann)
    async with desk_of(Desk(), store.beside()) as later:
        assert (await goes_on(later, sent)).params.temperature == 0.5


async def test_a_result_may_come_when_the_store_has_forgotten_the_stream() -> None:
    """Streams are kept for a week, sessions for three months."""
    store = MemoryStore()
    async with desk_of(Desk(), store) as gateway, at(gateway) as ann:
        sent = await waits_for_ann(gateway, ann)
    del store.disk.records[sent["stream"]]
    async with desk_of(Desk(), store.beside()) as later:
        assert (await goes_on(later, sent)).model == "hand/any"


# ------------------------------------------------------------------------------ how it ends


async def test_rounds_have_a_bound() -> None:
    desk = Desk()
    async with desk_of(desk, tool_rounds=3) as gateway, at(gateway) as ann:
        sent = await asked(ann)
        for number in range(3):
            await calls(gateway.hand, number, ("c1", "add", f'{{"a": {number}}}'))
        over = await end(ann)
        assert (over["reason"], over["finish_reason"]) == ("budget", "tool_calls")
        assert desk.ran == [(0, 1), (1, 1)]
        assert len(gateway.hand.calls) == 3
        await ann.ask("generate", session=sent["session"], model="hand/any", content="And?")
        await says(gateway.hand, 3, "Enough.")
        assert told(gateway.hand, 3)[-1][2], "the last calls were not run, and the model is told so"


@pytest.mark.parametrize("by", ["session", "stream", "interrupt"])
async def test_a_turn_that_is_stopped_while_a_tool_runs_ends_once_and_stops_it(by: str) -> None:
    desk = Desk()
    async with desk_of(desk) as gateway, at(gateway) as ann, at(gateway, "ed") as ed:
        sent = await asked(ann)
        await calls(gateway.hand, 0, ("c1", "wait", "{}"))
        await until(lambda: desk.ran)
        session = sent["session"]
        if by == "interrupt":
            say = {"model": "hand/any", "content": "Forget it.", "on_busy": "interrupt"}
            assert (await ed.ask("generate", session=session, **say))["type"] == "accepted"
        else:
            fence = await ed.ask("cancel", **{by: sent[by]})
            assert [told["stream"] for told in fence["streams"]] == [sent["stream"]]
        over = await end(ann)
        assert (over["turn"], over["reason"], over["by"]) == (sent["turn"], "cancelled", "ed")
        await until(lambda: desk.stopped)
        if by != "interrupt":
            await ann.ask("generate", session=session, model="hand/any", content="Go on.")
        await says(gateway.hand, 1, "Yes.")
        assert (await end(ann))["turn"] != sent["turn"]
        assert told(gateway.hand, 1) == [("c1", "This tool was not run: the user went on without it.", True)]
        assert sum(f["type"] == "turn_end" and f["turn"] == sent["turn"] for f in ann.frames) == 1
        assert not [f for f in ann.frames if f["type"] == "message" and f["message"]["role"] == "tool"]


@pytest.mark.parametrize(("name", "result"), [("wait", (UNKNOWN, True)), ("wait_again", ("waited", False))])
async def test_a_tool_of_a_server_that_dies_runs_again_only_where_that_does_no_harm(
    name: str, result: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "ORPHAN_SEARCH_S", 0.05)
    store, desk, heirs_desk = CountingStore(), Desk(), Desk()
    dead = store.beside()
    heirs_desk.go.set()
    async with desk_of(heirs_desk, store, **DYING) as heir, at(heir, "ed") as ed:
        async with desk_of(desk, dead, **DYING) as gateway:
            async with at(gateway) as ann:
                sent = await asked(ann)
                await ed.ask("session.open", session=sent["session"])
                await calls(gateway.hand, 0, ("c1", name, "{}"))
                await until(lambda: desk.ran)
            dead.available = False
            await says(heir.hand, 0, "Anyway.")
            over = await end(ed)
        assert (over["turn"], over["reason"]) == (sent["turn"], "complete")
        assert told(heir.hand, 0) == [("c1", *result)]
        assert bool(heirs_desk.ran) is (name == "wait_again")
        assert sum(f["type"] == "turn_end" for f in ed.frames) == 1


async def test_a_tool_of_a_server_that_is_stopped_is_taken_up_by_the_next() -> None:
    store, desk, next_desk = MemoryStore(), Desk(), Desk()
    async with desk_of(next_desk, store.beside()) as other, at(other, "ed") as ed:
        async with desk_of(desk, store) as gateway, at(gateway) as ann:
            sent = await asked(ann)
            await ed.ask("session.open", session=sent["session"])
            await calls(gateway.hand, 0, ("c1", "wait", "{}"))
            await until(lambda: desk.ran)
        await says(other.hand, 0, "Anyway.")
        assert (await end(ed))["reason"] == "complete"
        assert told(other.hand, 0) == [("c1", UNKNOWN, True)]
        assert desk.stopped == 1


# ------------------------------------------------------------------------------ what a model is given


@pytest.mark.parametrize("where", ["leader", "elsewhere"])
async def test_an_image_reaches_the_provider(where: str) -> None:
    store = MemoryStore()
    async with (
        desk_of(Desk(), store) as gateway,
        desk_of(Desk(), store.beside()) as other,
        at(gateway) as ann,
        at(gateway if where == "leader" else other) as sender,
    ):
        session = (await ann.ask("session.create"))["session"]
        content = [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "url": "https://example.org/cat.png"},
            {"type": "image", "data": "aGVsbG8=", "media_type": "image/png"},
        ]
        await sender.ask("generate", session=session, model="hand/any", content=content)
        await says(gateway.hand, 0, "A cat.")
        (asked_of,) = gateway.hand.calls[0].request.messages
        assert asked_of.content == [
            TextPart("What is this?"),
            ImagePart("https://example.org/cat.png"),
            ImagePart(None, "aGVsbG8=", "image/png"),
        ]
        await until(lambda: not gateway.node.generating)
        opened = await sender.ask("session.open", session=session)
        assert opened["messages"][0]["content"] == content
        assert opened["title"] == "What is this?"


def of_settings(hand: Hand) -> Callable[[Settings], Registry]:
    return lambda settings: Registry({"hand": lambda: hand}, windows=Windows(otherwise=settings.context_tokens))


async def test_what_a_window_has_no_room_for_is_left_out_and_said() -> None:
    """The oldest go, the system prompt stays; and the same holds for the answer after a tool's result."""
    desk, hand = Desk(), Hand()
    async with (
        serving(registry=of_settings(hand), authenticate=DOOR, tools=desk.app.tools, context_tokens=1_000) as gateway,
        at(gateway) as ann,
    ):
        session = (await ann.ask("session.create", system="Be brief.", model="hand/any"))["session"]
        await ann.ask("session.open", session=session)
        params = {"app_tools": ["add"]}
        for number in range(4):
            await ann.ask("generate", session=session, content=f"{number} " + "word " * 200, params=params)
            await says(hand, number, "yes")
            await end(ann)
        await ann.ask("generate", session=session, content="Now add.", params=params)
        await calls(hand, 4, ("c1", "add", '{"a": 1}'))
        await says(hand, 5, "Two.")
        await end(ann)
        starts = [frame for frame in ann.frames if frame["type"] == "turn_start"]
        left_out = [frame.get("left_out", 0) for frame in starts]
        assert left_out[0] == 0 < left_out[4] <= left_out[5], "the result of the tool takes room, too"
        whole = ["0", "yes", "1", "yes", "2", "yes", "3", "yes", "Now", "", '{"sum":2}']
        for call, start, path in zip(hand.calls, left_out, (1, 3, 5, 7, 9, 11), strict=True):
            assert call.request.params.system == "Be brief."
            said = [str(m.content).partition(" ")[0] for m in call.request.messages]
            assert said == whole[start:path]
