"""The recorded wires of real providers, and what this project makes of each.

The corpus tells what the vendor's own package read from each wire; here that is put in our vocabulary:

* `thinking` is the raw reasoning followed by the summaries: both are shown as thinking.
* A finish reason is ours: by `FINISH`, and `tool_calls` whenever a tool was called and the provider said `stop`.
* `usage` is (input, output, total, thinking, cached), with what was read from or written to a prompt cache as input,
  and of Cohere's two counts that of the tokens.
* What Cohere's models plan before they call a tool is thinking; its package tells it apart from the rest.
* `error` is the code of ours that the wire must end with, or None.

A wire belongs to the OpenAI dialects when its API is `chat`, `responses` or `completions` and its framing is
server-sent events, whichever package read it; Cohere, Gemini and Ollama have dialects of their own, and these are the
names of their wires' APIs: `cohere`, `ollama`, `ollama-generate`, and Gemini's (`wires_gemini`).

How a wire is served is the same wherever it is tried: `in_pieces` and `cut_short`, of which the same wire always makes
the same pieces and the same cuts.
"""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from tests.providers.wire_server import Reply

from everstream.core.events import (
    Counted,
    DeltaRefusal,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Event,
    Finish,
    FinishReason,
    HeadersReceived,
    Mark,
    Resumed,
    ToolCall,
    Usage,
)
from everstream.core.summary import Summary, fold
from everstream.providers.base import Batch, PouringProvider, Progress, Provider, ProviderError
from everstream.providers.chat_completions import ChatFold
from everstream.providers.cohere_api import CohereFold
from everstream.providers.gemini_api import GenerateFold
from everstream.providers.gemini_interactions import InteractionsFold
from everstream.providers.http_answer import Fold
from everstream.providers.messages_api import MessagesFold
from everstream.providers.ollama_api import OllamaFold
from everstream.providers.responses_api import ResponsesFold

ROOT = Path(__file__).resolve().parents[3] / "shared" / "wires"

FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "completed": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "incomplete": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "COMPLETE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}
_APIS = {("cohere", "chat"): "cohere", ("ollama", "chat"): "ollama", ("ollama", "generate"): "ollama-generate"}

# Wires that end with an error, and with which.
ERRORS = {
    "groq/chat--pydantic-ai--tool-use-failed-error-streaming": "provider.invalid",
    "openai/responses--ai--openai-error-1": "provider.rate_limit",
    "openrouter/chat--pydantic-ai--openrouter-stream-error": "provider.invalid",
    "gpustack/chat--ruby_llm--extended-thinking-gpustack-qwen3-streams-thinking-content-when-available": (
        "provider.unknown"
    ),
    "anthropic/messages--ai--spliced-message-start": "provider.connection",
}
SPLICED = "anthropic/messages--ai--spliced-message-start"

ERROR_CODES = {400: "provider.invalid", 401: "provider.auth", 404: "model.unknown", 429: "provider.rate_limit"}
ODD_ERROR_BODIES = {
    # What the vendor names is more exact than the status it sends.
    "openai/http-400-responses--otel--responses-create-api-error-content-mode0": "model.unknown",
    "xai/http-400-responses--ruby_llm--dling-with-xai-grok-4-1-fast-non-reasoning-raises-appropriate-auth-error": (
        "provider.auth"
    ),
    "gemini/http-400-generate--ruby_llm--rror-handling-with-gemini-gemini-2-5-flash-raises-appropriate-auth-error": (
        "provider.auth"
    ),
    "azure/http-404-chat--crewAI--openai-is-default-provider-without-explicit-llm-set-on-agent": "provider.invalid",
}

CUTS = 10  # of each wire

# Where a wire begins to tell its end.
_END_MARKS = (
    b'"finish_reason":"',
    b'"finish_reason": "',
    b'"stop_reason":"',
    b'"type":"response.completed"',
    b'"type":"response.incomplete"',
    b'"type":"response.failed"',
    b'"type": "response.completed"',
    b'"type":"message-end"',
    b'"done_reason":"',
    b'"done":true',
    b'"finishReason"',
    b'"blockReason"',
    b"interaction.completed",
    b"[DONE]",
)
_ERROR_MARKS = (b'"error":{', b'{"type":"error"', b"\nerror:")
_FOLDS: dict[str, Callable[[str], Fold]] = {
    "chat": ChatFold,
    "responses": ResponsesFold,
    "completions": lambda name: ChatFold(name, plain=True),
    "messages": MessagesFold,
    "ollama": OllamaFold,
    "ollama-generate": OllamaFold,
    "cohere": CohereFold,
    "gemini": GenerateFold,
    "interactions": InteractionsFold,
}


