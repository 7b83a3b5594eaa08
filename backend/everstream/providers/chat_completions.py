"""The dialect of OpenAI's chat completions, which most of the world speaks, each with an accent: the answers.

`ChatFold` reads the chunks of one streamed answer; `chat_request.py` writes what is asked.

What the accents taught, each of it a test on recorded wires:

* Thinking comes as `reasoning_content` or `reasoning`, or only in `reasoning_details` (OpenRouter), or as parts in
  `content` (Mistral).  Where two of them carry the same text the first in that order is taken.
* Tool calls: `index` may be missing (then a new id is a new call), id and name may be repeated in every piece, a
  call may come whole, arguments may be null or an object, and one index may be used for several calls.
* `choices` may be empty, usage may come alone at the end, in every chunk (cumulative), or under `x_groq`.
* A chunk may carry `error`, even after a finish reason, even before `[DONE]`.
* An answer is whole when there was a finish reason, or `[DONE]` (Snowflake and TGI give no reason).  Everything else
  is a cut, whatever the HTTP framing says.
* Of several choices only the first is shown.
* Token ids (vLLM) come beside the text, those of the prompt first.  They become marks: `PROMPT_ENDS` parts the two.

`stop` becomes `tool_calls` when a tool was called: Ollama, and OpenAI with a forced tool, say `stop` there.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from everstream.core.events import CONTENT, Counted, DeltaText, Finish, FinishReason, Mark, Usage
from everstream.providers.base import ProviderError, ProviderEvent
from everstream.providers.batching import Batcher
from everstream.providers.http_errors import garbage, stream_error
from everstream.providers.sse import JsonEvents


class _Struct(msgspec.Struct, gc=False):
    pass


class _Piece(_Struct):
    """A part of Mistral's `content`, or of `reasoning_details`."""

    type: str = ""
    text: str | None = None
    summary: str | None = None
    thinking: list[Any] | str | None = None


