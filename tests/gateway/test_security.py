"""The rows of docs/security.md that no other module holds: the exact answer to what a client should not send."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import jwt
import pytest
import structlog
from tests.gateway.applications import QUICK, under_ours, under_uvicorn
from tests.gateway.conftest import JSON, MSGPACK, Gateway, client_of, serving
from tests.gateway.test_authenticate import app_with
from tests.gateway.test_doors import Raw, raw
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from everstream import create_app
from everstream.gateway.authenticator import Authenticator
from everstream.gateway.hosts import may_be_asked, names_of
from everstream.gateway.json_tokens import JsonTokens
from everstream.gateway.keys import Keys
from everstream.gateway.startup import configure_logs, escaped
from everstream.settings import Settings
from everstream.store.memory import MemoryStore

SECRET = "a secret of tests that is long enough for HS256"
CANARY = "es_canarycanary_canarycanarycanarycanary"
WEBSOCKET = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
VERSION = b"sec-websocket-version: 13\r\n"
HOST = b"host: 127.0.0.1\r\n"


def by_all() -> Authenticator:
    return Authenticator(Keys(MemoryStore()), JsonTokens(Settings(auth="keys,jwt", jwt_secret=SECRET)))


async def asked(gateway: Gateway, path: str, *headers: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    async with raw(gateway) as socket:
        head = b"".join(header + b"\r\n" for header in headers)
        await socket.say(b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path.encode(), HOST, head))
        return await socket.answer()


async def refused_upgrade(gateway: Gateway, **more: Any) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await connect(gateway.ws_url, proxy=None, **more)
    return refused.value.response.status_code


# --------------------------------------------------------------------------- S1, S2, S3: who asks


async def test_a_cookie_is_no_way_in_and_a_page_of_another_site_brings_none() -> None:
    token = jwt.encode({"sub": "ann", "exp": int(time.time()) + 100}, SECRET)
    cookies = f"token={token}; authorization=Bearer {token}; session={token}"
    async with serving(authenticate=by_all()) as gateway:
        status, headers, _ = await asked(gateway, "/v1/models", b"cookie: " + cookies.encode())
        assert (status, headers[b"www-authenticate"]) == (401, b"bearer")
        assert b"set-cookie" not in headers
        async with gateway.client(hello=False, additional_headers={"Cookie": cookies}) as client:
            assert (await client.ask("hello"))["code"] == "auth.required"
            assert await client.closed() == 4501
        more = {"additional_headers": {"Cookie": cookies}, "origin": "https://evil.example"}
        assert await refused_upgrade(gateway, **more) == 403
        assert (await asked(gateway, "/v1/models", b"authorization: Bearer " + token.encode()))[0] == 200


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "key", "authorization"])
async def test_a_token_in_an_address_is_not_looked_at_and_in_no_log(
    name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = jwt.encode({"sub": "ann", "exp": int(time.time()) + 100}, SECRET)
    async with serving(authenticate=by_all()) as gateway:
        assert (await asked(gateway, f"/v1/models?{name}={token}"))[0] == 401
        async with client_of(f"{gateway.ws_url}?{name}={token}", hello=False) as client:
            assert (await client.ask("hello"))["code"] == "auth.required"
    said = "".join(capfd.readouterr()) + "".join(r.getMessage() for r in caplog.records if r.name.startswith("ever"))
    assert token.rpartition(".")[2] not in said


# --------------------------------------------------------------------------- S5, S30: one line, and what is in it


def wrong_tokens() -> dict[str, str]:
    soon = int(time.time()) + 100
    claims = {"sub": "ann", "exp": soon}
    return {
        "expired": jwt.encode({"sub": "ann", "exp": 1}, SECRET),
        "none": jwt.encode(claims, None, "none"),
        "a kid that is a path": jwt.encode(claims, "x" * 32, headers={"kid": "../../../../dev/null"}),
        "a kid that is a query": jwt.encode(claims, "x" * 32, headers={"kid": "' UNION SELECT 'x"}),
        "for somebody else": jwt.encode(claims | {"aud": "others"}, SECRET),
        "garbage": "not.a.token",
        "no key": CANARY,
    }


@pytest.mark.parametrize("kind", wrong_tokens())
async def test_every_wrong_token_gets_one_answer_and_one_line(kind: str) -> None:
    token = wrong_tokens()[kind]
    async with serving(authenticate=by_all()) as gateway:
        merged = [structlog.contextvars.merge_contextvars]
        with structlog.testing.capture_logs(processors=merged) as logs:  # type: ignore[arg-type]
            async with gateway.client(hello=False, origin=gateway.url) as client:
                reply = await client.ask("hello", token=token)
                assert (reply["code"], reply["message"]) == ("auth.denied", "this token is not accepted")
                assert await client.closed() == 4501
        said = [line for line in logs if "token" in line["event"]]
        assert len(said) == 1, logs
        assert (said[0]["address"], said[0]["origin"]) == ("127.0.0.1", gateway.url)
        assert not any(part in repr(logs) for part in token.split(".") if len(part) > 8)
        status, _, body = await asked(gateway, "/v1/models", b"authorization: Bearer " + token.encode())
        assert (status, json.loads(body)["error"]["message"]) == (401, "this token is not accepted")


async def test_a_page_of_another_site_is_logged_with_where_it_came_from() -> None:
    async with serving() as gateway:
        with structlog.testing.capture_logs() as logs:
            assert await refused_upgrade(gateway, origin="https://evil.example") == 403
            assert (await asked(gateway, "/v1/models", b"origin: https://evil.example"))[0] == 403
    lines = [line for line in logs if line["event"] == "a page of another site was refused"]
    assert [(line["origin"], line["address"]) for line in lines] == [("https://evil.example", "127.0.0.1")] * 2


# --------------------------------------------------------------------------- S14, S15: frames that are none


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("[" * 100_000, "protocol.bad_frame"),
        ('{"type":"ping","x":' + "[" * 100_000 + "]" * 100_000 + "}", "protocol.bad_frame"),
        ('{"type":"ping","id":1e400}', None),
        ('{"type":"ping","x":NaN}', "protocol.bad_frame"),
        ('{"type":"nonsense","type":"nothing"}', "protocol.unknown_type"),
        ('{"type":"nonsense\\ud800"}', None),
        ('{"type":"ping","x":"\\ud800"}', None),
        (b"\xdf\xff\xff\xff\xff", "protocol.bad_frame"),
        (b"\xdd\xff\xff\xff\xff", "protocol.bad_frame"),
        (b"\x82\xa4type\xa4ping\xa1x\xc9\xff\xff\xff\xff\x01", "protocol.bad_frame"),
        (b"\x91" * 100_000, "protocol.bad_frame"),
        (b"\xdd\x00\x0f\xff\xff" * 1_000, "protocol.bad_frame"),
    ],
    ids=["depth", "depth in a frame", "1e400", "NaN", "twice", "half a pair as type", "half a pair", "map of 2^32",
         "list of 2^32", "ext of 2^32", "packed depth", "packed bomb"],
)  # fmt: skip
async def test_a_frame_that_is_a_trap_costs_little_and_the_connection_goes_on(
    gateway: Gateway, data: str | bytes, code: str | None
) -> None:
    """`code` None: what the parser takes may also be answered as a frame that is in order."""
    async with gateway.client(MSGPACK if isinstance(data, bytes) else JSON) as client:
        began = time.process_time()
        await client.raw(data)
        frame = await client.next()
        spent_ms = (time.process_time() - began) * 1000
        print(f"{spent_ms:.1f} ms of CPU, client and server")
        if code is not None or frame["type"] == "error":
            assert frame["code"] == (code or frame["code"]), frame
            assert frame["code"] in ("protocol.bad_frame", "protocol.unknown_type", "request.invalid")
        assert (await client.ask("ping"))["type"] == "pong"


WRONG = [{"type": "nonsense"}, {"type": "subscribe"}, {"type": "subscribe", "stream": 5}]


async def test_what_is_not_understood_is_answered_by_its_id_and_is_no_violation(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for number in range(20):  # twice as many as bad frames in a row would be
            wrong: dict[str, Any] = WRONG[number % 3]
            await client.send(id=f"n{number}", **wrong)
            reply = await client.next()
            assert (reply["id"], reply["type"]) == (f"n{number}", "error")
            assert reply["code"] in ("protocol.unknown_type", "request.invalid")
        assert (await client.ask("ping"))["type"] == "pong"


# --------------------------------------------------------------------------- S21: two readings of one request


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/commands HTTP/1.1\r\n" + HOST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /v1/commands HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n",
        b"POST /v1/commands HTTP/1.1\r\n" + HOST + b"content-length: 4\r\ncontent-length: 5\r\n\r\n",
        b"POST /v1/commands HTTP/1.1\r\n" + HOST + b"content-length: +4\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"x : y\r\nx-\x00: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"x: a\x00b\r\n\r\n",
    ],
    ids=["CL+TE", "TE+CL", "CL+CL", "signed CL", "space in a name", "NUL"],
)
async def test_a_request_with_two_readings_has_none(gateway: Gateway, head: bytes) -> None:
    async with raw(gateway) as socket:
        await socket.say(head + b"0\r\n\r\nGET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        said = await all_of(socket)
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert said.count(b"HTTP/1.1 ") == 1
    assert gateway.node.id.encode() not in said


async def all_of(socket: Raw) -> bytes:
    async with asyncio.timeout(10):
        return await socket.reader.read()


BEHIND = b"\x81\x85\x00\x00\x00\x00hello"  # a masked frame


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        (b"GET /ws HTTP/1.1\r\n" + HOST + WEBSOCKET, (400, 426)),
        (b"GET /ws HTTP/1.1\r\n" + HOST + WEBSOCKET + b"sec-websocket-version: 8\r\n", (400, 426)),
        (b"GET /ws HTTP/1.1\r\n" + HOST + WEBSOCKET + VERSION + b"origin: https://evil.example\r\n", (403,)),
        (b"GET /ws HTTP/1.1\r\nhost: evil.example\r\n" + WEBSOCKET + VERSION, (403,)),
        (b"GET /ws HTTP/1.0\r\n" + HOST + WEBSOCKET + VERSION, (426,)),
    ],
    ids=["no version", "version 8", "origin", "host", "HTTP/1.0"],
)
async def test_what_stands_behind_a_refused_upgrade_reaches_no_parser(
    gateway: Gateway, head: bytes, statuses: tuple[int, ...]
) -> None:
    async with raw(gateway) as socket:
        await socket.say(head + b"\r\n" + BEHIND)
        async with asyncio.timeout(10):
            said = await socket.reader.readuntil(b"\r\n\r\n")
        assert int(said.split()[1]) in statuses, said
    assert gateway.node.counters.connections_total == 0
    assert (await asked(gateway, "/healthz"))[0] == 200


# --------------------------------------------------------------------------- S22: control characters

CONTROLS = "a\r\nb\x00c\x1b[31md\u2028e\x7f\x9b"


async def test_control_characters_in_ids_and_places_are_refused_and_titles_come_back_as_data(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for command in ("subscribe", "cancel"):
            assert (await client.ask(command, stream=f"r_{CONTROLS}"))["code"] == "stream.unknown"
        assert (await client.ask("session.open", session=f"s_{CONTROLS}"))["code"] == "session.unknown"
        reply = await client.ask("session.create", title=CONTROLS)
        assert "\n" not in json.dumps(reply)
    for place in (b"1\x0b", b"\xff", b"-1", b"1;2"):
        status, _, _ = await asked(gateway, "/v1/streams/r_1", b"last-event-id: " + place)
        assert status == 400, place
    assert (await asked(gateway, "/v1/streams/r_%0d%0aset-cookie:%20x=1"))[0] == 404


def test_a_line_of_the_log_stays_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    try:
        for form in ("console", "json"):
            structlog.reset_defaults()
            configure_logs(Settings(log_format=form))
            structlog.get_logger("a test").warning("something", origin=CONTROLS)
            said = capsys.readouterr().err
            assert len(said.splitlines()) == 1, said
            assert not any(control in said.rstrip("\n") for control in "\r\x00\x7f\x9b\u2028\n")
    finally:
        structlog.configure(**before)


def test_a_traceback_keeps_its_lines_and_begins_none_as_an_event() -> None:
    shown = escaped(None, "error", {"event": "e", "exception": f"Traceback\nError: {CONTROLS}"})["exception"]
    assert all(line.startswith(" ") for line in shown.split("\n")[1:])
    assert "\x1b" not in shown


# --------------------------------------------------------------------------- S27, S29: what answers carry


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/metrics", "/openapi.json", "/v1/streams/r_1", "/nothing"])
async def test_an_answer_that_is_no_page_is_kept_by_nobody_and_read_as_what_it_is(gateway: Gateway, path: str) -> None:
    _, headers, _ = await asked(gateway, path)
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"cache-control"] == b"no-store"


@pytest.mark.parametrize("allowed", ["*", "https://app.example"])
async def test_no_answer_goes_to_every_site_or_with_cookies(allowed: str) -> None:
    async with serving(allowed_origins=allowed) as gateway:
        _, headers, _ = await asked(gateway, "/v1/models", b"origin: https://app.example")
    assert headers[b"access-control-allow-origin"] == b"https://app.example"
    assert headers[b"vary"] == b"origin"
    assert b"access-control-allow-credentials" not in headers


async def test_health_needs_no_token_and_tells_nothing_of_anybody() -> None:
    async with serving(authenticate=by_all()) as gateway:
        for path in ("/healthz", "/readyz"):
            status, _, body = await asked(gateway, path)
            assert (status, set(json.loads(body))) == (200, {"status", "node"})
        status, _, body = await asked(gateway, "/metrics")
        assert status == 200
        assert b"user=" not in body


# --------------------------------------------------------------------------- by which name it is asked


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("127.0.0.1:8000", True), ("[::1]:8000", True), ("[::1]", True), ("192.0.2.7", True), ("LOCALHOST:8000", True),
        ("localhost.", True), ("chat.localhost", True), ("chat.example:8000", True), ("Chat.Example", True),
        ("evil.example", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example", False),
        ("notlocalhost", False), ("chat.example.evil.example", False), ("", False), ("[evil.example]", False),
        ("2130706433", False), ("127.0.0.1@evil.example", False),
    ],
)  # fmt: skip
def test_a_server_answers_to_addresses_its_own_machine_and_names_of_the_settings(host: str, may: bool) -> None:
    assert may_be_asked(host, frozenset({"chat.example"})) is may


def test_names_are_looked_at_where_nobody_is_asked_or_where_they_are_given() -> None:
    assert names_of("", anybody=True) == frozenset()
    assert names_of("", anybody=False) is None
    assert names_of(" A.example, b.example ", anybody=False) == {"a.example", "b.example"}
    assert names_of("a.example,*", anybody=True) is None


async def asked_by(place: str, name: bytes) -> list[int]:
    """The statuses of a request and of an upgrade to `place`, by that name."""
    address, port = place.split(":")
    found = []
    for path, more in ((b"/v1/models", b""), (b"/ws", WEBSOCKET + VERSION)):
        reader, writer = await asyncio.open_connection(address, int(port))
        writer.write(b"GET %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (path, name, more))
        async with asyncio.timeout(10):
            found.append(int((await reader.readuntil(b"\r\n\r\n")).split()[1]))
        writer.transport.abort()
    return found


async def test_a_name_that_was_bound_to_our_address_gets_nothing_where_nobody_is_asked() -> None:
    async with serving(allowed_hosts="chat.example") as gateway:
        place = f"127.0.0.1:{gateway.port}"
        assert await asked_by(place, b"evil.example") == [403, 403]
        assert await asked_by(place, b"chat.example") == [200, 101]
        assert await asked_by(place, b"127.0.0.1\r\nhost: evil.example") in ([403, 403], [400, 400])
        with structlog.testing.capture_logs() as logs:
            await asked_by(place, b"evil.example")
        assert {(line["host"], line["address"]) for line in logs} == {("evil.example", "127.0.0.1")}
    async with serving(authenticate=by_all()) as gateway:
        assert await asked_by(f"127.0.0.1:{gateway.port}", b"evil.example") == [401, 101]


async def test_an_embedded_application_answers_to_no_other_name_either() -> None:
    async with under_uvicorn(create_app(QUICK)) as place:
        assert await asked_by(place, b"evil.example") == [403, 403]
        assert await asked_by(place, b"localhost") == [200, 101]
    async with under_ours(app_with(lambda credentials: "ann")) as place:
        assert await asked_by(place, b"evil.example") == [200, 101]
