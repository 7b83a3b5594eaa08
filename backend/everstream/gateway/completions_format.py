"""OpenAI's chat completions: what is answered, in one piece or in chunks.

What this API has no word for (a seam, a first token's time) is left out.  An answer that broke off ends with an
`error` event, as OpenAI's own do, which its packages raise; one that somebody stopped ends as if it were whole.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everstream.core.cursor import Run
from everstream.core.errors import FAULTS, EverstreamError
from everstream.core.events import (
    DeltaRefusal,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    RequestStart,
    StreamEnd,
    Usage,
)
from everstream.core.log import Log
from everstream.core.summary import Summary
from everstream.gateway.outcome import failure_of
from everstream.gateway.sse import event

DONE = b"[DONE]"
# platform.openai.com/docs/guides/error-codes: `type` by status.
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


def openai_error(error: EverstreamError) -> dict[str, Any]:
    """An error as OpenAI's bodies have it; `code` is the protocol's."""
    kind = _KINDS.get(FAULTS[error.code].http_status, "server_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


def finish_of(over: StreamEnd, calls: bool) -> str:
    if over.reason == "budget":
        return "length"
    return over.finish_reason or ("tool_calls" if calls else "stop")


def usage_of(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens or 0},
    }


def whole(log: Log, over: StreamEnd, model: str, created_s: int) -> dict[str, Any]:
    """The answer in one piece, of a log that came to a good end."""
    total = log.total()
    message: dict[str, Any] = {"role": "assistant", "content": total.text or None, "refusal": total.refusal or None}
    if total.thinking:
        message["reasoning_content"] = total.thinking
    if total.tool_calls:
        message["tool_calls"] = _calls(total)
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_of(over, bool(total.tool_calls)),
    }
    return {
        "id": f"chatcmpl-{log.stream}",
        "object": "chat.completion",
        "created": created_s,
        "model": model,
        "choices": [choice],
        "usage": usage_of(over.usage),
    }


def _calls(total: Summary) -> list[dict[str, Any]]:
    return [
        {
            "id": call.call_id or f"call_{call.index}",
            "type": "function",
            "function": {"name": call.name or "", "arguments": call.arguments},
        }
        for call in total.tool_calls
    ]


class CompletionChunks:
    """The chunks of one stream.  They follow from its entries alone, so a reader that comes back gets the same.

    A delta with a `role` begins the message.  The `id` of the last chunks is that of the place before the end, until
    `[DONE]` has been said: who loses the connection among them is told all of them again.
    """

    def __init__(self, stream: str, model: str, created_s: int, *, include_usage: bool) -> None:
        self._base = {
            "id": f"chatcmpl-{stream}",
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": model,
        }
        self._include_usage = include_usage

    def entry(self, stream: str, run: Run) -> bytes:
        said = run.event
        if isinstance(said, DeltaText):
            return self._chunk({"content": said.text}, run.upto)
        if isinstance(said, DeltaThinking):  # as DeepSeek's API names it, and those after it
            return self._chunk({"reasoning_content": said.text}, run.upto)
        if isinstance(said, DeltaToolCall):
            return self._chunk({"tool_calls": [_call_piece(said)]}, run.upto)
        if isinstance(said, DeltaRefusal):
            return self._chunk({"refusal": said.text}, run.upto)
        if isinstance(said, RequestStart):
            return self._chunk({"role": "assistant", "content": ""}, run.upto)
        if isinstance(said, StreamEnd):
            return self._end(said, False, run.after, run.upto)
        return b""

    def snapshot(self, log: Log) -> bytes:
        """All of it at once; its `role` says that the message begins anew."""
        total = log.total()
        delta: dict[str, Any] = {"role": "assistant", "content": total.text}
        if total.refusal:
            delta["refusal"] = total.refusal
        if total.thinking:
            delta["reasoning_content"] = total.thinking
        if total.tool_calls:
            told = zip(total.tool_calls, _calls(total), strict=True)
            delta["tool_calls"] = [{"index": call.index, **shown} for call, shown in told]
        if total.end is None:
            return self._chunk(delta, log.committed)
        before = log.committed - 1
        return self._chunk(delta, before) + self._end(total.end, bool(total.tool_calls), before, log.committed)

    def _end(self, over: StreamEnd, calls: bool, after: int, upto: int) -> bytes:
        failed = failure_of(over)
        if failed is not None:
            return event(msgspec.json.encode(openai_error(failed)), upto)
        said = self._chunk({}, after, finish_of(over, calls))
        if self._include_usage:
            chunk = {**self._base, "choices": [], "usage": usage_of(over.usage)}
            said += event(msgspec.json.encode(chunk), after)
        return said + event(DONE, upto)

    def _chunk(self, delta: dict[str, Any], offset: int, finish: str | None = None) -> bytes:
        chunk: dict[str, Any] = {
            **self._base,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        }
        if self._include_usage:
            chunk["usage"] = None
        return event(msgspec.json.encode(chunk), offset)


def _call_piece(said: DeltaToolCall) -> dict[str, Any]:
    piece: dict[str, Any] = {"index": said.index}
    if said.call_id or said.name:
        piece |= {"id": said.call_id or f"call_{said.index}", "type": "function"}
    function: dict[str, Any] = {"arguments": said.arguments}
    if said.name:
        function["name"] = said.name
    return piece | {"function": function}
