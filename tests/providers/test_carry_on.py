"""A text that broke off is written on: through a real server and the vendor's client, at the cuts of real answers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from tests.providers import wires
from tests.providers.seams import REFUSALS, Brain, chat
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import ROOT, Outcome, Wire, anthropic_wires, drain, in_pieces, openai_wires

from everstream.core.events import DeltaText, HeadersReceived, Message, Params, Request, Resumed, ToolCall
from everstream.providers.anthropic import AnthropicProvider
from everstream.providers.base import Progress
from everstream.providers.carry_ladder import tokens_head
from everstream.providers.carry_request import PROMPT_ENDS
from everstream.providers.openai import OpenAIProvider

pytestmark = [
    pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout"),
    pytest.mark.asyncio(loop_scope="module"),
]

CUTS = 6  # of each wire, besides those in white space
IN_WHITE_SPACE_MAX = 12  # of each wire
OLD, NEW = "anthropic/claude-sonnet-4-5", "anthropic/claude-opus-5"
LOREM = "The first line stands here.\nThe second one is a little longer than the first, and the third ends it.\nEnd."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


Providers = dict[str, Any]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(server: WireServer) -> AsyncIterator[Providers]:
    """Providers that learn nothing, for tests of many cuts."""
    shared: Providers = {
        "prefill": OpenAIProvider("k", server.url, max_retries=0, continuation="prefill"),
        "prefill_echo": OpenAIProvider("k", server.url, max_retries=0, continuation="prefill_echo"),
        "prompted": OpenAIProvider("k", server.url, max_retries=0, continuation="prompted"),
        "messages": AnthropicProvider("k", server.url, max_retries=0),
    }
    yield shared
    for provider in shared.values():
        await provider.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def provider(server: WireServer) -> AsyncIterator[OpenAIProvider]:
    provider = OpenAIProvider("k", server.url, max_retries=0)
    yield provider
    await provider.aclose()


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Instead of the check of every test: the pools of shared providers keep connections from one to the next."""


def asked(model: str = "openai/any", extra: dict[str, Any] | None = None, **params: Any) -> Request:
    return Request(model, [Message("user", "hello")], Params(**params), extra or {})


def texts(wires: list[Wire]) -> list[Wire]:
    return [w for w in wires if len(w.text) > 40 and not w.thinking and not w.calls and not w.refusal and not w.error]


async def cut_texts(provider: Any, server: WireServer, wire: Wire, model: str) -> list[str]:
    """What readers have seen of an answer when it breaks off: after some deltas, and after some that end in a space."""
    server.reply = in_pieces(wire)
    whole = await drain(provider, asked(model))
    shown, ends = "", []
    for entry in whole.entries:
        if isinstance(entry, DeltaText):
            shown += entry.text
            ends.append(shown)
    assert shown == wire.text
    draw = random.Random(wire.key)
    spaced = [end for end in ends if end[-1].isspace()]
    chosen = draw.sample(ends, min(CUTS, len(ends))) + draw.sample(spaced, min(IN_WHITE_SPACE_MAX, len(spaced)))
    return [end for end in chosen if end.strip()]


class Tally:
    def __init__(self) -> None:
        self.cuts = self.equal = self.spaced = 0

    def add(self, shown: str, rest: Outcome, text: str) -> None:
        self.cuts += 1
        self.spaced += shown != shown.rstrip()
        self.equal += shown + rest.text == text and rest.finish == "stop" and rest.error is None

    def __str__(self) -> str:
        return f"{self.cuts} cuts, {self.spaced} of them in white space, {self.equal} equal"


