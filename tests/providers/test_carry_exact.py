"""A response in the background, cut after any entry, is read on to the very same answer; and it is cancelled."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import ROOT, Outcome, Wire, drain, openai_wires, parsed

from everstream.core.events import Message, Params, Request, Resumed
from everstream.core.summary import Summary
from everstream.providers.base import Progress, ProviderError
from everstream.providers.openai import OpenAIProvider

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout")

EXACT = Resumed("exact", "verified")
CUTS = 24  # of each wire, besides the first and the last entries
RECORDED = "openai/responses--pydantic-ai--background-mode-streaming-starting-after-vcr"


def runs() -> list[Wire]:
    return [w for w in openai_wires() if w.api == "responses" and w.error is None and b'"sequence_number"' in w.body]


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture
async def provider(server: WireServer) -> AsyncIterator[OpenAIProvider]:
    provider = OpenAIProvider("k", server.url, background="on", max_retries=0)
    yield provider
    await provider.aclose()


def asked(**extra: Any) -> Request:
    return Request("openai/gpt-5.5", [Message("user", "hi")], extra=extra)


def run_of(body: bytes, draw: random.Random) -> Any:
    """What a provider does that runs it in the background: all of it, or what follows an event."""
    lines = [line.strip() for line in body.split(b"\n") if line.startswith(b"data: {")]
    numbered = [(json.loads(line[5:])["sequence_number"], line + b"\n\n") for line in lines]

    def reply(got: Asked) -> Reply:
        rest = body
        if got.method == "GET":
            after = int(parse_qs(urlsplit(got.path).query)["starting_after"][0])
            rest = b"".join(line for at, line in numbered if at > after)
        return Reply(rest, segments=(1, max(9, len(body) // 60)), seed=draw.randrange(1 << 30))

    return reply


def same(first: Progress, rest: Outcome, wire: Wire) -> bool:
    calls = {index: [call.call_id, call.name, call.arguments] for index, call in enumerate(first.tool_calls)}
    for index, (call_id, name, arguments) in rest.calls.items():
        call = calls.setdefault(index, ["", "", ""])
        calls[index] = [call[0] + call_id, call[1] + name, call[2] + arguments]
    told = [(call_id or None, name, parsed(arguments)) for call_id, name, arguments in calls.values()]
    return (
        (first.text + rest.text, first.thinking + rest.thinking, first.refusal + rest.refusal)
        == (wire.text, wire.thinking, wire.refusal)
        and told == [(i, n, parsed(a)) for i, n, a in wire.calls]
        and (rest.finish, rest.error, rest.resumed) == (wire.finish, None, EXACT)
    )


async def test_a_run_cut_after_any_entry_is_read_on_to_the_very_same_answer(
    server: WireServer, provider: OpenAIProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last mark may be older than what is shown: a commit may have stored a batch in part."""
    cuts = equal = 0
    for wire in runs():
        draw = random.Random(wire.key)
        server.reply = run_of(wire.body, draw)
        whole = await drain(provider, asked())
        assert whole.marks.get(1) is not None, "the run's name is stored with the first entry"
        assert same(Progress(), whole, wire) is False, "that one was not resumed"
        ends = range(1, len(whole.entries) + 1)
        for cut in ends if len(ends) <= CUTS else sorted({*draw.sample(ends, CUTS), 1, len(ends)}):
            first = whole.progress(cut)
            if draw.random() < 0.3:  # the last mark was lost with the batch it stood in
                first = older(whole, cut)
            rest = await drain(provider, asked(), None, first)
            cuts += 1
            equal += same(first, rest, wire)
            assert server.requests[-1].method == "GET"
    with capsys.disabled():
        print(f"\n  exact: {len(runs())} wires, {cuts} cuts, {equal} equal")
    assert equal == cuts > 400


def older(whole: Outcome, cut: int) -> Progress:
    marks = whole.marks
    try:
        whole.marks = {number: mark for number, mark in marks.items() if number <= max(1, cut - 3)}
        return whole.progress(cut)
    finally:
        whole.marks = marks


async def test_the_recorded_second_half_of_a_run_fits_its_recorded_first(
    server: WireServer, provider: OpenAIProvider
) -> None:
    first, second = ((ROOT / f"{RECORDED}{part}.sse").read_bytes() for part in ("", "-1"))
    server.reply = Reply(first)
    whole = await drain(provider, asked())
    server.reply = Reply(second, segments=(1, 50))
    for cut in range(1, len(whole.entries) + 1):
        shown = whole.progress(cut)
        rest = await drain(provider, asked(), None, shown)
        assert (rest.resumed, rest.finish) == (EXACT, "stop")
        assert shown.text + rest.text == whole.text
        assert rest.usage == whole.usage  # that of the whole run


async def test_events_that_a_server_tells_again_are_not_told_again(
    server: WireServer, provider: OpenAIProvider
) -> None:
    """ "After" may be read as "from"; or the whole run is told whatever was asked for."""
    wire = next(w for w in runs() if w.text and w.calls)
    server.reply = run_of(wire.body, random.Random(1))
    whole = await drain(provider, asked())
    server.reply = Reply(wire.body)
    for cut in range(1, len(whole.entries), 3):
        assert same(whole.progress(cut), await drain(provider, asked(), None, whole.progress(cut)), wire)


