"""The generate API: what is answered, in one piece or in chunks.

    {type: text, name: thinking | output, content, done, index, is_final} …    as they come
    {type: metadata, name: metadata, content: {tool_call}, …} …                each call, once it is whole
    {type: text, name: output, content: "", done: true, is_final: true, …}     nothing comes after this
    {final: true, usage, cost, warnings, …}

`index` counts chunks from 0.  It is the same for all readers, whenever they come: an entry with content is a chunk of
its own here, also for a reader that lags, so the index follows from the entries.  0 begins the answer anew: after a
`restart`, and where a reader's place is no history.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everstream.core.cursor import Run
from everstream.core.events import CONTENT, DeltaRefusal, DeltaText, DeltaThinking, Event, Seam, StreamEnd
from everstream.core.log import Log
from everstream.core.summary import Summary
from everstream.gateway.http_door import native_error
from everstream.gateway.outcome import failure_of, warnings_of
from everstream.gateway.sse import event
from everstream.runtime.hub import Feed

_NAMES: dict[type[Event], str] = {DeltaText: "output", DeltaRefusal: "output", DeltaThinking: "thinking"}


def whole(stream: str, total: Summary, over: StreamEnd) -> dict[str, Any]:
    """The answer in one piece."""
    return {
        "output": total.text or total.refusal,
        "thinking": total.thinking or None,
        "tool_calls": _calls(total),
        **_told(over, total),
        "stream": stream,
    }


def _told(over: StreamEnd, total: Summary) -> dict[str, Any]:
    return {
        "reason": over.reason,
        "finish_reason": over.finish_reason,
        "usage": over.usage,
        "cost": over.cost,
        "warnings": warnings_of(over, total),
    }


def _calls(total: Summary) -> list[dict[str, Any]]:
    return [
        {"call_id": call.call_id or f"call_{call.index}", "name": call.name or "", "arguments": call.arguments}
        for call in total.tool_calls
    ]


class GenerateChunks:
    """One reader's view of one stream."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._at = -1  # the offset that `_index` is that of
        self._index = 0  # of the next chunk

    def entry(self, stream: str, run: Run) -> bytes:
        log = self._feed.log
        if self._at != run.after:
            self._index = _chunks_in(log.slice(log.base, run.after))
        self._at = run.upto
        said = []
        for offset, entry in enumerate(log.slice(run.after, run.upto), run.after + 1):
            if isinstance(entry, StreamEnd):
                said.append(self._end(entry, log.total(), run.upto))
            elif isinstance(entry, CONTENT):
                said.append(self._content(entry, offset))
            else:
                self._index = _index_after(entry, self._index)
        return b"".join(said)

    def snapshot(self, log: Log) -> bytes:
        """All of it at once, from index 0 on."""
        total = log.total()
        self._index, self._at = 0, log.committed
        before = log.committed - (total.end is not None)
        said = self._chunk("thinking", total.thinking, before) if total.thinking else b""
        said += self._chunk("output", total.text + total.refusal, before)
        return said + self._end(total.end, total, log.committed) if total.end is not None else said

    def _content(self, entry: Event, offset: int) -> bytes:
        name = _NAMES.get(type(entry))
        return b"" if name is None else self._chunk(name, entry.text, offset)  # type: ignore[attr-defined]

    def _chunk(self, name: str, content: Any, offset: int, *, over: bool = False) -> bytes:
        chunk = {
            "type": "metadata" if name == "metadata" else "text",
            "name": name,
            "content": content,
            "done": over,
            "index": self._index,
            "is_final": over,
        }
        self._index += 1
        return event(msgspec.json.encode(chunk), offset)

    def _end(self, over: StreamEnd, total: Summary, offset: int) -> bytes:
        """Until the last of it has been said, a reader's place is before the end: it is told all of it again."""
        before = offset - 1
        failed = failure_of(over)
        said = b"".join(self._chunk("metadata", {"tool_call": call}, before) for call in _calls(total))
        if failed is None:
            said += self._chunk("output", "", before, over=True)
        else:
            error = {"type": "error", **native_error(failed), "index": self._index}
            said += event(msgspec.json.encode(error), before)
        final = {"final": True, **_told(over, total), "stream": self._feed.stream}
        return said + event(msgspec.json.encode(final), offset)


def _index_after(entry: Event, index: int) -> int:
    """The index of the next chunk after an entry."""
    if isinstance(entry, Seam) and entry.continuation == "restart":
        return 0
    return index + (type(entry) in _NAMES)


def _chunks_in(entries: list[Event]) -> int:
    """How many chunks these entries are, since the answer last began anew."""
    index = 0
    for entry in entries:
        index = _index_after(entry, index)
    return index
