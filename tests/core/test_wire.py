"""Events as bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.streams import EVENT, FRAME_INTEGERS, OF_KIND

from everstream.core.events import EVENTS, DeltaText, Event, Mark
from everstream.core.session_events import SESSION_EVENTS
from everstream.core.wire import Encoding, decode, encode, encode_entry, pack_entry, unpack_entry

SESSION = "s_00" + "a" * 26
STREAM = "r_00" + "a" * 26
LIMIT_BYTES = 1 << 20


MARK = st.builds(
    Mark,
    st.none() | st.dictionaries(st.text(max_size=8), st.integers(0, 2**53) | st.text(max_size=8), max_size=3),
    st.lists(st.integers(0, 2**31), max_size=5).map(tuple),
    st.integers(0, 2**31),
)


@given(EVENT, st.none() | MARK)
def test_an_entry_comes_back_as_it_was_stored_with_the_mark_beside_it(event: Event, mark: Mark | None) -> None:
    assert unpack_entry(pack_entry(event, mark)) == (event, mark)


def test_every_kind_of_event_is_tested() -> None:
    assert set(OF_KIND) == {*EVENTS, *SESSION_EVENTS}


@given(st.text(max_size=31))
def test_a_stored_token_is_its_text_and_at_most_two_bytes(piece: str) -> None:
    assert len(pack_entry(DeltaText(piece))) <= len(piece.encode()) + 2


def test_what_nobody_wrote_is_not_read() -> None:
    for packed in (b"", b"\xc1", msgpack.packb({"type": "unheard_of"}), msgpack.packb(7)):
        with pytest.raises(msgspec.DecodeError):
            unpack_entry(packed)


@given(st.one_of([OF_KIND[kind] for kind in SESSION_EVENTS]), FRAME_INTEGERS, FRAME_INTEGERS)
def test_an_entry_of_a_session_names_it_and_keeps_the_stream_that_it_tells_of(
    event: Event, after: int, upto: int
) -> None:
    said = encode_entry(Encoding.JSON, SESSION, after, upto, event)
    json = decode(Encoding.JSON, said.decode(), LIMIT_BYTES)
    assert json == decode(Encoding.MSGPACK, encode_entry(Encoding.MSGPACK, SESSION, after, upto, event), LIMIT_BYTES)
    assert (json.pop("session"), json.pop("after"), json.pop("upto")) == (SESSION, after, upto)
    assert len(json) + 3 == len(msgspec.json.decode(said, type=dict[str, msgspec.Raw]))
    assert json.pop("stream") == getattr(event, "stream", SESSION)
    assert json == {name: value for name, value in msgspec.to_builtins(event).items() if name != "stream"}


@given(st.one_of([OF_KIND[kind] for kind in EVENTS]), FRAME_INTEGERS, FRAME_INTEGERS)
def test_both_encodings_say_the_same(event: Event, after: int, upto: int) -> None:
    json = decode(Encoding.JSON, encode_entry(Encoding.JSON, STREAM, after, upto, event).decode(), LIMIT_BYTES)
    packed = decode(Encoding.MSGPACK, encode_entry(Encoding.MSGPACK, STREAM, after, upto, event), LIMIT_BYTES)
    assert json == packed
    assert (json.pop("stream"), json.pop("after"), json.pop("upto")) == (STREAM, after, upto)
    assert json == msgspec.to_builtins(event)


@given(
    st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | FRAME_INTEGERS | st.text(max_size=8), max_size=20)
)
def test_any_frame_is_read_as_it_was_written(fields: dict[str, Any]) -> None:
    frame = {**fields, "type": "ok"}
    assert decode(Encoding.JSON, encode(Encoding.JSON, frame).decode(), LIMIT_BYTES) == frame
    assert decode(Encoding.MSGPACK, encode(Encoding.MSGPACK, frame), LIMIT_BYTES) == frame


@pytest.mark.parametrize("data", ["", "[]", "7", '{"type":7}', '{"no":"type"}', "{", '{"type":"a"} x', b'{"type":"a"}'])
def test_what_is_no_json_frame_is_refused(data: str | bytes) -> None:
    with pytest.raises(ValueError):
        decode(Encoding.JSON, data, LIMIT_BYTES)


@pytest.mark.parametrize(
    "data",
    [
        "{}",
        b"",
        b"\x90",
        b"\x07",
        b"\xc1",
        b"\x81\xa4type\x07",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa4type\xdb\xff\xff\xff\xff",
    ],
)
def test_what_is_no_messagepack_frame_is_refused(data: str | bytes) -> None:
    with pytest.raises(ValueError):
        decode(Encoding.MSGPACK, data, LIMIT_BYTES)


@given(st.binary(max_size=64))
def test_noise_never_raises_anything_but_value_error(data: bytes) -> None:
    for encoding, frame in ((Encoding.MSGPACK, data), (Encoding.JSON, data.decode("latin-1"))):
        with suppress(ValueError):
            assert isinstance(decode(encoding, frame, LIMIT_BYTES)["type"], str)


@pytest.mark.parametrize("levels", [200, 100_000])
def test_a_frame_that_nests_too_deeply_is_refused(levels: int) -> None:
    with pytest.raises(ValueError):
        decode(Encoding.JSON, '{"type":"a","x":' + "[" * levels + "]" * levels + "}", LIMIT_BYTES)
    with pytest.raises(ValueError):
        decode(Encoding.MSGPACK, b"\x82\xa4type\xa1a\xa1x" + b"\x91" * levels + b"\x90", LIMIT_BYTES)
