"""The dialect of Anthropic's Messages API: the answers.

`MessagesFold` reads the events of one streamed message; `messages_request.py` writes what is asked.

A message is a list of numbered blocks: `content_block_start`, deltas, `content_block_stop`.  Text, thinking and
`tool_use` are shown.  What the provider keeps for itself is not: redacted thinking, signatures, citations,
compaction, and the tools that it runs on its own machines (`server_tool_use`, `mcp_tool_use` and their results).

* A `tool_use` block may be complete at its start, even inside `message_start` (programmatic tool calling).  Its
  `input` counts when no piece of JSON followed until the block's end.
* `usage` in `message_delta` is cumulative: what it names replaces what `message_start` said, the rest stays.  Tokens
  that went into or came out of the prompt cache are input too.
* The message ends with `message_stop`.  The finish reason comes before it, in `message_delta`; a connection that
  breaks in between has lost nothing.
* A second `message_start` after content means that a proxy asked again and glued the answers together.  Going on would
  show text twice, so it is a broken connection; before any content it changes nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everstream.core.events import Counted, Finish, FinishReason, Usage
from everstream.providers.base import ProviderError, ProviderEvent
from everstream.providers.batching import Batcher
from everstream.providers.http_errors import garbage, stream_error
from everstream.providers.sse import JsonEvents


class _Struct(msgspec.Struct, gc=False):
    pass


class _OutputDetails(_Struct):
    thinking_tokens: int | None = None


class _Usage(_Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None


class _Block(_Struct):
    type: str = ""
    text: Any = None
    thinking: Any = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Message(_Struct):
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _StopDetails(_Struct):
    category: str | None = None


class _Delta(_Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: _StopDetails | None = None


class _Event(_Struct):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | str | None = None
    usage: _Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Event)

FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class _OpenCall:
    __slots__ = ("filled", "index", "input")

    def __init__(self, index: int, given: Any) -> None:
        self.index = index
        self.input = given
        self.filled = False


class MessagesFold:
    """One streamed message: bytes to events.  A `http_answer.Fold`."""

    def __init__(self, name: str, warnings: tuple[str, ...] = ()) -> None:
        self.finished = False
        self.ended = False
        self.trouble: ProviderError | None = None
        self._name = name
        self._warnings = warnings
        self._events = JsonEvents(_DECODER)
        self._batch = Batcher()
        self._open: dict[int, _OpenCall] = {}  # tool_use blocks between start and stop
        self._usage = _Usage()
        self._counts = False  # it has changed

    def feed(self, data: bytes) -> list[ProviderEvent]:
        events = self._fold(self._events.feed(data))
        if self._counts:  # the answer may be stopped before it is told again
            self._counts = False
            usage = _usage(self._usage)
            if usage is not None and not self.finished:
                events.append(Counted(usage))
        return events

    def end(self) -> list[ProviderEvent]:
        return self._fold(self._events.end())

    def _fold(self, events: list[_Event]) -> list[ProviderEvent]:
        for event in events:
            kind = event.type
            if kind == "content_block_delta":
                delta = event.delta
                if delta is None:
                    continue
                if delta.text:
                    self._batch.text(delta.text)
                elif delta.thinking:
                    self._batch.thinking(delta.thinking)
                elif delta.partial_json:
                    call = self._open.get(event.index)
                    if call is not None:
                        call.filled = True
                        self._batch.arguments(call.index, delta.partial_json)
            else:
                handle = _HANDLERS.get(kind)
                if handle is not None:
                    handle(self, event)
                elif not kind and event.error:
                    self._error(event)
                if self.ended or self.trouble is not None:
                    return self._batch.take()
        if self._events.trouble is not None:
            self.trouble = garbage(self._name, self._events.trouble)
        return self._batch.take()

    def _message_start(self, event: _Event) -> None:
        if self._batch.shown:
            self.trouble = ProviderError("provider.connection", f"{self._name} began its answer again in the middle")
            return
        message = event.message
        if not isinstance(message, _Message):
            return
        self._note_usage(message.usage)
        for place, block in enumerate(message.content or ()):
            self._start(place, block)
            self._stop(place)
        if message.stop_reason:
            self._finish(message.stop_reason, None)

    def _block_start(self, event: _Event) -> None:
        if event.content_block is not None:
            self._start(event.index, event.content_block)

    def _start(self, place: int, block: _Block) -> None:
        if block.type == "text":
            if isinstance(block.text, str) and block.text:
                self._batch.text(block.text)
        elif block.type == "thinking":
            if isinstance(block.thinking, str) and block.thinking:
                self._batch.thinking(block.thinking)
        elif block.type == "tool_use":
            self._open[place] = _OpenCall(self._batch.new_call(block.id, block.name), block.input)

    def _block_stop(self, event: _Event) -> None:
        self._stop(event.index)

    def _stop(self, place: int) -> None:
        call = self._open.pop(place, None)
        if call is not None and not call.filled:
            given = call.input if call.input is not None else {}
            self._batch.arguments(call.index, msgspec.json.encode(given).decode())

    def _message_delta(self, event: _Event) -> None:
        self._note_usage(event.usage)
        delta = event.delta
        if delta is not None and delta.stop_reason:
            self._finish(delta.stop_reason, delta.stop_details)

    def _message_stop(self, event: _Event) -> None:
        self.ended = True
        if not self.finished:
            self.finished = True
            self._batch.finish(Finish(None, _usage(self._usage), self._warnings))

    def _finish(self, said: str, details: _StopDetails | None) -> None:
        for place in list(self._open):
            self._stop(place)
        reason = FINISH_REASONS.get(said)
        warnings = self._warnings
        if reason is None:
            reason = "stop"
            warnings += (f"stop reason {said[:60]!r} is unknown and taken as stop",)
        elif said == "pause_turn":
            warnings += ("the provider paused a long turn; send the answer back to have it go on",)
        elif said == "refusal":
            category = details.category if details is not None else None
            warnings += (f"the provider refused to go on ({category or 'no category given'})",)
        self._warnings = ()
        self.finished = True
        self._batch.finish(Finish(reason, _usage(self._usage), warnings))

    def _note_usage(self, said: _Usage | None) -> None:
        if said is not None:
            self._counts = True
            for field in _Usage.__struct_fields__:
                value = getattr(said, field)
                if value is not None:
                    setattr(self._usage, field, value)

    def _error(self, event: _Event) -> None:
        self.trouble = stream_error(self._name, event.error or event.message or "the stream failed")


_HANDLERS = {
    "message_start": MessagesFold._message_start,
    "content_block_start": MessagesFold._block_start,
    "content_block_stop": MessagesFold._block_stop,
    "message_delta": MessagesFold._message_delta,
    "message_stop": MessagesFold._message_stop,
    "error": MessagesFold._error,
}


def _usage(said: _Usage) -> Usage | None:
    if said.input_tokens is None and said.output_tokens is None:
        return None
    cached = said.cache_read_input_tokens
    given = (said.input_tokens or 0) + (cached or 0) + (said.cache_creation_input_tokens or 0)
    made = said.output_tokens or 0
    thinking = said.output_tokens_details.thinking_tokens if said.output_tokens_details is not None else None
    return Usage(given, made, given + made, "provider", thinking, cached)
