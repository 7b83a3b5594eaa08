"""Bytes to events: every segmentation gives the same, and nothing is kept without a bound."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstream.providers import sse
from everstream.providers.http_errors import redact, retry_after_ms
from everstream.providers.sse import JsonEvents


def read(pieces: list[bytes]) -> tuple[list[Any], JsonEvents[Any]]:
    events: JsonEvents[Any] = JsonEvents(msgspec.json.Decoder())
    found = [event for piece in pieces for event in events.feed(piece)]
    return found + events.end(), events


@given(
    st.lists(st.recursive(st.text() | st.integers(-9, 9), lambda inner: st.lists(inner, max_size=3))),
    st.sampled_from([b"\n", b"\r\n"]),
    st.lists(st.integers(0, 400)),
)
def test_segmentation_changes_nothing(values: list[Any], line_end: bytes, cuts: list[int]) -> None:
    body = b"".join(b": x" + line_end + b"data: " + msgspec.json.encode([v]) + line_end * 2 for v in values)
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in pairwise(places)]
    assert read(pieces)[0] == [[value] for value in values]


def test_numbers_are_taken_however_they_are_written() -> None:
    class Counts(msgspec.Struct):
        made: int | None = None
        text: str | None = None

    events = JsonEvents(msgspec.json.Decoder(Counts))
    found = events.feed(b'data: {"made":12.0}\n\ndata: {"made":"12","text":"12"}\ndata: {"text":"null"}\n')
    assert found == [Counts(12), Counts(12, "12"), Counts(None, "null")]
    assert events.at_rest
    assert events.feed(b'data: {"text":12}\n\n') == []
    assert events.trouble is not None
    assert "unknown shape" in events.trouble


def test_nothing_after_done_is_looked_at() -> None:
    found, events = read([b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n"])
    assert found == [1]
    assert events.done


def test_data_that_is_never_json_is_told_at_its_blank_line() -> None:
    found, events = read([b"data: 1\n\ndata: {x\n\ndata: 2\n\n"])
    assert found == [1]
    assert events.trouble is not None


def test_half_a_line_at_the_end_is_a_cut_and_no_garbage() -> None:
    found, events = read([b"data: 1\n\ndata: {x"])
    assert found == [1]
    assert events.trouble is None


def test_a_line_without_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LINE_BYTES_MAX", 1000)
    events: JsonEvents[Any] = JsonEvents(msgspec.json.Decoder())
    for _ in range(11):
        events.feed(b"x" * 100)
    assert events.trouble is not None
    assert not events._held


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"retry-after": "2.5"}, 2500),
        ({"retry-after": "-1"}, 0),
        ({"retry-after": "999999999"}, 3_600_000),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({}, None),
    ],
)
def test_how_long_to_wait_is_bounded_and_never_fails(headers: dict[str, str], wanted: int | None) -> None:
    assert retry_after_ms(headers) == wanted


def test_what_is_no_secret_stays() -> None:
    text = "The model `gpt-5.5` does not exist; see https://example.org/docs/api-keys and skip the api_key field."
    assert redact(text).startswith("The model `gpt-5.5` does not exist; see https://example.org/docs/")