@pytest.mark.parametrize("how", ["prefill", "prefill_echo"])
async def test_a_model_that_writes_on_loses_and_doubles_nothing(
    how: str, server: WireServer, shared: Providers, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    for wire in texts([w for w in openai_wires() if w.api == "chat"]):
        for shown in await cut_texts(shared[how], server, wire, "openai/any"):
            brain = Brain(wire.text, tally.cuts)
            brain.echo = how == "prefill_echo"
            server.reply = brain.reply
            rest = await drain(shared[how], asked(), None, Progress(shown))
            tally.add(shown, rest, wire.text)
            assert rest.resumed == Resumed("prefill", "verified" if brain.echo else None)
    with capsys.disabled():
        print(f"\n  chat, {how}: {tally}")
    assert tally.equal == tally.cuts > 200
    assert tally.spaced > 20


async def test_claude_up_to_4_5_writes_on_and_is_never_sent_white_space_at_the_end(
    server: WireServer, shared: Providers, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    for wire in texts(anthropic_wires()):
        for shown in await cut_texts(shared["messages"], server, wire, OLD):
            server.reply = Brain(wire.text, tally.cuts).reply
            rest = await drain(shared["messages"], asked(OLD), None, Progress(shown))
            tally.add(shown, rest, wire.text)
            assert rest.resumed == Resumed("prefill")
    with capsys.disabled():
        print(f"\n  messages, prefill: {tally}")
    assert tally.equal == tally.cuts > 60


async def test_a_model_that_repeats_its_anchor_loses_and_doubles_nothing_and_is_verified(
    server: WireServer, shared: Providers, capsys: pytest.CaptureFixture[str]
) -> None:
    long, tally, checks = 0, Tally(), {"verified": 0, "heuristic": 0, "unverified": 0}
    for wire in texts([w for w in openai_wires() if w.api == "chat"]):
        for shown in await cut_texts(shared["prompted"], server, wire, "openai/any"):
            seen = shown.rstrip()
            brain = Brain(wire.text, tally.cuts)
            brain.shown, brain.repeats = seen, min(40, len(seen))
            server.reply = brain.reply
            rest = await drain(shared["prompted"], asked(), None, Progress(shown))
            tally.add(shown, rest, wire.text)
            assert rest.resumed is not None
            assert rest.resumed.continuation == "prompted"
            checks[rest.resumed.check or ""] += 1
            long += len(seen) >= 40
            if rest.resumed.check == "verified":
                assert len(seen) >= 40
    with capsys.disabled():
        print(f"\n  chat, prompted: {tally}; {checks}")
    assert tally.equal == tally.cuts > 200
    assert checks["verified"] > 0.9 * long


@pytest.mark.parametrize("refusal", list(REFUSALS))
async def test_a_known_refusal_leads_to_a_prompt_and_is_remembered(
    refusal: str, server: WireServer, provider: OpenAIProvider
) -> None:
    brain = Brain(LOREM)
    brain.shown = shown = LOREM[:60]
    brain.repeats = 40
    server.reply = brain.reply
    server.requests.clear()
    first = await drain(provider, asked(), None, Progress(shown))  # asks first, and hears yes
    assert first.resumed == Resumed("prefill")
    brain.refuses = REFUSALS[refusal]
    second = await drain(provider, asked(), None, Progress(shown))
    assert second.resumed == Resumed("prompted", "verified")
    assert first.text == second.text == LOREM[60:]
    assert second.headers == 1
    asked_before = len(server.requests)
    await drain(provider, asked(), None, Progress(shown))
    # one request more, or two where the refusal was of this text and not of all
    asked_since = [got for got in server.requests[asked_before:] if got.method == "POST"]
    assert len(asked_since) == (2 if refusal == "white space" else 1)


async def test_a_claude_that_refuses_to_write_on_after_all_is_asked_to(server: WireServer, shared: Providers) -> None:
    provider = AnthropicProvider("k", server.url, max_retries=0)
    brain = Brain(LOREM)
    brain.shown = shown = LOREM[:60]
    brain.repeats = 40
    brain.refuses = REFUSALS["anthropic"]
    server.reply = brain.reply
    server.requests.clear()
    for _ in range(2):
        rest = await drain(provider, asked(OLD), None, Progress(shown))
        assert (rest.resumed, shown + rest.text) == (Resumed("prompted", "verified"), LOREM)
    assert provider.continuation(asked(OLD), Progress(shown)) == "prompted"
    assert [got.json["messages"][-1]["role"] for got in server.requests] == ["assistant", "user", "user"]
    await provider.aclose()


async def test_claude_from_4_6_on_is_asked_to_go_on_by_a_turn_that_is_not_kept(
    server: WireServer, shared: Providers
) -> None:
    brain = Brain(LOREM)
    brain.shown, brain.repeats = LOREM[:60], 40
    server.reply = brain.reply
    request = asked(NEW)
    rest = await drain(shared["messages"], request, None, Progress(LOREM[:60]))
    assert (rest.resumed, rest.text) == (Resumed("prompted", "verified"), LOREM[60:])
    sent = server.requests[-1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == LOREM[:60]
    assert LOREM[20:60] in sent[2]["content"]
    assert request == asked(NEW)


async def test_what_a_turn_cannot_hold_is_answered_by_a_prompt(server: WireServer, shared: Providers) -> None:
    """Thinking and an unfinished turn do not go together."""
    brain = Brain(LOREM)
    brain.shown, brain.repeats = LOREM[:60], 40
    server.reply = brain.reply
    for request, progress in (
        (asked(OLD, thinking=True), Progress(LOREM[:60])),
        (asked(OLD), Progress(LOREM[:60], "some thought")),
    ):
        assert shared["messages"].continuation(request, progress) == "prompted"
        rest = await drain(shared["messages"], request, None, progress)
        assert rest.resumed == Resumed("prompted", "verified")


async def test_the_rest_of_the_budget_of_tokens_is_asked_for(server: WireServer, shared: Providers) -> None:
    server.reply = Brain(LOREM).reply
    for how in ("prefill", "prompted"):
        await drain(shared[how], asked(max_tokens=100), None, Progress(LOREM[:80]))
        assert server.requests[-1].json["max_tokens"] == 80
        await drain(shared[how], asked(max_tokens=10), None, Progress(LOREM[:80]))
        assert server.requests[-1].json["max_tokens"] == 1
    await drain(shared["messages"], asked(NEW, max_tokens=100), None, Progress(LOREM[:80]))
    assert server.requests[-1].json["max_tokens"] == 80
    thinking = {"type": "enabled", "budget_tokens": 2000}  # has to be less than `max_tokens`
    await drain(shared["messages"], asked(OLD, max_tokens=2010, thinking=thinking), None, Progress(LOREM[:80]))
    assert server.requests[-1].json["max_tokens"] == 2001


@pytest.mark.parametrize("how", ["prefill", "prompted"])
async def test_a_stop_sequence_that_the_break_parted_still_stops(
    how: str, server: WireServer, shared: Providers
) -> None:
    brain = Brain("One two END three")
    brain.shown = "One two E"
    server.reply = brain.reply
    for stop in ("END", ["xyz", "two END th"]):
        rest = await drain(shared[how], asked(stop=stop), None, Progress("One two E"))
        assert (rest.text, rest.finish, rest.error) == ("", "stop", None)
    rest = await drain(shared[how], asked(stop=["ENDS", "EX"]), None, Progress("One two E"))
    assert rest.text == "ND three"


async def test_an_answer_of_which_no_text_was_shown_is_asked_for_again(
    server: WireServer, provider: OpenAIProvider
) -> None:
    server.reply = Brain(LOREM).reply
    server.requests.clear()
    for progress in (
        Progress(),
        Progress("", "thoughts"),
        Progress("", "", (ToolCall("c", "look", '{"a'),)),
        Progress(" \n"),
    ):
        assert provider.continuation(asked(), progress) == "restart"
        rest = await drain(provider, asked(), None, progress)
        assert (rest.resumed, rest.text, rest.finish) == (Resumed("restart"), LOREM, "stop")
    assert len(server.requests) == 4
    assert all(len(got.json["messages"]) == 1 for got in server.requests)


async def test_a_server_that_takes_the_rest_for_thinking_is_asked_in_another_way(
    server: WireServer, provider: OpenAIProvider
) -> None:
    brain = Brain(LOREM)
    server.reply = brain.reply
    assert (await drain(provider, asked(), None, Progress(LOREM[:60]))).resumed == Resumed("prefill")
    brain.reasoning, brain.shown, brain.repeats = "The user wants", LOREM[:60], 40
    rest = await drain(provider, asked(), None, Progress(LOREM[:60]))
    assert (rest.resumed, rest.text, rest.thinking) == (Resumed("prompted", "verified"), LOREM[60:], "")


async def test_what_has_begun_is_not_tried_in_another_way(server: WireServer, shared: Providers) -> None:
    """Its words are shown: only whoever knows what is shown by now can go on."""
    begun = chat([LOREM[60:80]]).partition(b'data: {"choices": [{"index": 0, "delta": {}')[0]
    server.reply = Reply(begun + b'data: {"error":{"type":"invalid_request_error","message":"no"}}\n\n')
    server.requests.clear()
    rest = await drain(shared["prefill"], asked(), None, Progress(LOREM[:60]))
    assert (rest.resumed, rest.text) == (Resumed("prefill"), LOREM[60:80])
    assert rest.error is not None
    assert rest.error.code == "provider.invalid"
    assert [got.path for got in server.requests if got.method == "POST"] == ["/chat/completions"]


async def test_an_overloaded_provider_has_not_refused(server: WireServer, shared: Providers) -> None:
    server.reply = Reply(b"{}", 503, framing="length")
    server.requests.clear()
    rest = await drain(shared["prefill"], asked(), None, Progress("text"))
    assert rest.error is not None
    assert rest.error.retryable
    assert [got.method for got in server.requests if got.path != "/models"] == ["POST"]


async def test_a_turn_that_the_caller_had_begun_is_one_turn_with_its_rest(
    server: WireServer, shared: Providers
) -> None:
    server.reply = Brain(LOREM).reply
    request = Request("openai/any", [Message("user", "hello"), Message("assistant", LOREM[:10])])
    rest = await drain(shared["prefill"], request, None, Progress(LOREM[10:60]))
    assert rest.text == LOREM[60:]
    assert len(server.requests[-1].json["messages"]) == 2


@pytest.mark.parametrize(
    ("url", "mark", "thinking"),
    [
        ("https://api.mistral.ai/v1", {"prefix": True}, ""),
        ("https://api.deepseek.com/beta", {"prefix": True, "reasoning_content": "hm"}, "hm"),
        ("https://api.moonshot.ai/v1", {"partial": True}, ""),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", {"partial": True}, ""),
    ],
)
async def test_each_vendor_is_told_in_its_own_words_that_a_turn_is_unfinished(
    url: str, mark: dict[str, Any], thinking: str, server: WireServer
) -> None:
    provider = OpenAIProvider("k", url, max_retries=0)
    progress = Progress(LOREM[:60], thinking)
    policy = provider._policy(asked())
    assert provider.continuation(asked(), progress) == "prefill"
    provider._base_url = server.url  # the policy is the vendor's, the address ours
    asking, join = provider._way("prefill", policy, asked(), progress)
    brain = Brain(LOREM)
    brain.echo = policy.echo
    server.reply = brain.reply
    response = await asking.open()
    await response.close()
    assert server.requests[-1].json["messages"][-1] == {"role": "assistant", "content": LOREM[:60], **mark}
    assert not join.decided
    await provider.aclose()


async def read_on(batches: Any) -> None:
    async for _ in batches:
        pass


@pytest.mark.parametrize("how", ["prefill", "prefill_echo", "prompted", "restart"])
async def test_closing_an_answer_that_is_carried_on_closes_the_providers_connection(how: str) -> None:
    async with WireServer() as server:
        provider = OpenAIProvider("k", server.url, max_retries=0, continuation=how)  # type: ignore[arg-type]
        server.reply = lambda got: Reply(
            chat([LOREM[:70] if how == "prefill_echo" else "the"]), hang_after=-1 if got.method == "GET" else 100
        )
        if how != "restart":
            provider._listed_until_s = float("inf")  # what the server calls itself is no matter
        batches = provider.generate(asked(), Progress("" if how == "restart" else LOREM[:60]))
        first = await anext(batches)
        assert isinstance(first[0], HeadersReceived)
        reading = asyncio.ensure_future(read_on(batches))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await batches.aclose()
        await server.client_closed()
        await provider.aclose()


async def test_an_answer_carried_on_can_be_poured(
    server: WireServer, shared: Providers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wires, "poured", True)
    server.reply = Brain(LOREM).reply
    rest = await drain(shared["prefill"], asked(), None, Progress(LOREM[:60]))
    assert (rest.resumed, rest.text) == (Resumed("prefill"), LOREM[60:])


# --------------------------------------------------------------------------- token ids


class Vllm:
    """Tokens are characters, and their ids what Unicode calls them; the prompt is 1, 2, 3."""

    def __init__(self, text: str) -> None:
        self.text = text

    def reply(self, got: Asked) -> Reply:
        if got.method == "GET":
            listed = b'{"object":"list","data":[{"id":"any","owned_by":"vllm"}]}'
            return Reply(listed, headers={"content-type": "application/json"}, framing="length")
        if got.path == "/completions":
            prompt = got.json["prompt"]
            assert prompt[:3] == [1, 2, 3]
            at = len(prompt) - 3
            assert "".join(map(chr, prompt[3:])) == self.text[:at]
            return Reply(b"".join(self._completions(at)), segments=(1, 300), seed=at)
        body = chat(self.text)
        if got.json.get("return_token_ids"):
            body = b"".join(self._chat())
        return Reply(body, segments=(1, 300), seed=3)

    def _chat(self) -> Iterator[bytes]:
        yield b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}],"prompt_token_ids":[1,2,3]}\n\n'
        for character in self.text:
            yield b'data: {"choices":[{"index":0,"delta":{"content":%b},"token_ids":[%d]}]}\n\n' % (
                _json(character),
                ord(character),
            )
        yield b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    def _completions(self, at: int) -> Iterator[bytes]:
        for character in self.text[at:]:
            yield b'data: {"choices":[{"index":0,"text":%b,"token_ids":[%d]}]}\n\n' % (_json(character), ord(character))
        yield b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def _json(text: str) -> bytes:
    return json.dumps(text).encode()


