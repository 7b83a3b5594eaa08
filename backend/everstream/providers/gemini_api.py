"""The dialect of Gemini's generateContent: the answers.

`GenerateFold` reads the chunks of one `:streamGenerateContent?alt=sse`; `gemini_request.py` writes what is asked.

A chunk is a whole small answer: the first candidate's parts are the next piece of it.  Text is shown, thoughts as
thinking, and function calls, which come whole, or (Gemini 3 on Vertex) opened, filled by values at JSON paths
(`gemini_arguments`) and closed by a call without `willContinue`, by the next one or by the end.  A call without an id
gets one made of the answer's.  What the provider runs on its own machines (code, searches, `toolCall`) is not shown;
pictures and files in an answer cannot be, and a warning says so.

* There is no terminal event.  An answer is whole once it has a `finishReason`, but some models put one in every
  chunk, so the body is read to its end all the same.
* A prompt that is refused has no candidate, only a `promptFeedback` with the reason.
* A `thoughtSignature` with a function call has to come back with it (Gemini 3): `keep` is told of it.
* `usageMetadata` is cumulative and in most chunks.  Thoughts are not part of `candidatesTokenCount`, and what the
  provider's own tools were given is not part of `promptTokenCount`.
* Where the SDK would ask again by itself (`CONTINUATION`), nothing is asked here: the answer was cut for its length.

Errors are `google.rpc.Status` objects (cloud.google.com/apis/design/errors), by status, in the stream, or behind it
as plain JSON.  `google_error` puts right what its words say more exactly than its status.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from everstream.core.events import Counted, Finish, FinishReason, Usage
from everstream.providers.base import ProviderError, ProviderEvent
from everstream.providers.batching import Batcher
from everstream.providers.gemini_arguments import Arguments
from everstream.providers.http_errors import garbage, redact, stream_error
from everstream.providers.sse import JsonEvents


class _Struct(msgspec.Struct, gc=False, rename="camel"):
    pass


class _Partial(_Struct):
    json_path: str | None = None
    string_value: str | None = None
    number_value: float | int | None = None
    bool_value: bool | None = None
    will_continue: bool | None = None

    @property
    def value(self) -> Any:
        for said in (self.string_value, self.number_value, self.bool_value):
            if said is not None:
                return said
        return None


class _Call(_Struct):
    name: str | None = None
    id: str | None = None
    args: Any = None
    partial_args: list[_Partial | None] | None = None
    will_continue: bool | None = None


class _File(_Struct):
    mime_type: str | None = None


class _Part(_Struct):
    text: str | None = None
    thought: Any = None
    function_call: _Call | None = None
    thought_signature: str | None = None
    inline_data: _File | None = None
    file_data: _File | None = None


class _Content(_Struct):
    parts: list[_Part | None] | None = None


class _Candidate(_Struct):
    content: _Content | None = None
    finish_reason: Any = None
    finish_message: str | None = None
    index: int | None = None


class _Feedback(_Struct):
    block_reason: Any = None
    block_reason_message: str | None = None


class _Usage(_Struct):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None
    total_token_count: int | None = None


class _Chunk(_Struct):
    candidates: list[_Candidate | None] | None = None
    usage_metadata: _Usage | None = None
    prompt_feedback: _Feedback | None = None
    response_id: str | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Chunk)

FINISH_REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}
_PLAIN = ("STOP", "MAX_TOKENS")  # which need no warning

Keep = Callable[[str, str], None]  # is told a call's id and its signature


class GenerateFold:
    """One streamed answer: bytes to events.  A `http_answer.Fold`."""

    def __init__(self, name: str, warnings: tuple[str, ...] = (), keep: Keep = lambda call, signature: None) -> None:
        self.finished = False
        self.ended = False
        self.trouble: ProviderError | None = None
        self._name = name
        self._warnings = warnings  # not yet told
        self._warned: set[str] = set()  # of reasons; bounded by the table, for unknown ones count as one
        self._keep = keep
        self._events = JsonEvents(_DECODER)
        self._batch = Batcher()
        self._open: tuple[int, Arguments] | None = None  # the call that will go on
        self._answer_id = ""
        self._usage: Usage | None = None
        self._told: tuple[FinishReason, Usage | None] | None = None

    def feed(self, data: bytes) -> list[ProviderEvent]:
        return self._fold(self._events.feed(data))

    def end(self) -> list[ProviderEvent]:
        return self._fold(self._events.end())

    def _fold(self, chunks: list[_Chunk]) -> list[ProviderEvent]:
        before = self._usage
        for chunk in chunks:
            self._take(chunk)
            if self.trouble is not None:
                break
        if self._events.trouble is not None and self.trouble is None:
            self.trouble = garbage(self._name, self._events.trouble)
        batch = self._batch.take()
        if not self.finished and self._usage is not None and self._usage != before:
            batch.append(Counted(self._usage))
        return batch

    def _take(self, chunk: _Chunk) -> None:
        if chunk.error:
            self.trouble = error_in_stream(self._name, chunk.error)
            return
        if chunk.response_id and not self._answer_id:
            self._answer_id = chunk.response_id
        if chunk.usage_metadata is not None:
            self._usage = _usage(chunk.usage_metadata) or self._usage
        shown = next((one for one in chunk.candidates or () if one is not None and not one.index), None)
        if shown is not None:
            for part in shown.content.parts or () if shown.content is not None else ():
                if part is not None:
                    self._part(part)
            if shown.finish_reason:
                self._finish(str(shown.finish_reason), shown.finish_message)
        elif chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason:
            blocked = chunk.prompt_feedback
            self._warn(
                "blocked", f"the prompt was refused ({_told(blocked.block_reason, blocked.block_reason_message)})"
            )
            self._end("content_filter")
        elif self._told is not None:
            self._end(self._told[0])  # the usage may have come late

    def _part(self, part: _Part) -> None:
        if part.text:
            if part.thought:
                self._batch.thinking(part.text)
            else:
                self._batch.text(part.text)
        if part.function_call is not None:
            self._call(part.function_call, part.thought_signature)
        for file in (part.inline_data, part.file_data):
            if file is not None:
                kind = (file.mime_type or "a file")[:40]
                self._warn(kind, f"the answer holds {kind}, which cannot be shown here")

    def _call(self, call: _Call, signature: str | None) -> None:
        if call.name:
            self._close_call()
            number = self._batch.calls
            self._answer_id = self._answer_id or secrets.token_hex(8)
            call_id = call.id or f"{self._answer_id}-{number}"
            if signature:
                self._keep(call_id, signature)
            opened = call.will_continue or call.partial_args
            given = "" if opened and not call.args else _json(call.args)
            index = self._batch.new_call(call_id, call.name, given)
            if opened and not given:
                self._open = index, Arguments()
        if self._open is None:
            return
        index, arguments = self._open
        for partial in call.partial_args or ():
            if partial is not None:
                text = arguments.add(partial.json_path or "", partial.value, bool(partial.will_continue))
                if text:
                    self._batch.arguments(index, text)
        if not call.will_continue:
            self._close_call()

    def _close_call(self) -> None:
        if self._open is not None:
            index, arguments = self._open
            self._open = None
            self._batch.arguments(index, arguments.close())

    def _finish(self, said: str, message: str | None) -> None:
        self._close_call()
        reason = FINISH_REASONS.get(said)
        if said == "CONTINUATION":
            self._warn(said, "the provider cut a long answer; send it back to have it go on")
        elif reason is None:
            self._warn("other", f"finish reason {_told(said, message)!r} is taken as stop")
        elif said not in _PLAIN:
            self._warn(said, f"the provider stopped the answer ({_told(said, message)})")
        self._end("tool_calls" if self._batch.calls and said == "STOP" else reason or "stop")

    def _end(self, reason: FinishReason) -> None:
        self.finished = True
        if self._told != (reason, self._usage) or self._warnings:
            self._told = (reason, self._usage)
            self._batch.finish(Finish(reason, self._usage, self._warnings))
            self._warnings = ()

    def _warn(self, about: str, warning: str) -> None:
        if about not in self._warned and len(self._warned) < len(FINISH_REASONS):
            self._warned.add(about)
            self._warnings += (warning,)


def _told(reason: Any, message: str | None) -> str:
    return f"{reason}: {message}"[:200] if message else str(reason)[:60]


def _json(args: Any) -> str:
    return msgspec.json.encode(args if args is not None else {}).decode()


def _usage(said: _Usage) -> Usage | None:
    told = (said.prompt_token_count, said.candidates_token_count, said.thoughts_token_count, said.total_token_count)
    if all(count is None for count in told):
        return None
    given = (said.prompt_token_count or 0) + (said.tool_use_prompt_token_count or 0)
    made = (said.candidates_token_count or 0) + (said.thoughts_token_count or 0)
    total = said.total_token_count if said.total_token_count is not None else given + made
    return Usage(given, made, total, "provider", said.thoughts_token_count, said.cached_content_token_count)


# --------------------------------------------------------------------------- errors

# google.rpc.Code: by number and by name, as an HTTP status (google/rpc/code.proto).
_STATUSES: dict[int | str, int] = {
    status: http
    for number, name, http in (
        (1, "cancelled", 499),
        (2, "unknown", 500),
        (3, "invalid_argument", 400),
        (4, "deadline_exceeded", 504),
        (5, "not_found", 404),
        (7, "permission_denied", 403),
        (8, "resource_exhausted", 429),
        (9, "failed_precondition", 400),
        (10, "aborted", 409),
        (13, "internal", 500),
        (14, "unavailable", 503),
        (16, "unauthenticated", 401),
    )
    for status in (number, name)
}
_KEY = re.compile(r"(?i)api[ _]?key not valid|api[ _]?key not found|api key expired")
_MODEL = re.compile(r"(?i)\bmodels/[\w.-]+ is not (?:found|supported)|model .{0,160}not found")
_WAIT = re.compile(r"(?i)retry in ([\d.]+)(ms|s)\b")


def error_in_stream(name: str, error: Any) -> ProviderError:
    """What an error object inside a stream means.  One that the provider cancelled is like one that it lost."""
    if isinstance(error, dict):
        for key in ("code", "status"):
            said = error.get(key)
            said = said.rpartition("/")[2].lower() if isinstance(said, str) else said
            status = _STATUSES.get(said, said) if isinstance(said, str | int) else 0
            if status == 499:
                return ProviderError("provider.connection", redact(str(error.get("message") or f"{name} cancelled it")))
            if isinstance(status, int) and status >= 400:
                error = {**error, "status_code": status}
                break
    return google_error(stream_error(name, error))


def google_error(error: ProviderError) -> ProviderError:
    """The same failure with a better code, where Google's words are known to mean one.

    A spent quota is nearly always one per minute; where it says when to ask again, asking again helps.
    """
    code, message = error.code, error.message
    if _KEY.search(message):
        return ProviderError("provider.auth", message)
    if code == "provider.invalid" and _MODEL.search(message):
        return ProviderError("model.unknown", message)
    wait = _WAIT.search(message)
    if code == "provider.rate_limit" and wait is not None:
        wait_ms = int(float(wait[1]) * (1 if wait[2].lower() == "ms" else 1000))
        return ProviderError(code, message, retryable=True, retry_after_ms=error.retry_after_ms or wait_ms)
    return error