@dataclass(frozen=True)
class Wire:
    """One recorded stream, and what must come out of it."""

    key: str  # provider/file, without its ending
    provider: str
    api: str
    body: bytes
    text: str
    thinking: str
    refusal: str
    calls: list[tuple[str | None, str, str]]
    finish: FinishReason | None
    usage: tuple[int, int, int, int | None, int | None] | None
    error: str | None
    events: int


@dataclass(frozen=True)
class ErrorBody:
    """One recorded answer with an error status."""

    key: str
    provider: str
    api: str
    status: int
    body: bytes

    @property
    def code(self) -> str:
        """Ours that it must become."""
        return ODD_ERROR_BODIES.get(self.key, ERROR_CODES[self.status])

    def reply(self) -> Reply:
        headers = {"content-type": "application/json"}
        return Reply(self.body, self.status, headers, framing="length", segments=(1, 9))


class Outcome:
    """What a provider gave, added up."""

    def __init__(self) -> None:
        self.headers = 0
        self.text = ""
        self.thinking = ""
        self.refusal = ""
        self.calls: dict[int, list[str]] = {}  # id, name, arguments
        self.finishes: list[Finish] = []
        self.error: ProviderError | None = None
        self.batches = 0
        self.empty_batches = 0
        self.shown = asyncio.Event()  # there is text
        self.entries: list[Event] = []  # as a log would hold them
        self.marks: dict[int, Mark] = {}  # beside the entry of that number, from 1
        self.resumed: Resumed | None = None
        self.counted: Usage | None = None

    @property
    def finish(self) -> FinishReason | None:
        return next((said.finish_reason for said in reversed(self.finishes) if said.finish_reason), None)

    @property
    def usage(self) -> Usage | None:
        return next((said.usage for said in reversed(self.finishes) if said.usage), None)

    @property
    def warnings(self) -> list[str]:
        return [warning for said in self.finishes for warning in said.warnings]

    def take(self, batch: Batch) -> bool:
        """As a sink that is full now and then."""
        self.batches += 1
        self.empty_batches += not batch
        for event in batch:
            assert self.headers or isinstance(event, HeadersReceived), "headers come first"
            self.add(event)
        return self.batches % 7 != 0

    async def room(self) -> None:
        await asyncio.sleep(0)

    def progress(self, entries: int) -> Progress:
        """What a log shows that was stored as far as that entry, marks and all."""
        shown = fold(self.entries[:entries])
        cursor, at = None, 0
        for number, mark in self.marks.items():
            if mark.cursor is not None and number <= entries:
                cursor, at = mark.cursor, number
        since = fold(self.entries[at:entries]) if cursor is not None else Summary()
        tokens = tuple(token for number, mark in self.marks.items() if number <= entries for token in mark.tokens)
        calls = tuple(ToolCall(call.call_id or "", call.name or "", call.arguments) for call in shown.tool_calls)
        return Progress(shown.text, shown.thinking, calls, shown.refusal, cursor, since, tokens or None)

    def add(self, event: Any) -> None:
        if isinstance(event, Mark):
            assert self.entries, "a mark stands beside an entry"
            before = self.marks.get(len(self.entries), Mark())
            self.marks[len(self.entries)] = Mark(event.cursor or before.cursor, before.tokens + event.tokens)
            return
        if isinstance(event, Resumed):
            assert self.resumed is None
            assert all(isinstance(entry, HeadersReceived) for entry in self.entries), "content came before the label"
            self.resumed = event
            return
        if isinstance(event, Counted):
            self.counted = event.usage
            return
        if not isinstance(event, Finish):
            self.entries.append(event)
        if isinstance(event, DeltaText):
            assert event.text
            self.text += event.text
            self.shown.set()
        elif isinstance(event, DeltaThinking):
            assert event.text
            self.thinking += event.text
        elif isinstance(event, DeltaRefusal):
            assert event.text
            self.refusal += event.text
        elif isinstance(event, DeltaToolCall):
            call = self.calls.setdefault(event.index, ["", "", ""])
            if event.call_id:
                assert not call[0], "an id came twice"
                call[0] = event.call_id
            if event.name:
                assert not call[1], "a name came twice"
                call[1] = event.name
            call[2] += event.arguments
        elif isinstance(event, HeadersReceived):
            self.headers += 1
        else:
            assert isinstance(event, Finish)
            self.finishes.append(event)


