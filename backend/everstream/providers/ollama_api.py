"""The dialect of Ollama's own API: the answers, a line of JSON each.

`OllamaFold` reads the lines of one streamed answer of `/api/chat` or of `/api/generate`, which differ only in where
the text is: in `message.content`, or in `response`.  `ollama_request.py` writes what is asked.

* Text, thinking and calls may stand in one line, the last one too; they are taken in the order thinking, text, calls.
* A tool call comes whole, with its arguments as an object.  `index` may be missing or the same for all of them, and
  older servers give no id: each call that comes is another one.
* `{"error": …}` may come in any line, for the status is long sent.
* The answer is whole with `"done": true` and not before, whatever the HTTP framing says.
* Both counts may be missing: of a prompt that was in the cache older servers count nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everstream.core.events import DeltaText, Finish, FinishReason, Usage
from everstream.providers.base import ProviderError, ProviderEvent
from everstream.providers.batching import Batcher
from everstream.providers.http_errors import garbage, stream_error
from everstream.providers.sse import JsonEvents


class _Struct(msgspec.Struct, gc=False):
    pass


class _Function(_Struct):
    name: str | None = None
    arguments: Any = None


class _Call(_Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(_Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Line(_Struct):
    message: _Message | None = None
    response: str | None = None  # the text, from /api/generate
    thinking: str | None = None
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: float | None = None
    eval_count: float | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Line)
_decode = _DECODER.decode

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "load": "stop",  # asked without a word: the model was only loaded
    "unload": "stop",
    "length": "length",
    "limit": "length",
    "tool_calls": "tool_calls",
}


class OllamaFold:
    """One streamed answer: bytes to events.  A `http_answer.Fold`."""

    def __init__(self, name: str, warnings: tuple[str, ...] = ()) -> None:
        self.finished = False
        self.ended = False
        self.trouble: ProviderError | None = None
        self._name = name
        self._warnings = warnings
        self._events = JsonEvents(_DECODER, lines=True)
        self._batch = Batcher()

    def feed(self, data: bytes) -> list[ProviderEvent]:
        # A whole line that came alone, as nearly all of a paced model do.
        if data[:1] == b"{" and data[-2:] == b"}\n" and self._events.at_rest and data.find(b"\n") == len(data) - 1:
            text = _only_text(data)
            if text:
                self._batch.shown = True
                return [DeltaText(text)]
        return self._fold(self._events.feed(data))

    def end(self) -> list[ProviderEvent]:
        return self._fold(self._events.end())

    def _fold(self, lines: list[_Line]) -> list[ProviderEvent]:
        for line in lines:
            self._take(line)
            if self.ended or self.trouble is not None:
                return self._batch.take()
        if self._events.trouble is not None:
            self.trouble = garbage(self._name, self._events.trouble)
        return self._batch.take()

    def _take(self, line: _Line) -> None:
        batch, message = self._batch, line.message
        thinking = line.thinking if message is None else message.thinking
        if thinking:
            batch.thinking(thinking)
        text = line.response if message is None else message.content
        if text:
            batch.text(text)
        if message is not None:
            for call in message.tool_calls or ():
                function = call.function or _Function()
                batch.new_call(call.id or None, function.name or None, _arguments(function.arguments))
        if line.error:
            self.trouble = stream_error(self._name, line.error)
        elif line.done:
            self._finish(line)

    def _finish(self, line: _Line) -> None:
        reason: FinishReason | None = None
        said = line.done_reason
        if said:
            reason = FINISH_REASONS.get(said)
            if reason is None:
                reason = "stop"
                self._warnings += (f"finish reason {said[:60]!r} is unknown and taken as stop",)
        if self._batch.calls and reason in ("stop", None):
            reason = "tool_calls"
        self.finished = self.ended = True
        self._batch.finish(Finish(reason, _usage(line), self._warnings))


def _only_text(data: bytes) -> str | None:
    """The text of a line that says nothing else."""
    try:
        line = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if line.done or line.error or line.thinking:
        return None
    message = line.message
    if message is None:
        return line.response
    return None if message.thinking or message.tool_calls else message.content


def _arguments(given: Any) -> str:
    if isinstance(given, str):
        return given
    return msgspec.json.encode({} if given is None else given).decode()


def _usage(line: _Line) -> Usage | None:
    if line.prompt_eval_count is None and line.eval_count is None:
        return None
    given, made = int(line.prompt_eval_count or 0), int(line.eval_count or 0)
    return Usage(given, made, given + made, "provider")
