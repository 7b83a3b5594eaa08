"""The AI SDK's UI message stream, version 1 (ai-sdk.dev/docs/ai-sdk-ui/stream-protocol): entries as its parts.

    start ▶ start-step ▶ (reasoning | text | tool input)… ▶ finish-step ▶ finish ▶ [DONE]

A part begins with its first piece and ends before the next part's.  Which part is open follows from what came before,
so one of these belongs to one reader, and reads from the start: a client that comes back is sent all of it anew, and
empties its message at the first `start`.  At no other one, though: what is withdrawn later (an answer run again, a
history that was lost) is withdrawn by `reset-step`.

A client that empties its message would lose what an earlier answer put into it, where this one continues that after
results of tools.  So `earlier` parts are sent again, too, before this answer's own.
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
    Request,
    RequestStart,
    Seam,
    StreamEnd,
)
from everstream.core.log import Log
from everstream.gateway.sse import event

HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
DONE = b"data: [DONE]\n\n"
_FINISHES = {"stop": "stop", "length": "length", "content_filter": "content-filter", "tool_calls": "tool-calls"}

Chunk = dict[str, Any]


def declared(request: Request) -> frozenset[str]:
    """The tools that a client has declared, and so knows by name."""
    return frozenset(tool.name for tool in request.params.tools or ())


class _Call(msgspec.Struct):
    call_id: str
    name: str
    arguments: str = ""
    told: int = 0  # characters of `arguments` that were sent
    begun: bool = False


class UiMessageStream:
    """One reader's view of one stream.

    `message` is the id of the client's message, the stream's own where it is a new one.  `tools` are those that the
    client declared: its parts for them are `tool-NAME`, and `dynamic-tool` for any other.
    """

    def __init__(
        self, stream: str, message: str = "", tools: frozenset[str] = frozenset(), earlier: tuple[Chunk, ...] = ()
    ) -> None:
        self._stream = stream
        self._message = message or stream
        self._tools = tools
        self._earlier = earlier
        self._begun = False
        self._parts = 0
        self._forget()

    def entry(self, stream: str, run: Run) -> bytes:
        chunks = self._chunks(run.event)
        said = b"".join(event(msgspec.json.encode(chunk), run.upto) for chunk in chunks)
        return said + DONE if isinstance(run.event, StreamEnd) else said

    def snapshot(self, log: Log) -> bytes:
        """All of it at once, in place of what this answer has shown so far."""
        total = log.total()
        said: list[Event] = [DeltaThinking(total.thinking)] if total.thinking else []
        said += [DeltaText(total.text)] if total.text else []
        said += [DeltaRefusal(total.refusal)] if total.refusal else []
        said += [DeltaToolCall(call.index, call.arguments, call.call_id, call.name) for call in total.tool_calls]
        said += [total.end] if total.end is not None else []
        chunks = self._withdraw() if self._begun else self._start()
        chunks += [chunk for item in said for chunk in self._chunks(item)]
        body = b"".join(event(msgspec.json.encode(chunk), log.committed) for chunk in chunks)
        return body + DONE if total.end is not None else body

    def _forget(self) -> None:
        self._open: tuple[str, str] | None = None  # kind and id of the part that is being written
        self._calls: dict[int, _Call] = {}

    def _start(self) -> list[Chunk]:
        if self._begun:
            return []
        self._begun = True
        start = {"type": "start", "messageId": self._message, "messageMetadata": {"stream": self._stream}}
        return [start, *self._earlier, {"type": "start-step"}]

    def _withdraw(self) -> list[Chunk]:
        """What was shown of this answer is not so."""
        self._forget()
        return [{"type": "reset-step"}]

    def _chunks(self, said: Event) -> list[Chunk]:
        if isinstance(said, RequestStart):
            return self._start()
        if isinstance(said, DeltaText | DeltaRefusal):
            return [*self._start(), *self._into("text"), self._piece("text-delta", said.text)]
        if isinstance(said, DeltaThinking):
            return [*self._start(), *self._into("reasoning"), self._piece("reasoning-delta", said.text)]
        if isinstance(said, DeltaToolCall):
            return [*self._start(), *self._close(), *self._call(said)]
        if isinstance(said, Seam) and said.continuation == "restart":
            return [*self._start(), *self._withdraw()]
        return self._end(said) if isinstance(said, StreamEnd) else []

    def _into(self, kind: str) -> list[Chunk]:
        """Open a part, where it is not open."""
        if self._open is not None and self._open[0] == kind:
            return []
        closed = self._close()
        self._parts += 1
        self._open = (kind, f"{kind}-{self._parts}")
        return [*closed, {"type": f"{kind}-start", "id": self._open[1]}]

    def _piece(self, kind: str, text: str) -> Chunk:
        assert self._open is not None, "a piece belongs to a part"
        return {"type": kind, "id": self._open[1], "delta": text}

    def _close(self) -> list[Chunk]:
        if self._open is None:
            return []
        (kind, name), self._open = self._open, None
        return [{"type": f"{kind}-end", "id": name}]

    def _call(self, said: DeltaToolCall) -> list[Chunk]:
        """A piece of a call.  A part's type is its tool's name, so nothing is told before that is known."""
        call = self._calls.setdefault(said.index, _Call(said.call_id or f"call_{said.index}", ""))
        call.name = call.name or said.name or ""
        if not call.begun:
            call.call_id = said.call_id or call.call_id
        call.arguments += said.arguments
        if not call.name:
            return []
        chunks: list[Chunk] = [] if call.begun else [{"type": "tool-input-start", **self._named(call)}]
        call.begun = True
        if piece := call.arguments[call.told :]:
            chunks.append({"type": "tool-input-delta", "toolCallId": call.call_id, "inputTextDelta": piece})
        call.told = len(call.arguments)
        return chunks

    def _named(self, call: _Call) -> Chunk:
        named: Chunk = {"toolCallId": call.call_id, "toolName": call.name}
        return named if call.name in self._tools else named | {"dynamic": True}

    def _end(self, over: StreamEnd) -> list[Chunk]:
        """A client acts on a call that it is told is whole, or is wrong: so neither is said of one that was cut off
        by a stop or a failure."""
        chunks = [*self._start(), *self._close()]
        if over.reason == "cancelled":
            return [*chunks, {"type": "abort", "reason": "stopped"}]
        if over.error is not None or over.reason == "interrupted":
            text = over.error.message if over.error is not None else "the answer broke off"
            return [*chunks, {"type": "error", "errorText": text}]
        finish = "length" if over.reason == "budget" else _FINISHES.get(over.finish_reason or "stop", "other")
        chunks += [self._input(call, whole=finish != "length") for call in self._calls.values()]
        usage = over.usage
        metadata: Chunk = {
            "stream": self._stream,
            "usage": {
                "inputTokens": usage.input_tokens,
                "outputTokens": usage.output_tokens,
                "totalTokens": usage.total_tokens,
            },
        }
        if over.cost is not None:
            metadata["cost"] = msgspec.to_builtins(over.cost)
        finished = {"type": "finish", "finishReason": finish, "messageMetadata": metadata}
        return [*chunks, {"type": "finish-step"}, finished]

    def _input(self, call: _Call, *, whole: bool) -> Chunk:
        """A call whose last piece has come."""
        fault = "" if whole else "the answer ended before the call was whole"
        value: Any = call.arguments
        if whole:
            try:
                value = msgspec.json.decode(call.arguments or "{}")
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                fault = "the model's arguments are no valid JSON"
        if fault:
            return {"type": "tool-input-error", **self._named(call), "input": value, "errorText": fault}
        return {"type": "tool-input-available", **self._named(call), "input": value}