class _Function(_Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolPiece(_Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(_Struct):
    content: str | list[_Piece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[_Piece] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolPiece] | _ToolPiece | None = None
    function_call: _Function | None = None


class _Choice(_Struct):
    index: int | None = 0
    delta: _Delta | None = None
    message: _Delta | None = None  # a server that does not stream answers so
    finish_reason: str | None = None
    text: str | None = None  # of a plain completion
    token_ids: list[int] | None = None


class _Details(_Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(_Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None
    cached_tokens: int | None = None


class _Groq(_Struct):
    usage: _Usage | None = None


class _Chunk(_Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    x_groq: _Groq | None = None
    prompt_token_ids: list[int] | None = None


_DECODER = msgspec.json.Decoder(_Chunk)
_decode = _DECODER.decode

PROMPT_ENDS = -1  # no token id

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    "safety": "content_filter",
}
_FAILURES: dict[str, tuple[str, str]] = {
    "error": ("provider.unknown", "failed while it answered"),
    "abort": ("provider.connection", "aborted the answer"),
    "network_error": ("provider.connection", "lost its own connection while it answered"),
    "insufficient_system_resource": ("provider.overloaded", "ran out of resources while it answered"),
}


class _Call:
    """A tool call in progress: what the provider called it, and what it is here."""

    __slots__ = ("call_id", "index", "name", "pieces")

    def __init__(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        self.index = index
        self.call_id = call_id
        self.name = name
        self.pieces = [arguments]

    def is_whole(self) -> bool:
        try:
            json.loads("".join(self.pieces))
        except ValueError:
            return False
        return True


class ChatFold:
    """One streamed chat completion, or plain completion: bytes to events.  A `http_answer.Fold`.

    `tokens`: say the ids of the tokens where the server tells them, after this number.  `plain`: it is a plain
    completion, of a prompt whose ids are known.
    """

    def __init__(
        self, name: str, warnings: tuple[str, ...] = (), *, tokens: int | None = None, plain: bool = False
    ) -> None:
        self._ids: list[int] | None = None if tokens is None else []  # of what is not shown yet
        self._head = tokens
        self._knows_prompt = self._plain = plain
        self.finished = False
        self.ended = False
        self.trouble: ProviderError | None = None
        self._name = name
        self._warnings = warnings
        self._events = JsonEvents(_DECODER)
        self._batch = Batcher()
        self._at_rest = True  # nothing half read, nothing taken in and not given out
        self._calls: dict[int | str, _Call] = {}  # by the provider's index, or by id where it has none
        self._last_call: _Call | None = None
        self._usage: _Usage | None = None
        self._usage_told = False
        self._counted: _Usage | None = None  # what was told of it before the end
        self._reason: str | None = None

    def feed(self, data: bytes) -> list[ProviderEvent]:
        # A whole event that came alone, as nearly all of a paced model do.
        if (
            self._at_rest
            and self._ids is None
            and data[:7] == b"data: {"
            and data[-3:] == b"}\n\n"
            and data.find(b"\n") == len(data) - 2
        ):
            text = _only_text(data)
            if text:
                self._batch.shown = True
                return [DeltaText(text)]
        events = self._fold(self._events.feed(data))
        if self._usage is not self._counted:
            self._counted = self._usage
            if self._usage is not None and not self.finished:
                events.append(Counted(_usage(self._usage)))
        if self._ids and any(isinstance(event, CONTENT) for event in events):
            events.append(Mark(tokens=tuple(self._ids)))
            self._ids.clear()
        self._at_rest = self._events.at_rest and self._batch.at_rest
        return events

    def end(self) -> list[ProviderEvent]:
        events = self._fold(self._events.end())
        if self.finished and not self.ended and self.trouble is None:
            self._tell_usage()
            events += self._batch.take()
        return events

    def _fold(self, chunks: list[_Chunk]) -> list[ProviderEvent]:
        for chunk in chunks:
            if self._ids is not None and chunk.prompt_token_ids and not self._knows_prompt:
                self._knows_prompt = True
                self._ids += [self._head or 0, *chunk.prompt_token_ids, PROMPT_ENDS]
            if chunk.choices:
                for choice in chunk.choices:
                    if not choice.index:
                        self._choice(choice)
            if chunk.usage is not None or chunk.x_groq is not None:
                self._note_usage(chunk)
            if chunk.error:
                self.trouble = stream_error(self._name, chunk.error)
            if self.trouble is not None:
                return self._batch.take()
        if self._events.done:
            self._done()
        elif self._events.trouble is not None:
            self.trouble = garbage(self._name, self._events.trouble)
        return self._batch.take()

    def _choice(self, choice: _Choice) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            batch = self._batch
            thinking = delta.reasoning_content or delta.reasoning
            if thinking:
                batch.thinking(thinking)
            elif delta.reasoning_details:
                for detail in delta.reasoning_details:
                    if detail.text or detail.summary:
                        batch.thinking(detail.text or detail.summary or "")
            content = delta.content
            if content:
                if type(content) is str:
                    batch.text(content)
                else:
                    self._parts(content)
            if delta.refusal:
                batch.refusal(delta.refusal)
            if delta.tool_calls:
                pieces = delta.tool_calls if isinstance(delta.tool_calls, list) else [delta.tool_calls]
                for piece in pieces:
                    self._tool(piece)
            if delta.function_call is not None:
                self._tool(_ToolPiece(index=-1, function=delta.function_call))
        if self._plain and choice.text:  # Together tells it in a chat too, beside the delta
            self._batch.text(choice.text)
        if self._ids is not None and choice.token_ids and self._knows_prompt:
            self._ids += choice.token_ids
        if choice.finish_reason and choice.finish_reason != self._reason:
            self._finish(choice.finish_reason)

    def _parts(self, content: Any) -> None:
        for part in content:
            if part.type == "thinking" and part.thinking:
                pieces = [part.thinking] if isinstance(part.thinking, str) else part.thinking
                for piece in pieces:
                    text = piece.get("text") if isinstance(piece, dict) else piece
                    if isinstance(text, str) and text:
                        self._batch.thinking(text)
            elif part.text:
                self._batch.text(part.text)

    def _tool(self, piece: _ToolPiece) -> None:
        function = piece.function or _Function()
        arguments = function.arguments or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        key: int | str | None = piece.index if piece.index is not None else piece.id or None
        call = self._last_call if key is None else self._calls.get(key)
        if call is None or self._is_another(call, piece.id, function.name):
            index = self._batch.new_call(piece.id or None, function.name or None, arguments)
            call = _Call(index, piece.id or None, function.name or None, arguments)
            self._calls[index if key is None else key] = call
        else:
            new_id = piece.id if piece.id and call.call_id is None else None
            new_name = function.name if function.name and call.name is None else None
            if arguments or new_id or new_name:
                self._batch.arguments(call.index, arguments, new_id, new_name)
                call.call_id = call.call_id or new_id
                call.name = call.name or new_name
                call.pieces.append(arguments)
        self._last_call = call

    @staticmethod
    def _is_another(call: _Call, call_id: str | None, name: str | None) -> bool:
        """Whether a piece under a known index begins another call.

        Some servers count no index up; others make up a new id for every piece.  So it takes a new id and a name,
        after a call that is already complete.
        """
        return bool(call_id and name and call.call_id and call_id != call.call_id and call.is_whole())

    def _finish(self, said: str) -> None:
        self._reason = said
        failure = _FAILURES.get(said)
        if failure is not None:
            self.trouble = ProviderError(failure[0], f"{self._name} {failure[1]}")
            return
        reason = FINISH_REASONS.get(said.lower())
        if reason is None:
            reason = "stop"
            self._warnings += (f"finish reason {said[:60]!r} is unknown and taken as stop",)
        if reason == "stop" and self._batch.calls:
            reason = "tool_calls"
        self.finished = True
        self._tell(reason)

    def _note_usage(self, chunk: _Chunk) -> None:
        usage = chunk.usage or (chunk.x_groq.usage if chunk.x_groq is not None else None)
        if usage is not None and usage != self._usage:
            self._usage = usage
            self._usage_told = False
            if self.finished:
                self._tell_usage()

    def _tell_usage(self) -> None:
        if self._usage is not None and not self._usage_told:
            self._tell(None)

    def _tell(self, reason: FinishReason | None) -> None:
        usage = None
        if self._usage is not None and not self._usage_told:
            usage = _usage(self._usage)
            self._usage_told = True
        self._batch.finish(Finish(reason, usage, self._warnings))
        self._warnings = ()

    def _done(self) -> None:
        self.ended = True
        if self.finished:
            self._tell_usage()
        else:
            self.finished = True
            self._tell("tool_calls" if self._batch.calls else None)


def _only_text(event: bytes) -> str | None:
    """The text of an event that says nothing else."""
    try:
        chunk = _decode(event[6:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    choices = chunk.choices
    if not choices or len(choices) > 1 or chunk.usage is not None or chunk.error or chunk.x_groq is not None:
        return None
    choice = choices[0]
    delta = choice.delta
    if delta is None or choice.index or choice.finish_reason or delta.refusal or delta.tool_calls:
        return None
    if delta.reasoning_content or delta.reasoning or delta.reasoning_details or delta.function_call is not None:
        return None
    return delta.content if type(delta.content) is str else None


def _usage(said: _Usage) -> Usage:
    prompt, completion = said.prompt_tokens or 0, said.completion_tokens or 0
    details = said.completion_tokens_details
    thinking = details.reasoning_tokens if details is not None else None
    if thinking and said.total_tokens == prompt + completion + thinking:
        completion += thinking  # xAI counts thinking beside the answer, everybody else inside
    cached = said.prompt_tokens_details.cached_tokens if said.prompt_tokens_details is not None else None
    if cached is None:
        cached = said.prompt_cache_hit_tokens if said.prompt_cache_hit_tokens is not None else said.cached_tokens
    total = said.total_tokens if said.total_tokens is not None else prompt + completion
    return Usage(prompt, completion, total, "provider", thinking, cached)