async def test_vllm_draws_on_from_the_very_tokens(
    server: WireServer, provider: OpenAIProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = Vllm(LOREM).reply
    assert [model.continuation for model in await provider.models()] == ["prefill"]
    whole = await drain(provider, asked(max_tokens=200))
    assert server.requests[-1].json["return_token_ids"] is True
    tokens = whole.progress(len(whole.entries)).tokens
    assert tokens == (tokens_head("openai/any"), 1, 2, 3, PROMPT_ENDS, *map(ord, LOREM))
    cuts = equal = 0
    for cut in whole.marks:
        shown = whole.progress(cut)
        rest = await drain(provider, asked(max_tokens=200), None, shown)
        cuts += 1
        equal += shown.text + rest.text == LOREM and rest.resumed == Resumed("prefill") and rest.finish == "stop"
        assert server.requests[-1].json["max_tokens"] == 200 - len(shown.text)
        assert (shown.tokens or ()) + (rest.progress(len(rest.entries)).tokens or ()) == tokens
    with capsys.disabled():
        print(f"\n  vLLM, token ids: {cuts} cuts, {equal} equal")
    assert equal == cuts > 20


async def test_another_models_token_ids_are_not_taken_for_its_own(server: WireServer, provider: OpenAIProvider) -> None:
    server.reply = Vllm(LOREM).reply
    await provider.models()
    whole = await drain(provider, asked("openai/one"))
    shown = whole.progress(len(whole.entries) - 1)
    assert shown.tokens
    server.reply = Brain(LOREM).reply
    assert (await drain(provider, asked("openai/two"), None, shown)).resumed == Resumed("prefill")
    assert server.requests[-1].path == "/chat/completions"


async def test_a_server_that_takes_no_ids_is_sent_the_text(server: WireServer, provider: OpenAIProvider) -> None:
    vllm, brain = Vllm(LOREM), Brain(LOREM)
    server.reply = vllm.reply
    await provider.models()
    whole = await drain(provider, asked())
    shown = whole.progress(len(whole.entries) - 1)

    def reply(got: Asked) -> Reply:
        return Reply(b"{}", 404, framing="length") if got.path == "/completions" else brain.reply(got)

    server.reply = reply
    rest = await drain(provider, asked(), None, shown)
    assert (rest.resumed, shown.text + rest.text) == (Resumed("prefill"), LOREM)


async def test_token_ids_are_asked_for_only_where_they_are_of_use(server: WireServer, provider: OpenAIProvider) -> None:
    server.reply = Vllm(LOREM).reply
    await drain(provider, asked())
    assert "return_token_ids" not in server.requests[-1].json, "nobody knows yet what the server is"
    await provider.models()
    await drain(provider, asked(stop="x"))
    assert "return_token_ids" not in server.requests[-1].json


async def test_without_all_token_ids_vllm_is_sent_the_text(server: WireServer, provider: OpenAIProvider) -> None:
    vllm, brain = Vllm(LOREM), Brain(LOREM)
    server.reply = lambda got: vllm.reply(got) if got.method == "GET" else brain.reply(got)
    rest = await drain(provider, asked(), None, Progress(LOREM[:60]))
    assert (rest.resumed, rest.text) == (Resumed("prefill"), LOREM[60:])
    sent = server.requests[-1].json
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
