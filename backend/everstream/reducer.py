"""A client's copy of one stream, folded from frames.  Pure: no socket, no clock.

A client holds a position `(epoch, offset)` and what the entries up to it amount to.  Each frame that carries entries
says which: the range `(after, upto]`.  At offset n there are four cases, and no others are needed:

    after == n      apply, and stand at `upto`
    upto  <= n      known already: ignore
    otherwise       a hole (or a frame cut across our place, which no server should send): subscribe again from n
    snapshot        stands for all entries up to `upto`: it replaces what we hold

A hole is asked about once.  Until the server has answered (`subscribed` or `snapshot`), entries are ignored, even one
that would fit: it was sent before the server knew where we stand.  Nothing is lost by it, since the server sends
everything after our position again.

An epoch only grows, so an old reply that is read late (`accepted` is repeated with the same `request_id`) does not
take it back.  The cases in `tests/conformance/cases.json` hold these rules for clients in any language.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

Frame = dict[str, Any]

_RANGE = ("type", "stream", "after", "upto")


class Verdict(Enum):
    """What became of a frame."""

    APPLIED = "applied"
    IGNORED = "ignored"
    REPLACED = "replaced"  # a snapshot: whoever shows the text shows it anew
    NOTED = "noted"  # a reply that moved the epoch at most
    HOLE = "hole"  # subscribe again from `position`


class _Pieces:
    """Text that grows at its end: joined when asked for, not at every piece."""

    __slots__ = ("_pieces", "_whole")

    def __init__(self, whole: str = "") -> None:
        self._whole = whole
        self._pieces: list[str] = []

    def add(self, piece: Any) -> None:
        if isinstance(piece, str):
            self._pieces.append(piece)

    def __str__(self) -> str:
        if self._pieces:
            self._whole += "".join(self._pieces)
            self._pieces.clear()
        return self._whole


class _Call:
    __slots__ = ("arguments", "call_id", "name")

    def __init__(self, call_id: str | None = None, name: str | None = None, arguments: str = "") -> None:
        self.call_id = call_id
        self.name = name
        self.arguments = _Pieces(arguments)


class StreamState:
    """What a client holds of one response stream.

    `epoch` is None until a server has named it.  `end` holds the fields of `stream_end` once the stream has ended.
    """

    __slots__ = (
        "_calls",
        "_refusal",
        "_text",
        "_thinking",
        "_waiting",
        "end",
        "epoch",
        "model",
        "offset",
        "seam",
        "stream",
        "ttft_ms",
    )

    def __init__(self, stream: str, epoch: int | None = None, offset: int = 0) -> None:
        self.stream = stream
        self.epoch = epoch
        self.offset = offset
        self.end: Frame | None = None
        self.model: str | None = None
        self.ttft_ms: float | None = None
        self.seam: Frame | None = None  # the last one
        self._waiting = False  # a hole has been asked about
        self._clear()

    def _clear(self) -> None:
        self._text = _Pieces()
        self._thinking = _Pieces()
        self._refusal = _Pieces()
        self._calls: dict[int, _Call] = {}

    # ------------------------------------------------------------------ what it amounts to

    @property
    def text(self) -> str:
        return str(self._text)

    @property
    def thinking(self) -> str:
        return str(self._thinking)

    @property
    def refusal(self) -> str:
        return str(self._refusal)

    @property
    def tool_calls(self) -> list[Frame]:
        """The calls by index: {index, call_id, name, arguments}, `arguments` as far as it has come."""
        return [
            {"index": index, "call_id": call.call_id, "name": call.name, "arguments": str(call.arguments)}
            for index, call in sorted(self._calls.items())
        ]

    @property
    def ended(self) -> bool:
        return self.end is not None

    @property
    def metrics(self) -> Frame | None:
        return self.end.get("metrics") if self.end else None

    @property
    def position(self) -> tuple[int | None, int]:
        """(epoch, offset) of the last entry applied."""
        return self.epoch, self.offset

    def snapshot(self) -> Frame:
        """The state as a frame, for a reader who fell behind."""
        frame: Frame = {
            "type": "snapshot",
            "stream": self.stream,
            "epoch": self.epoch,
            "upto": self.offset,
            "status": "ended" if self.end is not None else "open",
            "text": self.text,
            "thinking": self.thinking,
            "tool_calls": self.tool_calls,
            "end": self.end,
        }
        if self.refusal:
            frame["refusal"] = self.refusal
        return frame

    # ------------------------------------------------------------------ frames

    def apply(self, frame: Frame) -> Verdict:
        """Fold one frame of this stream in.  Frames of other kinds and other streams are ignored."""
        if frame.get("stream") != self.stream:
            return Verdict.IGNORED
        kind = frame.get("type")
        if kind == "snapshot":
            return self._replace(frame)
        if kind in ("accepted", "subscribed"):
            self._grow(frame.get("epoch"))
            if kind == "subscribed":
                self._waiting = False
            return Verdict.NOTED
        after, upto = whole_number(frame.get("after")), whole_number(frame.get("upto"))
        if after is None or upto is None or after >= upto:
            return Verdict.IGNORED
        if self._waiting or upto <= self.offset or self.end is not None:
            return Verdict.IGNORED
        if after != self.offset:
            self._waiting = True
            return Verdict.HOLE
        self.offset = upto
        self._enter(kind, frame)
        return Verdict.APPLIED

    def _enter(self, kind: Any, frame: Frame) -> None:
        """Entries of a kind that is not known count, and say nothing."""
        if kind == "delta_text":
            self._text.add(frame.get("text"))
        elif kind == "delta_thinking":
            self._thinking.add(frame.get("text"))
        elif kind == "delta_refusal":
            self._refusal.add(frame.get("text"))
        elif kind == "delta_tool_call":
            call = self._calls.setdefault(frame.get("index", 0), _Call())
            call.call_id = call.call_id or frame.get("call_id")
            call.name = call.name or frame.get("name")
            call.arguments.add(frame.get("arguments"))
        elif kind == "seam":
            self._grow(frame.get("epoch"))
            self.seam = frame
            if frame.get("continuation") == "restart":
                self._clear()
        elif kind == "stream_end":
            self.end = {name: value for name, value in frame.items() if name not in _RANGE}
        elif kind == "request_start":
            self._grow(frame.get("epoch"))
            self.model = frame.get("model")
        elif kind == "first_token":
            self.ttft_ms = frame.get("ttft_ms")

    def _replace(self, frame: Frame) -> Verdict:
        upto = whole_number(frame.get("upto"))
        if upto is None:
            return Verdict.IGNORED
        self._clear()
        self._waiting = False
        self.epoch = frame.get("epoch")
        self.offset = upto
        self._text.add(frame.get("text"))
        self._thinking.add(frame.get("thinking"))
        self._refusal.add(frame.get("refusal"))
        for call in frame.get("tool_calls") or ():
            self._calls[call["index"]] = _Call(call.get("call_id"), call.get("name"), call.get("arguments") or "")
        end = frame.get("end")
        self.end = {name: value for name, value in end.items() if name not in _RANGE} if end is not None else None
        return Verdict.REPLACED

    def _grow(self, epoch: Any) -> None:
        named = whole_number(epoch)
        if named is not None and (self.epoch is None or named > self.epoch):
            self.epoch = named


def whole_number(value: Any) -> int | None:
    """An offset or an epoch; None for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
