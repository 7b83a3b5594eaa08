"""One client connection as a state machine: what is refused, with which code, and what it costs."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstream.core.commands import COMMANDS, Cancel, Generate, Hello, Ping, Subscribe
from everstream.core.errors import FAULTS, EverstreamError
from everstream.core.events import DeltaText, FirstToken, HeadersReceived, Params, RequestStart
from everstream.core.log import Log
from everstream.core.protocol import (
    BAD_FRAMES_MAX,
    Action,
    ClientProtocol,
    ConnectionState,
    Refuse,
    Run,
    error_of,
    snapshot_frame,
)
from everstream.core.wire import Encoding

LIMIT = 4096
MESSAGES = [{"role": "user", "content": "hi"}]


def new(encoding: Encoding = Encoding.JSON) -> ClientProtocol:
    return ClientProtocol(encoding, LIMIT)


def ready(encoding: Encoding = Encoding.JSON) -> ClientProtocol:
    protocol = new(encoding)
    assert isinstance(say(protocol, {"type": "hello"}), Run)
    return protocol


def say(protocol: ClientProtocol, frame: Any) -> Action:
    if protocol.encoding is Encoding.JSON:
        return protocol.receive(msgspec.json.encode(frame).decode())
    return protocol.receive(msgpack.packb(frame))


def code(action: Action) -> str:
    assert isinstance(action, Refuse)
    assert action.frame["type"] == "error"
    assert action.frame["retryable"] is FAULTS[action.frame["code"]].retryable
    return str(action.frame["code"])


def command(action: Action) -> Any:
    assert isinstance(action, Run)
    return action.command


@pytest.mark.parametrize("encoding", list(Encoding))
def test_hello_opens_the_connection_and_carries_any_number_of_places(encoding: Encoding) -> None:
    protocol = new(encoding)
    resume = [{"stream": f"r_{n}", "epoch": n, "offset": n} for n in range(20)] + [{"stream": "r_x"}]
    hello = command(say(protocol, {"type": "hello", "id": "h", "token": "t", "client": "c/1", "resume": resume}))
    assert isinstance(hello, Hello)
    assert (hello.id, hello.token, len(hello.resume)) == ("h", "t", 21)
    assert (hello.resume[7].position.epoch, hello.resume[20].position.offset) == (7, 0)
    assert protocol.state is ConnectionState.READY


@pytest.mark.parametrize("kind", [*(kind for kind in COMMANDS if kind != "hello"), "nonsense"])
def test_whatever_comes_before_hello_closes_the_connection(kind: str) -> None:
    action = say(protocol := new(), {"type": kind, "id": 7})
    assert code(action) == "protocol.hello_expected"
    assert (action.close_code, action.frame["id"]) == (4510, 7)  # type: ignore[union-attr]
    assert protocol.state is ConnectionState.CLOSED


def test_hello_that_comes_too_late_closes_and_one_that_came_does_not() -> None:
    refusal = new().hello_timed_out()
    assert refusal is not None
    assert refusal.close_code == 4510
    assert ready().hello_timed_out() is None


def test_a_second_hello_is_refused_and_the_connection_goes_on() -> None:
    protocol = ready()
    action = say(protocol, {"type": "hello", "id": 2})
    assert code(action) == "request.invalid"
    assert action.close_code is None  # type: ignore[union-attr]
    assert isinstance(say(protocol, {"type": "ping"}), Run)


def test_a_hello_that_is_malformed_may_be_said_again() -> None:
    protocol = new()
    assert code(say(protocol, {"type": "hello", "resume": "all"})) == "request.invalid"
    assert isinstance(say(protocol, {"type": "hello"}), Run)


NOT_FRAMES: list[tuple[Encoding, str | bytes]] = [
    *((Encoding.JSON, text) for text in ("", "{", "nonsense", "[]", "1", "null", '"x"', "{}", '{"type":1}', "\x00")),
    (Encoding.JSON, '{"type":"ping","a":' + "[" * 1500 + "]" * 1500 + "}"),
    (Encoding.JSON, '{"type":"ping","a":"\\ud83d"}'),
    (Encoding.JSON, '{"type":"ping","a":1e999}'),
    (Encoding.JSON, b'{"type":"ping"}'),
    (Encoding.MSGPACK, '{"type":"ping"}'),
    *(
        (Encoding.MSGPACK, data)
        for data in (b"", b"\xc1", b"\x80", b"\x90", b"\x01", b"\x81\xa4type\x01", b"\x81\xa4ty")
    ),
    (Encoding.MSGPACK, b"\x81\x01\xa4ping"),
    (Encoding.MSGPACK, msgpack.packb({"type": "ping"}) + b"\x00"),
    (Encoding.MSGPACK, b"\x82\xa4type\xa4ping\xa1a\xa2\xff\xfe"),
    (Encoding.MSGPACK, b"\x82\xa4type\xa4ping\xa1a\xd4\x05x"),
    (Encoding.MSGPACK, b"\xdf\xff\xff\xff\xff"),
    (Encoding.MSGPACK, b"\xdd\xff\xff\xff\xff"),
    (Encoding.MSGPACK, b"\xdb\xff\xff\xff\xff"),
    (Encoding.MSGPACK, b"\x82\xa4type\xa4ping\xa1a" + b"\x91" * 1500 + b"\xc0"),
]


@pytest.mark.parametrize(("encoding", "data"), NOT_FRAMES)
def test_what_is_no_frame_costs_an_error_and_nothing_else(encoding: Encoding, data: str | bytes) -> None:
    protocol = ready(encoding)
    action = protocol.receive(data)
    assert code(action) == "protocol.bad_frame"
    assert action.close_code is None  # type: ignore[union-attr]
    assert isinstance(say(protocol, {"type": "ping"}), Run)


def test_ten_bad_frames_in_a_row_close_the_connection_and_a_good_one_between_forgives() -> None:
    protocol = ready()
    for _ in range(3):
        for _ in range(BAD_FRAMES_MAX - 1):
            assert protocol.receive("{").close_code is None  # type: ignore[union-attr]
        say(protocol, {"type": "ping"})
    for n in range(BAD_FRAMES_MAX):
        action = protocol.receive("{")
        assert (action.close_code == 4500) is (n == BAD_FRAMES_MAX - 1)  # type: ignore[union-attr]
    assert protocol.state is ConnectionState.CLOSED


def test_a_frame_that_is_too_large_closes_the_connection() -> None:
    action = ready().receive(" " * (LIMIT + 1))
    assert (code(action), action.close_code) == ("protocol.too_large", 4509)  # type: ignore[union-attr]


@given(st.binary(max_size=200))
def test_no_bytes_from_outside_break_the_machine(data: bytes) -> None:
    assert isinstance(ready(Encoding.MSGPACK).receive(data), Run | Refuse)


@given(st.text(max_size=200))
def test_no_text_from_outside_breaks_the_machine(data: str) -> None:
    assert isinstance(ready().receive(data), Run | Refuse)


def test_an_announced_length_is_not_believed() -> None:
    """Five bytes must not make room for a million elements, however deep they are nested."""
    protocol = ClientProtocol(Encoding.MSGPACK, 1_048_576)
    say(protocol, {"type": "hello"})
    tracemalloc.start()
    try:
        for length in (b"\x00\x0f\xff\xff", b"\x00\x00\x40\x00"):
            assert code(protocol.receive((b"\xdd" + length) * 1000)) == "protocol.bad_frame"
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_an_unknown_command_is_named_shortly() -> None:
    action = say(ready(), {"type": "x" * 2000, "id": "q"})
    assert code(action) == "protocol.unknown_type"
    assert len(action.frame["message"]) < 100  # type: ignore[union-attr]
    assert action.frame["id"] == "q"  # type: ignore[union-attr]


def test_unknown_keys_are_let_be() -> None:
    assert isinstance(command(say(ready(), {"type": "cancel", "stream": "r_1", "later": [1]})), Cancel)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "subscribe"},
        {"type": "subscribe", "stream": 1},
        {"type": "subscribe", "stream": ""},
        {"type": "subscribe", "stream": "x" * 257},
        {"type": "subscribe", "stream": "r_1", "offset": -1},
        {"type": "subscribe", "stream": "r_1", "epoch": "1"},
        {"type": "subscribe", "stream": "r_1", "offset": 1.5},
        {"type": "unsubscribe"},
        {"type": "cancel", "stream": []},
        {"type": "auth"},
        {"type": "generate", "model": 3},
        {"type": "generate", "messages": "hi"},
        {"type": "generate", "messages": [{"role": "robot", "content": ""}]},
        {"type": "generate", "messages": [{"role": "user"}]},
        {"type": "generate", "messages": [{"role": "user", "content": [{"type": "video"}]}]},
        {"type": "generate", "params": []},
        {"type": "generate", "budget": {"output_tokens": 0}},
        {"type": "generate", "on_busy": "wait"},
        {"type": "generate", "request_id": ""},
    ],
)
def test_fields_of_the_wrong_kind_are_refused_with_the_id(frame: dict[str, Any]) -> None:
    action = say(ready(), frame | {"id": 5})
    assert code(action) == "request.invalid"
    assert action.close_code is None  # type: ignore[union-attr]
    assert action.frame["id"] == 5  # type: ignore[union-attr]


@pytest.mark.parametrize("command_id", [0, 7, -1, "a", "", "ż"])
def test_string_and_integer_ids_come_back_as_they_are(command_id: str | int) -> None:
    assert command(say(ready(), {"type": "models", "id": command_id})).id == command_id


@pytest.mark.parametrize("command_id", [1.5, [], {}, True, None])
def test_what_is_no_id_is_not_echoed(command_id: object) -> None:
    action = say(ready(), {"type": "nonsense", "id": command_id})
    assert "id" not in action.frame  # type: ignore[union-attr]


def test_ping_carries_whatever_it_was_given() -> None:
    ping = command(say(ready(), {"type": "ping", "id": 1, "at": 5, "x": {"y": [None]}}))
    assert isinstance(ping, Ping)
    assert ping.fields == {"id": 1, "at": 5, "x": {"y": [None]}}


def test_subscribe_without_a_place_begins_at_the_start() -> None:
    subscribe = command(say(ready(), {"type": "subscribe", "stream": "r_1"}))
    assert isinstance(subscribe, Subscribe)
    assert (subscribe.position.epoch, subscribe.position.offset) == (0, 0)


def generate(**fields: Any) -> Generate:
    found = command(say(ready(), {"type": "generate", "model": "p/m", "messages": MESSAGES} | fields))
    assert isinstance(found, Generate)
    return found


def test_known_parameters_are_read_and_others_travel_untouched() -> None:
    request = generate(params={"max_tokens": 5, "top_k": 3, "x": {"y": 1}}).request()
    assert request.params == Params(max_tokens=5)
    assert request.extra == {"top_k": 3, "x": {"y": 1}}


def test_a_models_own_name_may_have_slashes() -> None:
    request = generate(model="openai/org/model/v1").request()
    assert (request.provider, request.model_name) == ("openai", "org/model/v1")


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None}, {"model": "m"}, {"model": "/m"}, {"model": "p/"}, {"messages": None}, {"messages": []},
        {"session": "s_1"}, {"content": "hi"}, {"params": {"max_tokens": 0}}, {"params": {"temperature": "hot"}},
        {"params": {"stop": 3}}, {"params": {"tools": [{"description": "nameless"}]}},
    ],
)  # fmt: skip
def test_a_generation_that_cannot_be_meant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(EverstreamError, match=r"request\.invalid"):
        generate(**fields).request()


def test_an_error_frame_says_all_that_the_error_knows() -> None:
    frame = error_of(EverstreamError("provider.rate_limit", "slowly", retry_after_ms=50), 3, stream="r_1")
    assert frame == {
        "type": "error", "id": 3, "stream": "r_1", "code": "provider.rate_limit", "message": "slowly",
        "retryable": True, "retry_after_ms": 50,
    }  # fmt: skip


def test_a_snapshot_shows_what_is_committed_and_no_more() -> None:
    log = Log("r_1", ((1024, 0),), [RequestStart("p/m", 1), HeadersReceived(1), FirstToken(1.0), DeltaText("a")])
    log.append(DeltaText("not stored"))
    assert snapshot_frame(log, 9) == {
        "type": "snapshot", "id": 9, "stream": "r_1", "epoch": 1024, "upto": 4, "status": "open", "text": "a",
        "thinking": "", "tool_calls": (), "end": None,
    }  # fmt: skip
