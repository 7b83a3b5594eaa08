"""A provider that needs no key and no network: it recites a script, on time, and fails on request.

For demonstrations, tests and benchmarks.  There are three models: `scripted/count` says "1 2 3 …", `scripted/echo`
says the last user message back, `scripted/lorem` says markdown (headings, lists, code, tables).  An answer is
thinking, then text, then perhaps a tool call: one row of tokens, the same for the same request.  The numbers of
`fail_at`, `hang_at` and `garbage_at` count along that row, and so does `max_tokens`.

Time is a schedule, not a sleep for each token: token n is due at `start + n / rate`.  Whoever comes late gets all
that is due in one batch, so a slow consumer does not slow the model down, and errors do not add up.

Nothing of an answer is stored.  The row is an iterator, and its beginning is shared by all streams as ready-made
events: ten million tokens cost no memory, and a token costs a slice of a tuple.  To carry on an answer the row is
made again and what is shown already is cut off by characters, since a log may hold half a token.  That is exact; a
script may have it called something worse, or refused, to show what becomes of it.

Parameters beside the common ones, all of `request.extra`: see `Script`.  Of the common ones `max_tokens`, `seed`
and `thinking` count; the rest (temperature, stop, …) mean nothing to a script and are let be.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import re
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from itertools import chain, count, cycle, islice
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec

from everstream.core.events import (
    Content,
    Continuation,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Finish,
    FinishReason,
    HeadersReceived,
    Mark,
    Request,
    Resumed,
    SeamCheck,
    TextPart,
    Usage,
)
from everstream.core.summary import Summary
from everstream.providers.base import Batch, ModelInfo, Progress, ProviderError
from everstream.providers.scripted_text import COUNTED, THOUGHTS, counted_after, lorem

MAX_TOKENS = 10_000_000
DEFAULT_TOKENS = 200
DEFAULT_THINKING_TOKENS = 24
TOOL_PIECE_CHARACTERS = 8
TURN_TOKENS = 64  # a batch at rate 0: small enough to let others have the loop, large enough to be cheap
LATE_TOKENS = 4096  # the largest batch for one who comes late: keeps a batch's memory bounded
SKIP_TOKENS = 4096  # tokens skipped between two turns of the loop
REQUESTS_REMEMBERED = 1024  # whose failures are counted
LEAST_SLEEP_S = 0.001  # finer than timers are; above 1,000 tokens/s they come in small batches instead

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
_FAIL_CODES = Literal[
    "provider.auth",
    "provider.rate_limit",
    "provider.overloaded",
    "provider.timeout",
    "provider.connection",
    "provider.invalid",
    "provider.content_filter",
    "provider.unknown",
]


class ScriptedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call to make; `arguments` is JSON text, or a map that is written as such."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    arguments: str | dict[str, Any] = "{}"


class Script(msgspec.Struct, frozen=True):
    """What `request.extra` may say."""

    tokens: Tokens | None = None  # of text; 200, or for echo the whole message
    rate: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 40.0  # tokens a second; 0: as fast as possible
    ttft_ms: Annotated[float, msgspec.Meta(ge=0, le=86_400_000)] = 0.0
    thinking_tokens: Tokens | None = None  # 0, or 24 where `thinking` is asked for
    tool_call: ScriptedCall | None = None  # after the text; not made again when the last message is its result
    fail_at: Tokens | None = None  # after this many tokens: raise `fail_code`
    fail_code: _FAIL_CODES = "provider.connection"
    hang_at: Tokens | None = None  # after this many tokens: never say anything again
    garbage_at: Tokens | None = None  # after this many tokens: what unreadable bytes lead to
    fail_times: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1  # each of these; counted for a request, in this process
    continuation: Literal["exact", "prefill", "prompted", "restart", "none"] = "exact"  # if carried on: said to be that
    marks: bool = False  # say a cursor with each batch, and carry on from the last one
    seed: int | None = None  # another text, the same for the same seed (lorem); wins over the common `seed`


MODELS = ("count", "echo", "lorem")
_CHECKS: dict[Continuation, SeamCheck] = {"exact": "verified", "prompted": "unverified"}
_WORD = re.compile(r"\s*\S+(?:\s+\Z)?|\s+\Z")
_Delta = TypeVar("_Delta", DeltaText, DeltaThinking)


class Scripted:
    """The provider `scripted`.  `clock` (seconds, monotonic) and `sleep` can be put in by a test."""

    name = "scripted"

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._failures: dict[tuple[bytes, int], int] = {}  # request, place -> how often; the oldest are forgotten

    async def models(self) -> list[ModelInfo]:
        return [
            ModelInfo(f"scripted/{name}", usable=True, continuation="exact", thinking=True, tools=True, images=False)
            for name in MODELS
        ]

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    def check(self, request: Request) -> None:
        """Raises ProviderError `model.unknown` or `request.invalid`."""
        read_script(request)

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        """`exact`, for the same request is the same row of tokens, or what the script says."""
        how = read_script(request).continuation
        return None if how == "none" else how

    async def abandon(self, request: Request, progress: Progress) -> None:
        """A recital that nobody listens to has stopped."""

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
        """Recite.  Raises ProviderError: `model.unknown` and `request.invalid` before anything is yielded, and at
        its place whatever failure the script asks for.  A failure that lies within `progress` is over."""
        script = read_script(request)
        row = Row(request, script)
        headers = HeadersReceived(at=int(time.time() * 1000))
        shown = 0
        if progress is None:
            yield (headers,)
        else:
            how = script.continuation
            if how == "none":
                raise ProviderError("provider.connection", "the script is not to be carried on", retryable=False)
            yield headers, Resumed(how, _CHECKS.get(how))
            before = Row(request, script) if how == "restart" else row
            await before.skip(progress, self._sleep)
            shown = before.taken
        places = self._failures_ahead(request, script, row.taken, None if progress is None else shown)
        failure_at = min(places, default=None)
        start_s = self._clock() + script.ttft_ms / 1000
        if script.ttft_ms:
            await self._sleep(script.ttft_ms / 1000)
        emitted = 0
        while True:
            if row.taken == failure_at:
                self._note_failure(request, failure_at)
                await _fail(script, failure_at)
            due = TURN_TOKENS
            if script.rate:
                # A millionth of a token forgives what rounding took from a moment that was waited for exactly.
                due = int((self._clock() - start_s) * script.rate + 1e-6) + 1 - emitted
            most = min(due, LATE_TOKENS, failure_at - row.taken if failure_at is not None else due)
            if most > 0:
                batch = row.take(most)
                if not batch:
                    break
                emitted += len(batch)
                yield [*batch, Mark(cursor=row.taken)] if script.marks else batch
            wait_s = start_s + emitted / script.rate - self._clock() if script.rate else 0.0
            await self._sleep(max(wait_s, LEAST_SLEEP_S) if wait_s > 0 else 0)
        yield (Finish(row.finish_reason, row.usage),)

    def _failures_ahead(self, request: Request, script: Script, taken: int, shown: int | None) -> list[int]:
        """Where the script is still to fail.  `shown` tokens were shown before; None: this is the first call."""
        places = []
        for at in (script.fail_at, script.hang_at, script.garbage_at):
            if at is not None and at >= taken:
                times = 0
                if shown is not None:
                    times = max(self._failures.get(_key(request, at), 0), int(shown >= at))
                if times < script.fail_times:
                    places.append(at)
                    if not times:
                        self._failures.pop(_key(request, at), None)
        return places

    def _note_failure(self, request: Request, at: int) -> None:
        key = _key(request, at)
        self._failures[key] = self._failures.pop(key, 0) + 1
        if len(self._failures) > REQUESTS_REMEMBERED:
            del self._failures[next(iter(self._failures))]


def read_script(request: Request) -> Script:
    """The script a request asks for.  Raises ProviderError `model.unknown` or `request.invalid`."""
    if request.model_name not in MODELS:
        raise ProviderError("model.unknown", f"scripted has no such model; it has {', '.join(MODELS)}")
    known = Script.__struct_fields__
    for name in request.extra:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ProviderError(
                "request.invalid", f"scripted has no parameter {name[:64]!r}; the nearest is {near[0]!r}"
            )
    if request.params.max_tokens is not None and request.params.max_tokens < 0:
        raise ProviderError("request.invalid", "max_tokens must not be negative")
    try:
        return msgspec.convert(request.extra, Script)
    except msgspec.ValidationError as error:
        raise ProviderError("request.invalid", f"scripted: {error}") from None


def _key(request: Request, at: int) -> tuple[bytes, int]:
    return hashlib.blake2b(msgspec.msgpack.encode(request), digest_size=16).digest(), at


async def _fail(script: Script, at: int) -> NoReturn:
    if at == script.fail_at:
        raise ProviderError(script.fail_code, f"the script failed after {at} tokens, as it was told to")
    if at == script.garbage_at:
        raise ProviderError("provider.invalid", f"the script sent unreadable bytes after {at} tokens")
    while True:
        await asyncio.Event().wait()


class Row:
    """The tokens of one answer, in order, taken from the front."""

    def __init__(self, request: Request, script: Script) -> None:
        self.taken = 0  # tokens of the whole answer, also those that were skipped
        self._request = request
        self._thinking_tokens = _thinking_tokens(request, script)
        self._thinking: Iterator[Content] = islice(cycle(THOUGHTS), self._thinking_tokens)
        self._text: Iterator[Content] = _text(request, script)
        self._call: Iterator[Content] = _call(request, script)
        self._calls = False
        self._rest: Iterator[Content] = chain(self._thinking, self._text, self._call)

    def take(self, most: int) -> list[Content]:
        """The next tokens, at most `most`; none at the end of the answer."""
        max_tokens = self._request.params.max_tokens
        if max_tokens is not None:
            most = min(most, max_tokens - self.taken)
        batch = list(islice(self._rest, max(most, 0)))
        self.taken += len(batch)
        self._calls = self._calls or (bool(batch) and type(batch[-1]) is DeltaToolCall)
        return batch

    async def skip(self, progress: Progress, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Leave out what `progress` shows, counted in characters.  A token shown in part is taken when its rest is."""
        shown: Progress | Summary = progress
        if isinstance(progress.cursor, int):
            shown = progress.since
            while self.take(min(progress.cursor - self.taken, SKIP_TOKENS)):
                await sleep(0)
        calls = shown.tool_calls
        thinking = await self._without(self._thinking, len(shown.thinking), sleep)
        text = await self._without(self._text, len(shown.text), sleep)
        call = self._call
        if calls:
            self._calls = True
            if calls[0].name:
                self.taken += len(list(islice(call, 1)))  # the piece with the name
            call = await self._without(call, len(calls[0].arguments), sleep)
        self._rest = chain(thinking, text, call)

    async def _without(
        self, tokens: Iterator[Content], characters: int, sleep: Callable[[float], Awaitable[None]]
    ) -> Iterator[Content]:
        while characters > 0:
            for _ in range(SKIP_TOKENS):
                token = next(tokens, None)
                if token is None:
                    return iter(())
                shown = len(_said(token))
                if shown > characters:
                    return chain((_rest_of(token, characters),), tokens)
                self.taken += 1
                characters -= shown
                if characters == 0:
                    break
            await sleep(0)
        return tokens

    @property
    def finish_reason(self) -> FinishReason:
        """Why the row ended; to be asked at its end."""
        if next(self._rest, None) is not None:
            return "length"
        return "tool_calls" if self._calls else "stop"

    @property
    def usage(self) -> Usage:
        words = sum(len(_words(message.content).split()) for message in self._request.messages)
        thinking = min(self._thinking_tokens, self.taken)
        return Usage(words, self.taken, words + self.taken, "provider", thinking_tokens=thinking or None)


