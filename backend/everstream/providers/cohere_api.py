"""The dialect of Cohere's chat API, version 2: the answers.

`CohereFold` reads the events of one streamed message; `cohere.py` writes what is asked.

A message is told as `message-start`, then parts that each have a start, deltas and an end, then `message-end` with the
reason and the counts, then `[DONE]`.  A part is text, thinking or a tool call, and is found by its `index`.

* What stands in a part's start counts as what stands in its deltas.
* `tool_plan` is what the model thinks before it calls: it is shown as thinking.  Citations are not shown.
* A tool that takes nothing has no arguments at all, not even an empty object.
* The counts are of tokens (`tokens`); `billed_units` are what is paid for, and taken where there is nothing else.
* Failures come as a finish reason, as `error` in `message-end`, or as a message without a type.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everstream.core.events import Finish, FinishReason, Usage
from everstream.providers.base import ProviderError, ProviderEvent
from everstream.providers.batching import Batcher
from everstream.providers.http_errors import garbage, stream_error
from everstream.providers.sse import JsonEvents


class _Struct(msgspec.Struct, gc=False):
    pass


class _Content(_Struct):
    text: str | None = None
    thinking: str | None = None


class _Function(_Struct):
    name: str | None = None
    arguments: Any = None


class _Call(_Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(_Struct):
    content: _Content | list[_Content] | str | None = None
    tool_calls: _Call | list[_Call] | None = None
    tool_plan: str | None = None


class _Tokens(_Struct):
    input_tokens: float | None = None
    output_tokens: float | None = None


class _Usage(_Struct):
    tokens: _Tokens | None = None
    billed_units: _Tokens | None = None
    cached_tokens: float | None = None


class _Delta(_Struct):
    message: _Message | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Event(_Struct):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None
    message: _Message | str | None = None  # of a failure: text; of an answer that was not streamed: all of it
    finish_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Event)

FINISH_REASONS: dict[str, FinishReason] = {
    "complete": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "error_limit": "length",
    "tool_call": "tool_calls",
    "content_blocked": "content_filter",
    "error_toxic": "content_filter",
}
_FAILURES: dict[str, tuple[str, str]] = {
    "error": ("provider.unknown", "failed while it answered"),
    "timeout": ("provider.timeout", "took too long for its own answer"),
    "user_cancel": ("provider.connection", "was told by somebody else to stop"),
}


class CohereFold:
    """One streamed message: bytes to events.  A `http_answer.Fold`."""

    def __init__(self, name: str, warnings: tuple[str, ...] = ()) -> None:
        self.finished = False
        self.ended = False
        self.trouble: ProviderError | None = None
        self._name = name
        self._warnings = warnings
        self._events = JsonEvents(_DECODER)
        self._batch = Batcher()
        self._calls: dict[int | None, tuple[int, str | None]] = {}  # by the provider's index: ours, and the id

    def feed(self, data: bytes) -> list[ProviderEvent]:
        return self._fold(self._events.feed(data))

    def end(self) -> list[ProviderEvent]:
        return self._fold(self._events.end())

    def _fold(self, events: list[_Event]) -> list[ProviderEvent]:
        for event in events:
            self._take(event)
            if self.ended or self.trouble is not None:
                return self._batch.take()
        if self._events.trouble is not None:
            self.trouble = garbage(self._name, self._events.trouble)
        elif self._events.done and not self.finished:  # the end, though nobody said why
            self._finish(None, None)
        return self._batch.take()

    def _take(self, event: _Event) -> None:
        delta = event.delta
        if delta is not None:
            if delta.message is not None:
                self._show(delta.message, event)
            if event.error or delta.error:
                self.trouble = stream_error(self._name, event.error or delta.error)
            elif event.type == "message-end":
                self._finish(delta.finish_reason, delta.usage)
        elif event.error:
            self.trouble = stream_error(self._name, event.error)
        elif event.type == "message-end":
            self._finish(event.finish_reason, event.usage)
        elif not event.type or event.type == "error":
            self._take_untyped(event)

    def _take_untyped(self, event: _Event) -> None:
        """A failure, or an answer that was not streamed."""
        if isinstance(event.message, _Message):
            self._show(event.message, event)
            self._finish(event.finish_reason, event.usage)
        elif event.message:
            self.trouble = stream_error(self._name, event.message)

    def _show(self, message: _Message, event: _Event) -> None:
        batch, content = self._batch, message.content
        if message.tool_plan:
            batch.thinking(message.tool_plan)
        if isinstance(content, str):
            if content:
                batch.text(content)
        elif content is not None:
            for part in content if isinstance(content, list) else (content,):
                if part.thinking:
                    batch.thinking(part.thinking)
                if part.text:
                    batch.text(part.text)
        if message.tool_calls is not None:
            if isinstance(message.tool_calls, list):
                for call in message.tool_calls:
                    self._call(call, None, begins=True)
            else:
                self._call(message.tool_calls, event.index, begins=event.type == "tool-call-start")

    def _call(self, said: _Call, place: int | None, *, begins: bool) -> None:
        function = said.function or _Function()
        arguments = function.arguments or ""
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        known = self._calls.get(place)
        if known is None or (begins and (known[1] is None or said.id != known[1])):
            index = self._batch.new_call(said.id or None, function.name or None, arguments)
            self._calls[place] = self._calls[None] = index, said.id or None
        elif arguments:
            self._batch.arguments(known[0], arguments)

    def _finish(self, said: str | None, usage: _Usage | None) -> None:
        reason: FinishReason | None = None
        if said:
            failure = _FAILURES.get(said.lower())
            if failure is not None:
                self.trouble = ProviderError(failure[0], f"{self._name} {failure[1]}")
                return
            reason = FINISH_REASONS.get(said.lower())
            if reason is None:
                reason = "stop"
                self._warnings += (f"finish reason {said[:60]!r} is unknown and taken as stop",)
        if self._batch.calls and reason in ("stop", None):
            reason = "tool_calls"
        self.finished = self.ended = True
        self._batch.finish(Finish(reason, _usage(usage), self._warnings))


def _usage(said: _Usage | None) -> Usage | None:
    counts = None if said is None else said.tokens or said.billed_units
    if said is None or counts is None:
        return None
    given, made = int(counts.input_tokens or 0), int(counts.output_tokens or 0)
    cached = None if said.cached_tokens is None else int(said.cached_tokens)
    return Usage(given, made, given + made, "provider", None, cached)
