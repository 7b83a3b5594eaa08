"""Frames as a WebSocket carries them.

There is one encoder for each encoding and way of writing.  A *framed* encoder adds the WebSocket header itself
(RFC 6455 section 5.2; a server never masks), so that the very same bytes go to every reader in step.
"""

from __future__ import annotations

from typing import Any

from everstream.core.cursor import Run
from everstream.core.wire import Encoding, encode, encode_entry

_OPCODES = {Encoding.JSON: 0x81, Encoding.MSGPACK: 0x82}  # FIN with text, FIN with binary


class PlainEncoder:
    """Payloads only: the ASGI server makes frames of them."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding

    def entry(self, stream: str, run: Run) -> bytes:
        return encode_entry(self.encoding, stream, run.after, run.upto, run.event)

    def frame(self, frame: Any) -> bytes:
        """A frame that is no entry."""
        return encode(self.encoding, frame)


class FramedEncoder(PlainEncoder):
    """Whole WebSocket frames."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self._opcode = _OPCODES[encoding]

    def entry(self, stream: str, run: Run) -> bytes:
        payload = encode_entry(self.encoding, stream, run.after, run.upto, run.event)
        return websocket_frame(self._opcode, payload)

    def frame(self, frame: Any) -> bytes:
        return websocket_frame(self._opcode, super().frame(frame))


def websocket_frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (opcode, size, payload)
    if size < 65536:
        return b"%c\x7e%b%b" % (opcode, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (opcode, size.to_bytes(8, "big"), payload)


PLAIN = {encoding: PlainEncoder(encoding) for encoding in Encoding}
FRAMED = {encoding: FramedEncoder(encoding) for encoding in Encoding}