poured = False  # the way by which `drain` asks; a test may set it


async def drain(
    provider: Provider, request: Any, outcome: Outcome | None = None, progress: Progress | None = None
) -> Outcome:
    """Ask, and add up everything until the end or the error."""
    outcome = Outcome() if outcome is None else outcome
    try:
        if poured:
            await cast(PouringProvider, provider).pour(request, progress, outcome)
        else:
            async for batch in provider.generate(request, progress):
                outcome.take(batch)
    except ProviderError as error:
        outcome.error = error
    return outcome


def parsed(arguments: str) -> object:
    """A tool call's arguments, where they are whole; otherwise as they are."""
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def usage_told(usage: Usage) -> tuple[int, int, int, int | None, int | None]:
    """In the order of `Wire.usage`."""
    return usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.thinking_tokens, usage.cached_tokens


# --------------------------------------------------------------------------- who is asked

ASKED_OF: dict[str, tuple[str, dict[str, str]]] = {  # provider and parameters, by the wire's API
    "chat": ("openai", {}),
    "responses": ("openai", {"api": "responses"}),
    "completions": ("plain", {}),
    "messages": ("anthropic", {}),
    "gemini": ("gemini", {}),
    "interactions": ("gemini", {"api": "interactions"}),
    "ollama": ("ollama", {}),
    "ollama-generate": ("ollama", {"api": "generate"}),
    "cohere": ("cohere", {}),
}


def vendors_at(url: str) -> dict[str, Any]:
    """The settings of a server whose providers of `ASKED_OF` are all at one address."""
    vendors = ("openai", "anthropic", "gemini")
    return {
        **{f"{name}_base_url": url for name in vendors},
        **{f"{name}_api_key": "k" for name in vendors},
        "endpoints": {
            "plain": {"base_url": url, "api": "completions"},
            "ollama": {"base_url": url},
            "cohere": {"base_url": url, "api_key": "k"},
        },
        "discover": False,
        "carry_on": False,  # a wire that breaks off is what is tested
    }


# --------------------------------------------------------------------------- how a wire is served


