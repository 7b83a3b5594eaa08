"""Server-sent events, from the bytes of a socket to decoded JSON, a whole read at a time.

A read of a socket ends anywhere: in the middle of a line, of a character, of a CRLF.  So the bytes after the last
line feed are held back, as a list of pieces that is joined once, when the line is complete: a line of many
megabytes costs a copy, not a copy a read.  Everything before it is split in one call, and each `data:` line is
decoded straight into a struct that names only the fields somebody wants; the decoder skips the others at C speed.

The rules that real providers teach, and that the standard does not know:

* Each `data:` line is taken as soon as its line feed is there, without waiting for the blank line, because some
  servers leave that out.  A line that is no complete JSON waits for the `data:` lines that follow it, which is what
  the standard calls one event; if a blank line comes first, it is garbage.
* `data: [DONE]` ends the stream: what follows it is not looked at.
* A line `error: {…}` is data too (GPUStack reports its failure so), and so is a line that begins with a brace (an
  error as plain JSON under status 200).
* After `event: error` the data is an error whatever it looks like; it is wrapped as `{"error": …}` if need be.
* Comments and other fields are liveness, nothing else.
* A number may be written as `12.0` or as a string, whatever its field is meant to hold (servers behind gateways that
  know no integers): what does not fit the struct is tried once more with such things allowed.

A line of JSON alone, without `data:`, is an event too, so this also reads answers that are a line of JSON each.  With
`lines` they are to be that, and a line that is neither is garbage: it may have been text.

Garbage does not raise: what was decoded before it must reach the reader first.  It is left in `trouble`.
A carriage return alone does not end a line here, though the standard allows it; no provider does that.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")

LINE_BYTES_MAX = 64 * 1024 * 1024  # an image as base64 in one line is real; more is an attack or a bug

_FIELDS = (b":", b"event:", b"id:", b"retry:")
_ANY_JSON = msgspec.json.Decoder(type=msgspec.Raw)


class JsonEvents(Generic[T]):
    """The `data:` lines of one response, decoded.

    `feed` takes the bytes of one read and returns what they completed; `end` takes the end of the body.  `done` is
    true once `[DONE]` came.  `trouble` says what was wrong with the bytes, or is None.
    """

    __slots__ = (
        "_broken",
        "_decode",
        "_error_event",
        "_held",
        "_held_bytes",
        "_kind",
        "_lax",
        "_lines_only",
        "done",
        "trouble",
    )

    def __init__(self, decoder: msgspec.json.Decoder[T], *, lines: bool = False) -> None:
        self._decode = decoder.decode
        self._kind: type[T] = decoder.type
        self._lines_only = lines
        self._lax: msgspec.json.Decoder[T] | None = None
        self._held: list[bytes] = []  # pieces of a line without its line feed
        self._held_bytes = 0
        self._broken: bytes | None = None  # data that may go on in the next line
        self._error_event = False
        self.done = False
        self.trouble: str | None = None

    @property
    def at_rest(self) -> bool:
        """Between two events: nothing half read, nothing wrong, not over."""
        return not (
            self._held or self._error_event or self.done or self._broken is not None or self.trouble is not None
        )

    def feed(self, data: bytes) -> list[T]:
        """The events that `data` completes."""
        end = data.rfind(b"\n")
        if end < 0:
            self._hold(data)
            return []
        if self._held:
            self._held.append(data[:end])
            block = b"".join(self._held)
            self._held.clear()
            self._held_bytes = 0
        else:
            block = data[:end]
        if end + 1 < len(data):
            self._hold(data[end + 1 :])
        return self._lines(block)

    def end(self) -> list[T]:
        """The event in a last line that has no line feed, if it is a whole one.  Half a line is no garbage."""
        if self.done or self.trouble is not None:
            return []
        rest = b"".join(self._held)
        self._held.clear()
        found = self._lines(rest) if rest else []
        self.trouble = None
        return found

    def _hold(self, piece: bytes) -> None:
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > LINE_BYTES_MAX:
            self._held.clear()
            self.trouble = f"a line of more than {LINE_BYTES_MAX} bytes"

    def _lines(self, block: bytes) -> list[T]:
        found: list[T] = []
        decode = self._decode
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").removesuffix(b"\r")
        for line in block.split(b"\n"):
            if line[:5] == b"data:" and self._broken is None and not self._error_event:
                try:
                    found.append(decode(line[5:]))
                except (msgspec.DecodeError, UnicodeDecodeError):
                    self._odd(line, found)
            elif line or self._broken is not None:
                self._odd(line, found)
            else:
                self._error_event = False
            if self.done or self.trouble is not None:
                break
        return found

    def _odd(self, line: bytes, found: list[T]) -> None:
        """A line that is no plain data line, or one that does not decode by itself."""
        if line[:5] == b"data:":
            payload = line[5:].strip()
            if payload == b"[DONE]":
                self.done = True
                return
        elif line[:6] == b"error:":
            payload = line[6:].strip()
        elif not line:
            self.trouble = "data that is not JSON"
            return
        elif line[:1] == b"{" or (self._broken is not None and not line.startswith(_FIELDS)):
            payload = line
        elif self._lines_only and line.strip() and not line.startswith(_FIELDS):
            self.trouble = "a line that is not JSON"
            return
        else:
            self._error_event = self._error_event or line.replace(b" ", b"") == b"event:error"
            return
        if self._error_event:
            payload = _as_error(payload)
        if self._broken is not None:
            payload = self._broken + b"\n" + payload
        if len(payload) > LINE_BYTES_MAX:
            self.trouble = f"an event of more than {LINE_BYTES_MAX} bytes"
            return
        try:
            found.append(self._decode(payload))
            self._broken = None
        except msgspec.ValidationError:
            self._decode_laxly(payload, found)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._broken = payload if payload else None

    def _decode_laxly(self, payload: bytes, found: list[T]) -> None:
        if self._lax is None:
            self._lax = msgspec.json.Decoder(self._kind, strict=False)
        try:
            found.append(self._lax.decode(payload))
            self._broken = None
        except msgspec.ValidationError as error:
            # Whole JSON of an unknown shape: skipping it could lose text without a word.
            self.trouble = f"an event of an unknown shape ({str(error)[:120]})"


def _as_error(payload: bytes) -> bytes:
    """What came under `event: error`, with an `error` key around it where it has none."""
    if b'"error"' in payload:
        return payload
    try:
        _ANY_JSON.decode(payload)
    except msgspec.DecodeError:
        payload = msgspec.json.encode(payload.decode("utf-8", "replace"))
    return b'{"error":' + payload + b"}"
