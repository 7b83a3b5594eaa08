"""Gemini's answers that broke off: written on, asked to be gone on with, or read on where they still run."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.providers.seams import REFUSALS, SAID_BY_ITSELF, pieces_of, refused
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import ROOT, Outcome, Wire, drain, parsed
from tests.providers.wires_gemini import gemini_wires

from everstream.core.events import Message, Params, Request, Resumed, ToolCall
from everstream.core.summary import Summary
from everstream.providers.base import Progress
from everstream.providers.carry_join import anchor_of
from everstream.providers.carry_known import PROBE_SAID
from everstream.providers.carry_policy import policy_of
from everstream.providers.gemini import GeminiProvider

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout")

OLD, NEW, UNKNOWN = "gemini-2.5-flash", "gemini-3.8-flash", "gemma-4-31b-it"
CUTS = 12  # of each text
EXACT = Resumed("exact", "verified")
JSON = {"content-type": "application/json"}
GONE = json.dumps({"error": {"code": 404, "message": "Interaction not found.", "status": "NOT_FOUND"}}).encode()


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture
async def provider(server: WireServer) -> AsyncIterator[GeminiProvider]:
    provider = GeminiProvider("k", server.url, max_retries=0)
    yield provider
    await provider.aclose()


@pytest.fixture
async def runner(server: WireServer) -> AsyncIterator[GeminiProvider]:
    """One that asks for everything in the background."""
    provider = GeminiProvider("k", server.url, background="on", max_retries=0)
    yield provider
    await provider.aclose()


def asked(model: str = NEW, **params: Any) -> Request:
    return Request(f"gemini/{model}", [Message("user", "hello")], Params(**params))


# --------------------------------------------------------------------------- generateContent


def texts() -> list[Wire]:
    return [wire for wire in gemini_wires() if wire.api == "gemini" and len(wire.text) > 100 and not wire.error]


class Brain:
    """A model that knows the whole text: it writes on after its own turn, or refuses to, and goes on when asked."""

    def __init__(self, text: str, seed: int = 0) -> None:
        self.text = text
        self.shown = ""
        self.refuses = False
        self.turn = False
        self.sent: list[list[dict[str, Any]]] = []
        self._draw = random.Random(seed)

    def reply(self, got: Asked) -> Reply:
        contents = got.json["contents"]
        self.sent.append(contents)
        last = contents[-1]
        said = "".join(part["text"] for part in last["parts"])
        if last["role"] == "user":
            return self._said(self.text[len(self.shown.rstrip()) - len(anchor_of(self.shown)) :])
        if self.refuses:
            return refused(REFUSALS["gemini"])
        if said == PROBE_SAID:
            return self._said(SAID_BY_ITSELF if self.turn else SAID_BY_ITSELF[13:])
        assert self.text.startswith(said), "what was sent is not what was said"
        return self._said(self.text[len(said) :])

    def _said(self, text: str) -> Reply:
        chunks = [{"content": {"parts": [{"text": piece}], "role": "model"}} for piece in pieces_of(text, self._draw)]
        chunks.append({"content": {"parts": []}, "finishReason": "STOP"})
        lines = (json.dumps({"candidates": [chunk]}).encode() for chunk in chunks)
        return Reply(b"".join(b"data: " + line + b"\r\n\r\n" for line in lines), segments=(1, 400), seed=len(text))


def ends(wire: Wire) -> list[str]:
    """What readers have seen when it breaks off; every third time that ends in white space."""
    draw = random.Random(wire.key)
    spaced = [at for at in range(41, len(wire.text)) if wire.text[at - 1].isspace()]
    anywhere = [draw.randrange(41, len(wire.text)) for _ in range(CUTS - CUTS // 3)]
    return [wire.text[:at] for at in anywhere + draw.sample(spaced, min(len(spaced), CUTS // 3))]


async def test_up_to_gemini_3_1_a_model_writes_on(
    server: WireServer, provider: GeminiProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = equal = 0
    for wire in texts():
        for shown in ends(wire):
            brain = Brain(wire.text, cuts)
            server.reply = brain.reply
            rest = await drain(provider, asked(OLD, max_tokens=5000), None, Progress(shown))
            assert brain.sent[0][-1] == {"role": "model", "parts": [{"text": shown.rstrip()}]}
            cuts += 1
            equal += (shown + rest.text, rest.resumed, rest.finish) == (wire.text, Resumed("prefill"), "stop")
    with capsys.disabled():
        print(f"\n  gemini, prefill: {len(texts())} texts, {cuts} cuts, {equal} equal")
    assert equal == cuts > 100


async def test_from_gemini_3_6_on_a_model_is_asked_to_go_on(
    server: WireServer, provider: GeminiProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = equal = 0
    for wire in texts():
        for shown in ends(wire):
            brain = Brain(wire.text, cuts)
            brain.shown = shown
            server.reply = brain.reply
            rest = await drain(provider, asked(), None, Progress(shown))
            assert [turn["role"] for turn in brain.sent[0]] == ["user", "model", "user"]
            cuts += 1
            equal += (shown + rest.text, rest.resumed) == (wire.text, Resumed("prompted", "verified"))
    with capsys.disabled():
        print(f"\n  gemini, prompted: {len(texts())} texts, {cuts} cuts, {equal} equal")
    assert equal == cuts > 100


async def test_a_refusal_in_the_known_words_is_learned(server: WireServer, provider: GeminiProvider) -> None:
    wire = texts()[0]
    brain = Brain(wire.text)
    brain.refuses, brain.shown = True, wire.text[:90]
    server.reply = brain.reply
    for asked_so_far in (2, 3):
        rest = await drain(provider, asked(OLD), None, Progress(brain.shown))
        assert (brain.shown + rest.text, rest.resumed) == (wire.text, Resumed("prompted", "verified"))
        assert len(brain.sent) == asked_so_far
    assert provider.continuation(asked(OLD), Progress("x")) == "prompted"


@pytest.mark.parametrize(("turn", "expected"), [(False, "prefill"), (True, "prompted")])
async def test_a_model_that_no_table_knows_is_asked_whether_it_writes_on(
    turn: bool, expected: str, server: WireServer, provider: GeminiProvider
) -> None:
    wire = texts()[0]
    brain = Brain(wire.text)
    brain.turn, brain.shown = turn, wire.text[:90]
    server.reply = brain.reply
    rest = await drain(provider, asked(UNKNOWN), None, Progress(brain.shown))
    assert rest.resumed is not None
    assert (rest.resumed.continuation, brain.shown + rest.text) == (expected, wire.text)


async def test_an_answer_of_which_only_thoughts_were_shown_begins_again(
    server: WireServer, provider: GeminiProvider
) -> None:
    wire = next(wire for wire in gemini_wires() if wire.thinking and wire.text and wire.api == "gemini")
    server.reply = Reply(wire.body)
    rest = await drain(provider, asked(OLD, thinking=True), None, Progress("", wire.thinking[:50]))
    assert (rest.resumed, rest.text, rest.thinking) == (Resumed("restart"), wire.text, wire.thinking)
    assert provider.continuation(asked(OLD, thinking=True), Progress("x", "thought")) == "prompted"
    assert provider.continuation(asked(OLD), Progress("x", tool_calls=(ToolCall("c", "f", "{}"),))) is None


@pytest.mark.parametrize(
    ("best", "models"),
    [
        ("prefill", "gemini-1.5-pro gemini-2.0-flash gemini-2.5-pro gemini-3-flash-preview gemini-3-pro-preview"),
        ("prefill", "gemini-3.1-pro-preview gemini-3.1-flash-lite gemini-3.5-flash gemini-pro-latest"),
        ("prompted", "gemini-3.5-flash-lite gemini-3.6-flash gemini-3.8-flash gemini-4-argon gemini-flash-latest"),
        ("probe", "gemma-4-31b-it tunedModels/mine"),
    ],
)
def test_the_table_knows_who_writes_on(best: str, models: str) -> None:
    for model in models.split():
        assert policy_of("gemini", "https://x", "", model).best == best, model
        assert policy_of("interactions", "https://x", "", model).best == "prompted"


# --------------------------------------------------------------------------- interactions in the background


def numbered(wire: Wire) -> list[tuple[str, bytes]]:
    """A wire's events with ids that tell no order, and all that an address may not hold."""
    draw = random.Random(wire.key)
    events = []
    for line in wire.body.splitlines():
        if line.startswith(b"data: {"):
            event_id = f"e+/={draw.randrange(1 << 40):x}&"
            events.append((event_id, b"data: " + json.dumps({**json.loads(line[5:]), "event_id": event_id}).encode()))
    return events