def _words(content: str | list[Any]) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.text for part in content if isinstance(part, TextPart))


def _said(token: Content) -> str:
    return token.arguments if isinstance(token, DeltaToolCall) else token.text


def _rest_of(token: Content, characters: int) -> Content:
    if isinstance(token, DeltaToolCall):
        return DeltaToolCall(token.index, token.arguments[characters:])
    return type(token)(token.text[characters:])


def _thinking_tokens(request: Request, script: Script) -> int:
    if script.thinking_tokens is not None:
        return script.thinking_tokens
    wanted = request.params.thinking
    if isinstance(wanted, dict) and wanted.get("type") == "disabled":
        return 0
    return DEFAULT_THINKING_TOKENS if wanted and wanted not in ("none", "off", "disabled") else 0


def _text(request: Request, script: Script) -> Iterator[Content]:
    if request.model_name == "echo":
        echoed = _echo(request)
        return echoed if script.tokens is None else islice(echoed, script.tokens)
    tokens = DEFAULT_TOKENS if script.tokens is None else script.tokens
    if request.model_name == "count":
        return islice(chain(COUNTED, counted_after(len(COUNTED))), tokens)
    seed = script.seed if script.seed is not None else request.params.seed or 0
    return islice(chain.from_iterable(lorem(seed, section) for section in count()), tokens)


def _echo(request: Request) -> Iterator[Content]:
    said = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
    return (DeltaText(match.group()) for match in _WORD.finditer(_words(said)))


def _call(request: Request, script: Script) -> Iterator[Content]:
    call = script.tool_call
    if call is None or (request.messages and request.messages[-1].role == "tool"):
        return
    arguments = call.arguments if isinstance(call.arguments, str) else msgspec.json.encode(call.arguments).decode()
    # The same request gives the same id; a later turn of the conversation gives another.
    mark = zlib.crc32(f"{len(request.messages)} {call.name} {arguments}".encode())
    yield DeltaToolCall(0, "", call_id=f"call_{mark:08x}", name=call.name)
    for at in range(0, len(arguments), TOOL_PIECE_CHARACTERS):
        yield DeltaToolCall(0, arguments[at : at + TOOL_PIECE_CHARACTERS])