def in_pieces(wire: Wire) -> Reply:
    """In pieces of 1 to 9 bytes; in larger ones where the wire is large, so that it is read in some hundred pieces."""
    return Reply(wire.body, segments=(1, max(9, len(wire.body) // 400)), seed=zlib.crc32(wire.key.encode()))


def cuts(wire: Wire) -> list[int]:
    """Random places to cut the wire at, so many bytes from its beginning.

    The answer may be whole before the last bytes (usage, [DONE]); those cuts have a test of their own.
    """
    draw = random.Random(wire.key)
    return [draw.randrange(1, max(2, _end_begins(wire))) for _ in range(CUTS)]


def cut_short(wire: Wire, cut: int) -> Reply:
    return Reply(wire.body, segments=(1, max(9, len(wire.body) // 20)), seed=cut, cut_after=cut)


def fold_of(wire: Wire, cut: int) -> Outcome:
    """What the complete events of the first `cut` bytes hold, by folding them in one piece."""
    fold = _FOLDS[wire.api]("x")
    outcome = Outcome()
    for event in fold.feed(wire.body[: wire.body.rfind(b"\n", 0, cut) + 1]):
        outcome.add(event)
    return outcome


def _end_begins(wire: Wire) -> int:
    """Where the event begins that tells the end: no cut before it may pass for an end."""
    body = wire.body
    marks = _END_MARKS + (_ERROR_MARKS if wire.error is not None else ())
    places = [place for place in (body.find(mark) for mark in marks) if place >= 0]
    if wire.key == SPLICED:
        places.append(body.rfind(b"event: message_start"))
    return max(1, body.rfind(b"\n", 0, min(places, default=len(body))))


# --------------------------------------------------------------------------- where the wires lie


@cache
def openai_wires() -> list[Wire]:
    return [wire for wire in _wires() if wire.api in ("chat", "responses", "completions")]


@cache
def anthropic_wires() -> list[Wire]:
    return [wire for wire in _wires() if wire.api == "messages"]


@cache
def ollama_wires() -> list[Wire]:
    return [wire for wire in _wires() if wire.provider == "ollama"]


@cache
def cohere_wires() -> list[Wire]:
    return [wire for wire in _wires() if wire.provider == "cohere"]


@cache
def error_bodies() -> list[ErrorBody]:
    """All but Gemini's."""
    found = []
    for path in sorted(ROOT.glob("*/http-*.json")):
        provider = path.parent.name
        if path.name.endswith(".expected.json") or provider == "gemini":
            continue
        _, status, api = path.name.split("--")[0].split("-", 2)
        key = f"{provider}/{path.stem}"
        found.append(ErrorBody(key, provider, _APIS.get((provider, api), api), int(status), path.read_bytes()))
    return found


def manifest() -> set[str]:
    """The keys of all files that the corpus says it has."""
    lines = (ROOT / "MANIFEST.tsv").read_text().splitlines()
    place = lines[0].split("\t").index("file")
    return {line.split("\t")[place].rpartition(".")[0] for line in lines[1:]}


@cache
def _wires() -> list[Wire]:
    found = []
    for path in sorted([*ROOT.glob("*/*.sse"), *ROOT.glob("*/*.ndjson")]):
        provider, api = path.parent.name, path.name.split("--")[0]
        if provider == "gemini":
            continue
        told = json.loads(path.with_suffix(".expected.json").read_text())["expected"]
        api = _APIS.get((provider, api), api)
        found.append(_wire(f"{provider}/{path.stem}", provider, api, path.read_bytes(), told))
    return found


def _wire(key: str, provider: str, api: str, body: bytes, told: dict[str, Any]) -> Wire:
    calls = [(call.get("id"), call["name"], call["arguments"]) for call in told["tool_calls"]]
    reason = FINISH[told["finish_reason"]] if told["finish_reason"] else None
    if calls and reason in ("stop", None):
        reason = "tool_calls"
    thinking = (told.get("thinking") or "") + (told.get("reasoning_summary") or "")
    if api == "cohere":
        thinking += _tool_plan(body)
    if key == SPLICED:  # the first half is what came before the proxy began again
        thinking, reason = "I will call the tool.", None
        calls = [("toolu_first", "test-tool", '{"value":"Spark')]
    usage = _usage(told["usage"]) if told["usage"] else None
    error = ERRORS.get(key)
    return Wire(
        key,
        provider,
        api,
        body,
        told["text"],
        thinking,
        told.get("refusal") or "",
        calls,
        reason,
        usage,
        error,
        told["events"],
    )


def _tool_plan(body: bytes) -> str:
    said = [json.loads(line[5:]) for line in body.splitlines() if line.startswith(b'data: {"type":"tool-plan-delta"')]
    return "".join(event["delta"]["message"]["tool_plan"] for event in said)


def _usage(told: dict[str, Any]) -> tuple[int, int, int, int | None, int | None]:
    if "eval_count" in told:
        return told["prompt_eval_count"], told["eval_count"], told["prompt_eval_count"] + told["eval_count"], None, None
    if "billed_units" in told:
        given, made = told["tokens"]["input_tokens"], told["tokens"]["output_tokens"]
        return given, made, given + made, None, told.get("cached_tokens")
    if "prompt_tokens" in told:
        made = told.get("completion_tokens") or 0
        thinking = (told.get("completion_tokens_details") or {}).get("reasoning_tokens")
        cached = (told.get("prompt_tokens_details") or {}).get("cached_tokens")
        cached = told.get("prompt_cache_hit_tokens", told.get("cached_tokens")) if cached is None else cached
        given = told["prompt_tokens"]
        if thinking and told["total_tokens"] == given + made + thinking:
            made += thinking
        return given, made, told["total_tokens"], thinking, cached
    made = told["output_tokens"]
    if "total_tokens" in told:
        cached = (told.get("input_tokens_details") or {}).get("cached_tokens")
        thinking = (told.get("output_tokens_details") or {}).get("reasoning_tokens")
        return told["input_tokens"], made, told["total_tokens"], thinking, cached
    cached = told.get("cache_read_input_tokens")
    given = told["input_tokens"] + (cached or 0) + (told.get("cache_creation_input_tokens") or 0)
    thinking = (told.get("output_tokens_details") or {}).get("thinking_tokens")
    return given, made, given + made, thinking, cached
