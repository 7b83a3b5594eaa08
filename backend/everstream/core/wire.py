"""Events as bytes: entries as the store keeps them, frames as clients read them.

In the store an entry is MessagePack.  Nearly all entries are pieces of answer text, so a bare string *is* one:
two bytes of overhead a token at most.  Everything else is the event's map with its `type`.  Where a provider's mark
stands beside an entry, both are one array: so the mark is stored, and lost, with the entry it belongs to.

On the wire a frame is the event's map with `stream`, `after` and `upto` spliced in: the event is encoded once by
msgspec and three fields are appended to the bytes, which costs less than a second set of classes would.
JSON and MessagePack frames have the same keys.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgpack
import msgspec

from everstream.core.events import DeltaText, Entry, Event, Mark
from everstream.core.session_events import SessionEntry
from everstream.core.summary import Summary

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(str | Entry | SessionEntry | tuple[str | Entry | SessionEntry, Mark])
_summary_decoder = msgspec.msgpack.Decoder(Summary)

_NESTING_LIMIT = 128
# A MessagePack array has room made for it before its elements are there, and a thousand may be nested: five kilobytes
# that announce a million elements each would cost gigabytes and seconds.
_ELEMENTS_MAX = 16_384
_FIXMAP_MAX_KEYS = 15


class Encoding(Enum):
    """The two subprotocols' encodings."""

    JSON = "everstream.v1.json"
    MSGPACK = "everstream.v1.msgpack"


SUBPROTOCOLS: dict[str, Encoding] = {encoding.value: encoding for encoding in Encoding}


def pack_entry(event: Event, mark: Mark | None = None) -> bytes:
    said = event.text if type(event) is DeltaText else event
    return _msgpack.encode(said if mark is None else (said, mark))


def unpack_entry(packed: bytes) -> tuple[Event, Mark | None]:
    """The entry, and the mark beside it.  Raises msgspec.DecodeError for what no version of this program wrote."""
    entry = _entry_decoder.decode(packed)
    mark = None
    if isinstance(entry, tuple):
        entry, mark = entry
    return (DeltaText(entry) if isinstance(entry, str) else entry), mark


def pack_summary(summary: Summary) -> bytes:
    return _msgpack.encode(summary)


def unpack_summary(packed: bytes) -> Summary:
    return _summary_decoder.decode(packed)


def encode(encoding: Encoding, frame: Any) -> bytes:
    """A frame that is no entry: any map or Struct with its `type`."""
    return _json.encode(frame) if encoding is Encoding.JSON else _msgpack.encode(frame)


def encode_entry(encoding: Encoding, stream: str, after: int, upto: int, event: Event) -> bytes:
    """The frame of one entry, or of several merged into `event`, that covers `(after, upto]`."""
    if stream[0] == "s":
        return _encode_session_entry(encoding, stream, after, upto, event)
    if encoding is Encoding.JSON:
        return b'%b,"stream":"%b","after":%d,"upto":%d}' % (_json.encode(event)[:-1], stream.encode(), after, upto)
    keys, body = _counted(event, 3)
    return b"%c%b\xa6stream%b\xa5after%b\xa4upto%b" % (
        keys,
        body,
        _msgpack.encode(stream),
        _msgpack.encode(after),
        _msgpack.encode(upto),
    )


def _encode_session_entry(encoding: Encoding, session: str, after: int, upto: int, event: Event) -> bytes:
    """An entry of a session names that in `session`: in what tells of a turn, `stream` is the stream of its answer."""
    fields: list[tuple[str, str | int]] = [("session", session), ("after", after), ("upto", upto)]
    if "stream" not in event.__struct_fields__:
        fields.insert(0, ("stream", session))
    if encoding is Encoding.JSON:
        return b"%b,%b" % (_json.encode(event)[:-1], _json.encode(dict(fields))[1:])
    keys, body = _counted(event, len(fields))
    return b"%c%b%b" % (keys, body, _msgpack.encode(dict(fields))[1:])


def _counted(event: Event, more: int) -> tuple[int, bytes]:
    """The event's map in MessagePack, in two parts: its first byte, which counts `more` keys than its own; the rest.

    Raises ValueError where they are too many for that byte.
    """
    body = _msgpack.encode(event)
    keys = (body[0] & 0x0F) + more
    if body[0] & 0xF0 != 0x80 or keys > _FIXMAP_MAX_KEYS:
        raise ValueError(f"{type(event).__name__} has too many fields to be a frame")
    return 0x80 | keys, body[1:]


def decode(encoding: Encoding, data: str | bytes, limit_bytes: int) -> dict[str, Any]:
    """A frame from outside.  Raises ValueError for what is not a map with a string `type`.

    MessagePack from outside goes through `msgpack`, whose limits on lengths stop a header that announces four
    billion elements before anything is set aside for them.
    """
    try:
        if encoding is Encoding.JSON:
            if not isinstance(data, str):
                raise ValueError("binary frame on a JSON connection")
            frame = msgspec.json.decode(data)
        else:
            if isinstance(data, str):
                raise ValueError("text frame on a MessagePack connection")
            frame = msgpack.unpackb(
                data,
                max_str_len=limit_bytes,
                max_bin_len=limit_bytes,
                max_ext_len=0,
                max_array_len=_ELEMENTS_MAX,
                max_map_len=_ELEMENTS_MAX,
            )
    except (msgspec.DecodeError, msgpack.UnpackException, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"not valid {encoding.name}") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise ValueError("not a map with a string `type`")
    if not shallow(frame, _NESTING_LIMIT):
        raise ValueError("nested too deeply")
    return frame


def shallow(value: object, levels: int = _NESTING_LIMIT) -> bool:
    """Whether `value` nests at most `levels` deep: what is passed on must be safe for other parsers too."""
    layer = [value]
    while layer:
        if not levels:
            return False
        levels -= 1
        inner: list[object] = []
        for item in layer:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        layer = inner
    return True