async def test_a_run_is_asked_for_at_the_responses_api_and_kept(server: WireServer, provider: OpenAIProvider) -> None:
    server.reply = Reply(runs()[0].body)
    outcome = await drain(provider, asked())
    got = server.requests[0]
    assert got.path == "/responses"
    assert (got.json["background"], got.json["store"], got.json["stream"]) == (True, True, True)
    await drain(provider, asked(), None, outcome.progress(2))
    name = outcome.marks[1].cursor["response"]
    assert server.requests[1].path.startswith(f"/responses/{name}?")
    assert f"starting_after={outcome.progress(2).cursor['after']}" in server.requests[1].path


@pytest.mark.parametrize(
    ("model", "background", "extra", "expected"),
    [
        ("gpt-5.5", "auto", {}, False),
        ("gpt-5.5-pro", "auto", {}, True),
        ("o3-deep-research-2025-06-26", "auto", {}, True),
        ("gpt-5.5-pro", "auto", {"background": False}, False),
        ("gpt-5.5-pro", "off", {}, False),
        ("gpt-5.5", "off", {"background": True}, True),
        ("gpt-5.5", "on", {}, True),
        ("prompter", "auto", {}, False),
    ],
)
def test_who_thinks_for_minutes_runs_in_the_background(
    model: str, background: Any, extra: dict[str, Any], expected: bool
) -> None:
    provider = OpenAIProvider("k", background=background)
    request = Request(f"openai/{model}", [Message("user", "hi")], extra=extra)
    assert provider._in_background(request) is expected
    cursor = {"response": "resp_1", "after": 3}
    assert provider.continuation(request, Progress("text", cursor=cursor)) == "exact"