def run_of(wire: Wire, *, whole: bool = False, again: int = 0) -> Callable[[Asked], Reply]:
    """What the service does that runs it: all of it, or what follows an event, or that with `again` events before."""
    events = numbered(wire)
    ids = [event_id for event_id, _ in events]

    def reply(got: Asked) -> Reply:
        begin = 0
        if got.path.endswith("/cancel"):
            return Reply(b"{}", headers=JSON, framing="length")
        if got.method == "GET" and not whole:
            begin = ids.index(parse_qs(urlsplit(got.path).query)["last_event_id"][0]) + 1 - again
        rest = b"".join(line + b"\n\n" for _, line in events[begin:])
        return Reply(rest, segments=(1, 400), seed=begin)

    return reply


def tool_run() -> Wire:
    """None was recorded: in the terms of the API's reference."""
    start = {"type": "function_call", "id": "c1", "name": "look", "arguments": {}}
    whole = {"type": "function_call", "id": "c2", "name": "wait", "arguments": {"s": 3}}
    events: list[dict[str, Any]] = [
        {"event_type": "interaction.created", "interaction": {"id": "v1_tools", "status": "in_progress"}},
        {"event_type": "step.start", "index": 0, "step": {"type": "model_output"}},
        {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": "I look."}},
        {"event_type": "step.stop", "index": 0},
        {"event_type": "step.start", "index": 1, "step": start},
        {"event_type": "step.delta", "index": 1, "delta": {"type": "arguments_delta", "arguments": '{"at":'}},
        {"event_type": "step.delta", "index": 1, "delta": {"type": "arguments_delta", "arguments": '"Rome"}'}},
        {"event_type": "step.stop", "index": 1},
        {"event_type": "step.start", "index": 2, "step": whole},
        {"event_type": "step.delta", "index": 2, "delta": {"type": "arguments_delta", "arguments": '{"s":3}'}},
        {"event_type": "step.stop", "index": 2},
        {"event_type": "step.start", "index": 3, "step": {**start, "id": "c3"}},
        {"event_type": "step.stop", "index": 3},
        {"event_type": "interaction.completed", "interaction": {"id": "v1_tools", "status": "requires_action"}},
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    calls = [("c1", "look", '{"at":"Rome"}'), ("c2", "wait", '{"s":3}'), ("c3", "look", "{}")]
    return Wire("made/tools", "gemini", "interactions", body, "I look.", "", "", calls, "tool_calls", None, None, 13)  # type: ignore[arg-type]


def runs() -> list[Wire]:
    return [wire for wire in gemini_wires() if wire.api == "interactions" and b'"id":""' not in wire.body] + [
        tool_run()
    ]


def same(first: Progress, rest: Outcome, wire: Wire) -> bool:
    calls = {index: [call.call_id, call.name, call.arguments] for index, call in enumerate(first.tool_calls)}
    for index, (call_id, name, arguments) in rest.calls.items():
        call = calls.setdefault(index, ["", "", ""])
        calls[index] = [call[0] + call_id, call[1] + name, call[2] + arguments]
    return (
        (first.text + rest.text, first.thinking + rest.thinking) == (wire.text, wire.thinking)
        and [(i, n, parsed(a)) for i, n, a in calls.values()] == [(i, n, parsed(a)) for i, n, a in wire.calls]
        and (rest.finish, rest.error, rest.resumed) == (wire.finish, None, EXACT)
    )


def older(whole: Outcome, cut: int) -> Progress:
    """The last mark was lost with the batch that it stood in."""
    marks = whole.marks
    try:
        whole.marks = {number: mark for number, mark in marks.items() if number <= max(2, cut - 2)}
        return whole.progress(cut)
    finally:
        whole.marks = marks


async def test_a_run_cut_after_any_entry_is_read_on_to_the_very_same_answer(
    server: WireServer, runner: GeminiProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the service tells again: nothing, the event itself, or everything from the beginning."""
    cuts = equal = 0
    for wire in runs():
        server.reply = run_of(wire)
        whole = await drain(runner, asked())
        assert whole.marks.get(1) is not None, "the run's name is stored with the first entry"
        for reply in (run_of(wire), run_of(wire, again=1), run_of(wire, whole=True)):
            server.reply = reply
            for cut in range(2, len(whole.entries) + 1):
                for first in (whole.progress(cut), older(whole, cut)):
                    rest = await drain(runner, asked(), None, first)
                    cuts += 1
                    equal += same(first, rest, wire)
                    assert server.requests[-1].method == "GET"
    with capsys.disabled():
        print(f"\n  interactions, exact: {len(runs())} wires, {cuts} cuts, {equal} equal")
    assert equal == cuts > 50


async def test_a_run_is_asked_for_in_the_background_and_read_on_by_its_name(
    server: WireServer, runner: GeminiProvider
) -> None:
    server.reply = run_of(tool_run())
    whole = await drain(runner, asked())
    got = server.requests[0]
    assert got.path == "/v1/interactions"
    assert (got.json["background"], got.json["store"], got.json["stream"]) == (True, True, True)
    first = whole.progress(2)
    await drain(runner, asked(), None, first)
    told = urlsplit(server.requests[1].path)
    assert told.path == "/v1/interactions/v1_tools"
    assert parse_qs(told.query) == {"stream": ["true"], "last_event_id": [first.cursor["after"]]}


@pytest.mark.parametrize(
    ("model", "background", "extra", "expected"),
    [
        (NEW, "auto", {}, (False, "gemini")),
        (NEW, "auto", {"api": "interactions"}, (False, "interactions")),
        (NEW, "auto", {"background": True}, (True, "interactions")),
        ("deep-research-preview-04-2026", "auto", {}, (True, "interactions")),
        ("deep-research-preview-04-2026", "off", {"api": "interactions"}, (False, "interactions")),
        (NEW, "on", {}, (True, "interactions")),
        (NEW, "on", {"background": False}, (False, "gemini")),
    ],
)
def test_who_works_for_minutes_runs_in_the_background(
    model: str, background: Any, extra: dict[str, Any], expected: tuple[bool, str]
) -> None:
    provider = GeminiProvider("k", background=background)
    request = Request(f"gemini/{model}", [Message("user", "hi")], extra=extra)
    assert (provider._in_background(request), provider._dialect(request)) == expected
    assert provider.continuation(request, Progress("text", cursor={"interaction": "v1_1", "after": "e"})) == "exact"


@pytest.mark.parametrize("status", [404, 410, 400])
async def test_a_run_that_is_gone_is_carried_on_in_the_next_best_way(
    status: int, server: WireServer, runner: GeminiProvider
) -> None:
    wire = next(wire for wire in runs() if len(wire.text) > 200)
    cancelled = asyncio.Event()

    def reply(got: Asked) -> Reply:
        if got.path.endswith("/cancel"):
            cancelled.set()
        if got.method == "GET" or got.path.endswith("/cancel"):
            return Reply(GONE, status, JSON, framing="length")
        return Reply(wire.body)

    server.reply = reply
    shown = Progress("Shown before.", cursor={"interaction": "v1_1", "after": "e7"})
    outcome = await drain(runner, asked(), None, shown)
    assert outcome.resumed is not None
    assert (outcome.resumed.continuation, outcome.text) == ("prompted", wire.text)
    sent = next(got for got in reversed(server.requests) if got.path == "/v1/interactions").json["input"]
    assert [step["type"] for step in sent] == ["user_input", "model_output", "user_input"]
    assert sent[1]["content"] == [{"type": "text", "text": "Shown before."}]
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_without_ids_of_events_nothing_is_called_exact_and_the_run_is_still_cancelled(
    server: WireServer, runner: GeminiProvider
) -> None:
    wire = next(wire for wire in runs() if len(wire.text) > 200)
    server.reply = Reply(wire.body, segments=(1, 60))
    whole = await drain(runner, asked())
    assert {mark.cursor.get("after", "") for mark in whole.marks.values()} == {""}
    shown = whole.progress(3)
    assert shown.cursor["interaction"].startswith("v1_")
    assert runner.continuation(asked(), shown) == "prompted"
    await runner.abandon(asked(), shown)
    assert server.requests[-1].path == f"/v1/interactions/{shown.cursor['interaction']}/cancel"


async def test_content_without_an_id_moves_no_mark_and_is_not_shown_twice(
    server: WireServer, runner: GeminiProvider
) -> None:
    wire = next(wire for wire in runs() if wire.text and wire.thinking)
    events = numbered(wire)

    def without(line: bytes) -> bytes:
        event = json.loads(line[5:])
        if event["event_type"] == "step.delta":
            event.pop("event_id")
        return b"data: " + json.dumps(event).encode()

    def reply(got: Asked) -> Reply:
        begin = 0
        if got.method == "GET":
            after = parse_qs(urlsplit(got.path).query)["last_event_id"][0]
            begin = next(at for at, (event_id, _) in enumerate(events) if event_id == after) + 1
        return Reply(b"".join(without(line) + b"\n\n" for _, line in events[begin:]), segments=(1, 60))

    server.reply = reply
    whole = await drain(runner, asked())
    for cut in range(2, len(whole.entries) + 1):
        first = whole.progress(cut)
        rest = await drain(runner, asked(), None, first)
        if first.cursor.get("after"):
            assert same(first, rest, wire)
        else:
            assert rest.resumed is not None
            assert rest.resumed.continuation != "exact"


async def test_a_place_that_the_service_has_lost_is_not_taken_for_another(
    server: WireServer, runner: GeminiProvider
) -> None:
    wire = next(wire for wire in runs() if len(wire.text) > 200)
    server.reply = run_of(wire, whole=True)
    shown = Progress(wire.text[:50], cursor={"interaction": "v1_1", "after": "never heard of"})
    rest = await drain(runner, asked(), None, shown)
    assert rest.error is not None
    assert (rest.text, rest.error.retryable, rest.finish) == ("", True, None)
    assert runner.continuation(asked(), shown) == "prompted"


async def test_a_run_that_says_something_else_is_not_called_the_same(
    server: WireServer, runner: GeminiProvider
) -> None:
    wire = next(wire for wire in runs() if len(wire.text) > 200)
    server.reply = run_of(wire)
    first = numbered(wire)[0][0]
    other = Summary("A quite different text")
    shown = Progress(other.text, cursor={"interaction": "v1_1", "after": first}, since=other)
    outcome = await drain(runner, asked(), None, shown)
    assert outcome.resumed is not None
    assert (outcome.resumed.continuation, outcome.headers) == ("prompted", 1)


async def test_another_model_does_not_read_on(server: WireServer, runner: GeminiProvider) -> None:
    shown = Progress("", cursor={"interaction": "v1_1", "after": "e", "model": NEW})
    assert runner.continuation(asked(), shown) == "exact"
    assert runner.continuation(asked("gemini-4-argon"), shown) == "restart"
    for cursor in (7, "v1", {"interaction": ""}, {"response": "resp_1", "after": 3}, [1]):
        assert runner.continuation(asked(), Progress("x", cursor=cursor)) == "prompted"


FAILURES: list[tuple[dict[str, Any], str]] = [
    (
        {"event_type": "interaction.completed", "interaction": {"id": "v1_1", "status": "failed"}},
        "provider.unknown",
    ),
    (
        {"event_type": "interaction.status_update", "interaction_id": "v1_1", "status": "cancelled"},
        "provider.connection",
    ),
    ({"event_type": "error", "error": {"code": "RESOURCE_EXHAUSTED", "message": "no"}}, "provider.rate_limit"),
    ({"event_type": "error", "error": {"code": "https://x/errors#unavailable"}}, "provider.unknown"),
    (
        {"event_type": "step.start", "index": 1, "step": {"type": "model_output", "error": {"code": 8}}},
        "provider.rate_limit",
    ),
]


@pytest.mark.parametrize(("event", "code"), FAILURES)
async def test_a_run_that_failed_is_not_read_again(
    event: dict[str, Any], code: str, server: WireServer, runner: GeminiProvider
) -> None:
    server.reply = Reply(b"data: " + json.dumps(event).encode() + b"\n\n")
    shown = Progress("x", cursor={"interaction": "v1_/1", "after": "e"})
    assert runner.continuation(asked(), shown) == "exact"
    outcome = await drain(runner, asked(), None, shown)
    assert server.requests[0].path.startswith("/v1/interactions/v1_%2F1?")
    assert outcome.error is not None
    assert outcome.error.code == code
    assert runner.continuation(asked(), shown) == "prompted"


async def test_a_service_that_cannot_be_reached_has_not_refused(server: WireServer, runner: GeminiProvider) -> None:
    server.reply = Reply(b"{}", 503, JSON, framing="length")
    outcome = await drain(runner, asked(), None, Progress("x", cursor={"interaction": "v1_1", "after": "e"}))
    assert outcome.error is not None
    assert outcome.error.retryable
    assert [got.method for got in server.requests] == ["GET"]


async def test_an_answer_that_is_all_told_at_its_end_is_shown(server: WireServer, runner: GeminiProvider) -> None:
    steps = [
        {"type": "user_input", "content": [{"type": "text", "text": "hello"}]},
        {"type": "thought", "summary": [{"type": "text", "text": "hm"}]},
        {"type": "model_output", "content": [{"type": "text", "text": "all of it"}, {"type": "image"}]},
        {"type": "function_call", "id": "c", "name": "f", "arguments": {}},
    ]
    event = {
        "event_type": "interaction.completed",
        "interaction": {"id": "v1_1", "status": "completed", "steps": steps},
    }
    server.reply = Reply(b"data: " + json.dumps(event).encode() + b"\n\n")
    outcome = await drain(runner, asked())
    assert (outcome.text, outcome.thinking, outcome.calls) == ("all of it", "hm", {0: ["c", "f", "{}"]})
    assert (outcome.finish, len(outcome.warnings)) == ("tool_calls", 1)


# --------------------------------------------------------------------------- stopping what runs


async def test_closing_an_answer_leaves_its_run_to_who_may_carry_it_on(
    server: WireServer, runner: GeminiProvider
) -> None:
    body = runs()[0].body
    server.reply = Reply(body, hang_after=len(body) // 2)
    batches = runner.generate(asked())
    await anext(batches)
    await batches.aclose()
    await server.client_closed()
    assert [got.path for got in server.requests] == ["/v1/interactions"]


@pytest.mark.parametrize("reply", [Reply(b"{}", 200, JSON, framing="length"), Reply(b"{}", 404, framing="length")])
async def test_abandoning_a_run_cancels_it_and_never_raises(
    reply: Reply, server: WireServer, runner: GeminiProvider
) -> None:
    server.reply = reply
    await runner.abandon(asked(), Progress("x", cursor={"interaction": "v1_/1", "after": "e"}))
    await runner.abandon(asked(), Progress("x"))
    await runner.abandon(asked(), Progress("x", cursor={"another": "kind"}))
    assert [(got.method, got.path) for got in server.requests] == [("POST", "/v1/interactions/v1_%2F1/cancel")]


@pytest.mark.parametrize("piece", [20, 80])
async def test_a_run_that_is_not_wanted_before_it_has_a_name_is_cancelled_when_it_has(
    piece: int, server: WireServer, runner: GeminiProvider
) -> None:
    cancelled = asyncio.Event()
    late = Reply(tool_run().body, pause_s=0.02, segments=(piece, piece))  # the name is in the first 100 bytes

    def reply(got: Asked) -> Reply:
        if got.path.endswith("/cancel"):
            cancelled.set()
            return Reply(b"{}", headers=JSON, framing="length")
        return late

    server.reply = reply
    asking = asyncio.create_task(drain(runner, asked()))
    await server.asked()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(cancelled.wait(), 5)
    assert server.requests[-1].path == "/v1/interactions/v1_tools/cancel"
