"""Functions as models, over a WebSocket: what they say is a stream like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.gateway.applications import QUICK, under_ours
from tests.gateway.conftest import JSON, MSGPACK, Client, client_of

from everstream import App, ModelStream, ProviderError, Request, Turn, create_app
from everstream.runtime import turns

WAIT_S = 10.0


def texts(client: Client, stream: str, kind: str = "delta_text") -> str:
    return "".join(frame["text"] for frame in client.streams[stream].frames if frame["type"] == kind)


def only(client: Client, stream: str, kind: str) -> dict[str, Any]:
    (frame,) = (frame for frame in client.streams[stream].frames if frame["type"] == kind)
    return frame


class Kept:
    """An application whose models do what the tests below are about, and what became of them."""

    def __init__(self) -> None:
        self.turns: asyncio.Queue[Turn] = asyncio.Queue()
        self.seen: list[str] = []
        self.go_on = asyncio.Event()
        self.calls = 0
        self.app = create_app(settings=QUICK, on_turn=self.turns.put)
        self.app.model("talks", thinking=True, tools=True)(self.talks)
        self.app.model("waits")(self.waits)
        self.app.model("breaks", continuation="prefill")(self.breaks)
        self.app.model("once", continuation="prompted")(self.once)
        self.app.model("repeats", continuation="replay")(self.repeats)
        self.app.model("strays", continuation="replay")(self.strays)
        self.app.model("fails")(self.fails)
        self.app.model("refuses")(self.refuses)
        self.app.model("silent")(self.silent)

    async def talks(self, request: Request, stream: ModelStream) -> AsyncIterator[str]:
        stream.thinking("Let me see. ")
        yield "You said "
        yield str(request.messages[-1].content)
        stream.tool_call("look", {"where": "here"}, "call_1")
        stream.usage(11, 5)

    async def waits(self, request: Request, stream: ModelStream) -> AsyncIterator[str]:
        try:
            yield "first "
            await self.go_on.wait()
            yield "second"
        except asyncio.CancelledError:
            self.seen.append(stream.status)
            raise
        finally:
            self.seen.append("closed")

    async def breaks(self, request: Request, stream: ModelStream) -> AsyncIterator[str]:
        """A word a run."""
        self.calls += 1
        at = stream.resume_from.checkpoint if stream.resume_from else 0
        if at == 3:
            return
        yield f"{at} "
        stream.checkpoint(at + 1)
        raise ProviderError("provider.connection", "the line broke")

    async def once(self, request: Request, stream: ModelStream) -> AsyncIterator[str]:
        """Sets a checkpoint in its first run only."""
        self.calls += 1
        if stream.resume_from is None:
            yield "a "
            stream.checkpoint({"run": self.calls})
        else:
            assert stream.resume_from.checkpoint == {"run": 1}
            yield f"{len(stream.resume_from.text_since)} "
        if self.calls < 4:
            raise ProviderError("provider.overloaded", "later", retry_after_ms=1)

    async def repeats(self, request: Request, stream: ModelStream) -> AsyncIterator[str]:
        self.calls += 1
        for n in range(1, 5):
            yield f"{n} "
            await asyncio.sleep(0.001)  # pause: so that a word is an entry
            if n == self.calls and n < 3:
                raise ProviderError("provider.connection", "the line broke")

    async def strays(self, request: Request, stream: ModelStream) -> AsyncIterator[str]:
        self.calls += 1
        yield f"This is run {self.calls}."
        if self.calls == 1:
            raise ProviderError("provider.connection", "the line broke")

    async def fails(self, request: Request, stream: ModelStream) -> AsyncIterator[str]:
        self.calls += 1
        yield "begun "
        raise KeyError("a secret of the server")

    def refuses(self, request: Request, stream: ModelStream) -> str:
        raise ProviderError("request.invalid", "ask something else")

    def silent(self, request: Request, stream: ModelStream) -> None:
        """It has nothing to say."""


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_a_function_is_a_model_like_any_other(kept: Kept, subprotocol: str) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws", subprotocol) as client:
        models = (await client.ask("models"))["models"]
        assert models[0] == {
            "id": "app/talks", "usable": True, "continuation": "restart", "thinking": True, "tools": True,
        }  # fmt: skip
        stream = await client.generate("app/talks")
        end = await client.ended(stream)
    assert texts(client, stream, "delta_thinking") == "Let me see. "
    assert client.streams[stream].text == "You said hello"
    call = only(client, stream, "delta_tool_call")
    assert (call["index"], call["call_id"], call["name"]) == (0, "call_1", "look")
    assert call["arguments"] == '{"where": "here"}'
    assert (end["reason"], end["finish_reason"]) == ("complete", "tool_calls")
    usage = end["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["source"]) == (11, 5, "provider")


async def test_a_cancel_is_seen_by_the_function_and_fenced(kept: Kept) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws") as client:
        stream = await client.generate("app/waits")
        await client.until(lambda frame: frame["type"] == "delta_text")
        reply = await client.ask("cancel", stream=stream)
        end = await client.ended(stream)
    assert reply["streams"] == [{"stream": stream, "offset": end["upto"]}]
    assert (end["reason"], client.streams[stream].text) == ("cancelled", "first ")
    assert kept.seen == ["cancelled", "closed"]


async def test_a_client_that_comes_back_reads_on(kept: Kept) -> None:
    async with under_ours(kept.app) as place:
        async with client_of(f"ws://{place}/ws") as client:
            stream = await client.generate("app/waits")
            epoch = client.frames[-1]["epoch"]
            await client.until(lambda frame: frame["type"] == "delta_text")
            held = client.streams[stream]
        kept.go_on.set()
        async with client_of(f"ws://{place}/ws", hello=False) as client:
            client.streams[stream] = held
            await client.send(type="hello", resume=[{"stream": stream, "epoch": epoch, "offset": held.offset}])
            await client.ended(stream)
    assert (held.text, held.snapshots) == ("first second", 0)
    assert kept.seen == ["closed"]


async def test_a_function_that_breaks_off_goes_on_from_its_checkpoints(kept: Kept) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws") as client:
        stream = await client.generate("app/breaks")
        end = await client.ended(stream)
    seams = [frame for frame in client.streams[stream].frames if frame["type"] == "seam"]
    assert (end["reason"], client.streams[stream].text) == ("complete", "0 1 2 ")
    assert [(seam["continuation"], seam["check"]) for seam in seams] == [("prefill", "unverified")] * 3
    assert kept.calls == 4


async def test_a_checkpoint_outlives_the_runs_after_it(kept: Kept) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws") as client:
        stream = await client.generate("app/once")
        end = await client.ended(stream)
    assert (end["reason"], client.streams[stream].text) == ("complete", "a 0 2 4 ")


async def test_a_replay_that_says_the_same_is_exact(kept: Kept) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws") as client:
        stream = await client.generate("app/repeats")
        end = await client.ended(stream)
    seams = [frame for frame in client.streams[stream].frames if frame["type"] == "seam"]
    assert (end["reason"], client.streams[stream].text) == ("complete", "1 2 3 4 ")
    assert [(seam["continuation"], seam["check"]) for seam in seams] == [("exact", "verified")] * 2


async def test_a_replay_that_says_something_else_ends_with_an_error_and_what_was_true(kept: Kept) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws") as client:
        stream = await client.generate("app/strays")
        end = await client.ended(stream)
    assert client.streams[stream].text == "This is run 1."
    assert (end["reason"], end["error"]["code"], kept.calls) == ("failed", "provider.unknown", 2)


async def test_a_function_that_fails_is_not_run_again_and_tells_nothing_of_why(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws") as client:
        stream = await client.generate("app/fails")
        end = await client.ended(stream)
    assert (end["reason"], end["error"]["code"], kept.calls) == ("failed", "internal", 1)
    assert "secret" not in str(client.frames)
    logged = "".join(capsys.readouterr())
    assert "a secret of the server" in logged
    assert "Traceback" in logged


async def test_an_error_with_a_code_is_told_as_it_is(kept: Kept) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws") as client:
        end = await client.ended(await client.generate("app/refuses"))
        assert (end["reason"], end["error"]["code"]) == ("failed", "request.invalid")
        assert end["error"]["message"] == "ask something else"
        refused = await client.ask("generate", model="app/talk", messages=[{"role": "user", "content": "x"}])
        assert (refused["code"], "did you mean talks?" in refused["message"]) == ("model.unknown", True)
        end = await client.ended(await client.generate("app/silent"))
        assert (end["reason"], end["error"]) == ("complete", None)


# --------------------------------------------------------------------------- on_turn


async def test_every_answer_that_ended_is_told_once_it_is_stored(kept: Kept) -> None:
    async with under_ours(kept.app) as place, client_of(f"ws://{place}/ws") as client, asyncio.timeout(WAIT_S):
        stream = await client.generate("app/talks")
        turn = await kept.turns.get()
        await client.ended(stream)
        assert (turn.stream, turn.user, turn.request.model) == (stream, "anonymous", "app/talks")
        assert (turn.text, turn.thinking, turn.end.reason) == ("You said hello", "Let me see. ", "complete")
        assert [(call.name, call.call_id) for call in turn.tool_calls] == [("look", "call_1")]
        waiting = await client.generate("app/waits")
        await client.until(lambda frame: frame["type"] == "delta_text")
        await client.ask("cancel", stream=waiting)
        turn = await kept.turns.get()
        assert (turn.stream, turn.text, turn.end.reason) == (waiting, "first ", "cancelled")
    assert kept.turns.empty()


@pytest.mark.parametrize("plain", [True, False])
async def test_an_on_turn_that_fails_holds_nobody_up(plain: bool, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []

    async def failing(turn: Turn) -> None:
        told.append(turn.text)
        raise RuntimeError("no database")

    def failing_too(turn: Turn) -> None:
        told.append(turn.text)
        raise RuntimeError("no database")

    app = App(QUICK, {"says": lambda request, stream: "a word"}, on_turn=failing_too if plain else failing)
    async with under_ours(app) as place, client_of(f"ws://{place}/ws") as client:
        for _ in range(2):
            assert (await client.ended(await client.generate("app/says")))["reason"] == "complete"
    assert told == ["a word"] * 2
    assert "".join(capsys.readouterr()).count("] on_turn failed") == 2


async def test_what_is_being_told_when_the_server_stops_gets_its_time() -> None:
    told: list[str] = []
    let_go = asyncio.Event()

    async def slow(turn: Turn) -> None:
        await let_go.wait()
        await asyncio.sleep(0.05)  # pause: longer than a stop without it would take
        told.append(turn.text)

    app = App(QUICK, {"says": lambda request, stream: "a word"}, on_turn=slow)
    async with under_ours(app) as place, client_of(f"ws://{place}/ws") as client:
        await client.ended(await client.generate("app/says"))
        asyncio.get_running_loop().call_later(0.2, let_go.set)
    assert told == ["a word"]


async def test_an_on_turn_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LAST_S", 0.05)
    told: list[str] = []

    async def hanging(turn: Turn) -> None:
        told.append(turn.text)
        await asyncio.Event().wait()

    app = App(QUICK, {"says": lambda request, stream: "a word"}, on_turn=hanging)
    async with under_ours(app) as place, client_of(f"ws://{place}/ws") as client:
        for _ in range(2):
            assert (await client.ended(await client.generate("app/says")))["reason"] == "complete"
    assert told == ["a word"] * 2