async def test_a_run_that_is_gone_is_carried_on_in_the_next_best_way(
    server: WireServer, provider: OpenAIProvider
) -> None:
    wire = next(w for w in runs() if w.text and not w.calls)
    gone = b'{"error":{"message":"Response with id \'resp_1\' not found.","type":"invalid_request_error"}}'

    def reply(got: Asked) -> Reply:
        if got.method == "GET" or got.path.endswith("/cancel"):
            return Reply(gone, 404, {"content-type": "application/json"}, framing="length")
        return Reply(wire.body)

    server.reply = reply
    cursor = {"response": "resp_1", "after": 3}
    outcome = await drain(provider, asked(), None, Progress("Shown before.", cursor=cursor))
    assert outcome.resumed is not None
    assert outcome.resumed.continuation == "prompted"
    assert outcome.text == wire.text
    sent = next(got for got in reversed(server.requests) if got.path == "/responses").json["input"]
    assert [item["role"] for item in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == "Shown before."
    outcome = await drain(provider, asked(), None, Progress("", "only thought", cursor=cursor))
    assert (outcome.resumed, outcome.text) == (Resumed("restart"), wire.text)


async def test_another_model_does_not_read_on_and_the_run_that_it_replaces_is_cancelled(
    server: WireServer, provider: OpenAIProvider
) -> None:
    wire = next(w for w in runs() if w.text and not w.calls)
    server.reply = Reply(wire.body)
    whole = await drain(provider, asked())
    shown = whole.progress(1)
    other = Request("openai/another", [Message("user", "hi")])
    assert (provider.continuation(asked(), shown), provider.continuation(other, shown)) == ("exact", "restart")
    assert (await drain(provider, other, None, shown)).resumed == Resumed("restart")
    await provider.aclose()
    name = whole.marks[1].cursor["response"]
    assert [got.path for got in server.requests if got.path.endswith("/cancel")] == [f"/responses/{name}/cancel"]


async def test_a_run_that_says_something_else_is_not_called_the_same(
    server: WireServer, provider: OpenAIProvider
) -> None:
    wire = next(w for w in runs() if len(w.text) > 50 and not w.calls)
    server.reply = run_of(wire.body, random.Random(1))
    cursor = {"response": "resp_1", "after": 0}
    shown = Progress("A quite different text", cursor=cursor, since=Summary("A quite different text"))
    outcome = await drain(provider, asked(), None, shown)
    assert outcome.headers == 1
    assert outcome.resumed is not None
    assert outcome.resumed.continuation == "prompted"
    assert outcome.text == wire.text


async def test_a_provider_that_cannot_be_reached_has_not_refused(server: WireServer, provider: OpenAIProvider) -> None:
    server.reply = Reply(b"{}", 503, {"content-type": "application/json"}, framing="length")
    outcome = await drain(provider, asked(), None, Progress("x", cursor={"response": "resp_1", "after": 3}))
    assert outcome.error is not None
    assert outcome.error.retryable
    assert [got.method for got in server.requests] == ["GET"]


async def test_a_run_that_failed_is_not_read_again(server: WireServer, provider: OpenAIProvider) -> None:
    event = {"type": "response.failed", "sequence_number": 9, "response": {"error": {"code": "server_error"}}}
    server.reply = Reply(f"data: {json.dumps(event)}\n\n".encode())
    shown = Progress("x", cursor={"response": "resp_1", "after": 3})
    assert provider.continuation(asked(), shown) == "exact"
    assert (await drain(provider, asked(), None, shown)).error is not None
    assert provider.continuation(asked(), shown) == "prompted"


async def test_a_run_of_which_only_an_error_can_be_read_is_not_read_again(
    server: WireServer, provider: OpenAIProvider
) -> None:
    server.reply = Reply(b'data: {"type":"error","sequence_number":0,"code":"server_error","message":"no"}\n\n')
    shown = Progress("x", cursor={"response": "resp_1", "after": -1})
    assert (await drain(provider, asked(), None, shown)).error is not None
    assert provider.continuation(asked(), shown) == "prompted"


async def test_closing_an_answer_leaves_its_run_to_who_may_carry_it_on(
    server: WireServer, provider: OpenAIProvider
) -> None:
    server.reply = Reply(runs()[0].body, hang_after=2000)
    batches = provider.generate(asked())
    await anext(batches)
    await batches.aclose()
    await server.client_closed()
    assert [got.path for got in server.requests] == ["/responses"]


async def test_abandoning_a_run_cancels_it(server: WireServer, provider: OpenAIProvider) -> None:
    server.reply = Reply(b'{"id":"resp_1"}', headers={"content-type": "application/json"}, framing="length")
    await provider.abandon(asked(), Progress("x", cursor={"response": "resp_1", "after": 3}))
    await provider.abandon(asked(), Progress("x"))
    await provider.abandon(asked(), Progress("x", cursor={"another": "kind"}))
    assert [(got.method, got.path) for got in server.requests] == [("POST", "/responses/resp_1/cancel")]


@pytest.mark.parametrize("reply", [Reply(b"{}", 500, framing="length"), Reply(b"{}", 404, framing="length")])
async def test_abandoning_never_raises(server: WireServer, provider: OpenAIProvider, reply: Reply) -> None:
    server.reply = reply
    await provider.abandon(asked(), Progress("x", cursor={"response": "resp_1", "after": 3}))
    assert len(server.requests) == 1


@pytest.mark.parametrize("piece", [60, 400])
async def test_a_run_that_is_not_wanted_before_it_has_a_name_is_cancelled_when_it_has(
    server: WireServer, provider: OpenAIProvider, piece: int
) -> None:
    """The request is out, so the run exists: the answer to whoever cancels must not wait for it, the bill must."""
    body = runs()[0].body
    named = asyncio.Event()
    late = Reply(body, pause_s=0.05, segments=(piece, piece))  # the name is in the first event, of 1,000 bytes and more

    def reply(got: Asked) -> Reply:
        if got.path.endswith("/cancel"):
            named.set()
            return Reply(b"{}", headers={"content-type": "application/json"}, framing="length")
        return late

    server.reply = reply
    asking = asyncio.create_task(drain(provider, asked()))
    await server.asked()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(named.wait(), 5)
    name = json.loads(body.partition(b"data:")[2].partition(b"\n")[0])["response"]["id"]
    assert server.requests[-1].path == f"/responses/{name}/cancel"


async def test_a_server_that_does_not_number_its_events_leaves_no_mark(
    server: WireServer, provider: OpenAIProvider
) -> None:
    wire = next(wire for wire in runs() if wire.text)
    for named in (rb'"sequence_number": ?\d+', rb'"(sequence_number|id)": ?[^,}]+'):
        body = re.sub(named, b'"x":1', wire.body)
        server.reply = Reply(body, hang_after=len(body) - 600)
        batches = provider.generate(asked())
        outcome = Outcome()
        while not outcome.text:  # which does not wait for the end
            outcome.take(await asyncio.wait_for(anext(batches), 5))
        assert wire.text.startswith(outcome.text)
        assert outcome.marks == {}
        await batches.aclose()


async def test_what_another_provider_left_is_not_taken_for_a_run(provider: OpenAIProvider) -> None:
    for cursor in (7, "resp", {"response": ""}, {"response": 5}, [1]):
        assert provider.continuation(asked(), Progress("x", cursor=cursor)) == "prompted"


async def test_a_provider_that_has_no_way_says_so(server: WireServer) -> None:
    provider = OpenAIProvider("k", server.url, continuation="none")
    assert provider.continuation(asked(), Progress("x")) is None
    with pytest.raises(ProviderError) as caught:
        await anext(provider.generate(asked(), Progress("x")))
    assert not caught.value.retryable
    assert server.requests == []
    assert all(model.continuation is None for model in await OpenAIProvider("k", continuation="none").models())


async def test_params_of_a_run_are_those_of_the_request(server: WireServer, provider: OpenAIProvider) -> None:
    server.reply = Reply(runs()[0].body)
    request = Request("openai/gpt-5.5", [Message("user", "hi")], Params(max_tokens=5), {"store": False, "metadata": {}})
    await drain(provider, request)
    assert server.requests[0].json["store"] is False
    assert server.requests[0].json["max_output_tokens"] == 5
