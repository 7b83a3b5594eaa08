"""The AI SDK's UI message stream, version 1 (ai-sdk.dev/docs/ai-sdk-ui/stream-protocol): entries as its parts.

    start ▶ start-step ▶ (reasoning | text | tool input)… ▶ finish-step ▶ finish ▶ [DONE]

A part begins with its first piece and ends before the next part's.  Which part is open follows from what came before,
so one of these belongs to one reader, and reads from the start: a client that comes back is sent all of it anew, and
begins its message again at `start`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everstream.core.cursor import Run
from everstream.core.events import (
    DeltaRefusal,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Event,
    RequestStart,
    Seam,
    StreamEnd,
)
from everstream.core.log import Log
from everstream.gateway.sse import event

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
DONE = b"data: [DONE]\n\n"
_FINISHES = {"stop": "stop", "length": "length", "content_filter": "content-filter", "tool_calls": "tool-calls"}


class UiMessageStream:
    """One reader's view of one stream."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._begun = False
        self._open: tuple[str, str] | None = None  # kind and id of the part that is being written
        self._calls: dict[int, list[str]] = {}  # by index: call_id, name, arguments
        self._parts = 0

    def entry(self, stream: str, run: Run) -> bytes:
        chunks = self._chunks(run.event)
        said = b"".join(event(msgspec.json.encode(chunk), run.upto) for chunk in chunks)
        return said + DONE if isinstance(run.event, StreamEnd) else said

    def snapshot(self, log: Log) -> bytes:
        """All of it at once: the client begins its message again at `start`."""
        total = log.total()
        self.__init__(self._stream)  # type: ignore[misc]
        said: list[Event] = [DeltaThinking(total.thinking)] if total.thinking else []
        said += [DeltaText(total.text)] if total.text else []
        said += [DeltaRefusal(total.refusal)] if total.refusal else []
        said += [DeltaToolCall(call.index, call.arguments, call.call_id, call.name) for call in total.tool_calls]
        said += [total.end] if total.end is not None else []
        chunks = [*self._start(), *(chunk for item in said for chunk in self._chunks(item))]
        body = b"".join(event(msgspec.json.encode(chunk), log.committed) for chunk in chunks)
        return body + DONE if total.end is not None else body

    def _start(self) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        metadata = {"stream": self._stream}
        return [{"type": "start", "messageId": self._stream, "messageMetadata": metadata}, {"type": "start-step"}]

    def _chunks(self, said: Event) -> list[dict[str, Any]]:
        if isinstance(said, RequestStart):
            return self._start()
        if isinstance(said, DeltaText | DeltaRefusal):
            return [*self._start(), *self._into("text"), self._piece("text-delta", said.text)]
        if isinstance(said, DeltaThinking):
            return [*self._start(), *self._into("reasoning"), self._piece("reasoning-delta", said.text)]
        if isinstance(said, DeltaToolCall):
            return [*self._start(), *self._close(), *self._call(said)]
        if isinstance(said, Seam) and said.continuation == "restart":
            return self._restart()
        return self._end(said) if isinstance(said, StreamEnd) else []

    def _into(self, kind: str) -> list[dict[str, Any]]:
        """Open a part, where it is not open."""
        if self._open is not None and self._open[0] == kind:
            return []
        closed = self._close()
        self._parts += 1
        self._open = (kind, f"{kind}-{self._parts}")
        return [*closed, {"type": f"{kind}-start", "id": self._open[1]}]

    def _piece(self, kind: str, text: str) -> dict[str, Any]:
        assert self._open is not None, "a piece belongs to a part"
        return {"type": kind, "id": self._open[1], "delta": text}

    def _close(self) -> list[dict[str, Any]]:
        if self._open is None:
            return []
        (kind, name), self._open = self._open, None
        return [{"type": f"{kind}-end", "id": name}]

    def _call(self, said: DeltaToolCall) -> list[dict[str, Any]]:
        chunks: list[dict[str, Any]] = []
        call = self._calls.get(said.index)
        if call is None:
            call = self._calls[said.index] = [said.call_id or f"call_{said.index}", said.name or "", ""]
            chunks.append({"type": "tool-input-start", "toolCallId": call[0], "toolName": call[1], "dynamic": True})
        call[2] += said.arguments
        if said.arguments:
            chunks.append({"type": "tool-input-delta", "toolCallId": call[0], "inputTextDelta": said.arguments})
        return chunks

    def _restart(self) -> list[dict[str, Any]]:
        """What was shown is withdrawn."""
        self._open, self._calls, self._begun = None, {}, False
        return self._start()

    def _end(self, over: StreamEnd) -> list[dict[str, Any]]:
        chunks = [*self._start(), *self._close()]
        for call_id, name, arguments in self._calls.values():
            chunks.append(_input(call_id, name, arguments))
        if over.reason == "cancelled":
            return [*chunks, {"type": "abort", "reason": "stopped"}]
        if over.error is not None or over.reason == "interrupted":
            text = over.error.message if over.error is not None else "the answer broke off"
            return [*chunks, {"type": "error", "errorText": text}]
        finish = "length" if over.reason == "budget" else _FINISHES.get(over.finish_reason or "stop", "other")
        usage = over.usage
        metadata = {
            "stream": self._stream,
            "usage": {
                "inputTokens": usage.input_tokens,
                "outputTokens": usage.output_tokens,
                "totalTokens": usage.total_tokens,
            },
        }
        finished = {"type": "finish", "finishReason": finish, "messageMetadata": metadata}
        return [*chunks, {"type": "finish-step"}, finished]


def _input(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call that is whole."""
    told = {"toolCallId": call_id, "toolName": name, "dynamic": True}
    try:
        value = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        return {
            "type": "tool-input-error",
            **told,
            "input": arguments,
            "errorText": "the model's arguments are no valid JSON",
        }
    return {"type": "tool-input-available", **told, "input": value}
