"""The TypeScript client before real servers, on roads that lose connections: no letter is lost, and none is doubled.

Each answer is read in all ways that the client has, and each must be what the log says, read back over HTTP.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.server import ServerProcess
from tests.web.browser import counted
from tests.web.built_client import build_client
from tests.web.driven import Driven, Told
from tests.web.node import CannotInstall
from tests.web.people import signed
from tests.web.road import Road

TOKENS = 300
RATE = 200.0  # tokens a second
MODEL = "scripted/count"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, built."""
    try:
        return build_client(tmp_path_factory.mktemp("client")) / "dist"
    except CannotInstall as problem:
        pytest.skip(f"the client's packages cannot be installed: {problem}")


@pytest.fixture
def road(server: ServerProcess) -> Iterator[Road]:
    with Road(server.port) as road:
        yield road


def asked(name: str = "a", tokens: int = TOKENS, **fields: object) -> dict[str, object]:
    params = {"tokens": tokens, "rate": RATE}
    return {"name": name, "model": MODEL, "messages": "Count!", "params": params, **fields}


def log_of(server: ServerProcess, stream: str) -> tuple[str, str]:
    """The text of a stream and the reason of its end, as its log has them."""
    _, body = server.get(f"/v1/streams/{stream}?format=native")
    entries = [json.loads(line.removeprefix("data:")) for line in body.decode().splitlines() if line[:5] == "data:"]
    assert entries[-1]["type"] in ("stream_end", "snapshot")
    text = "".join(entry["text"] for entry in entries if entry["type"] in ("delta_text", "snapshot"))
    end = entries[-1] if entries[-1]["type"] == "stream_end" else entries[-1]["end"]
    return text, end["reason"]


def assert_whole(server: ServerProcess, ended: Told, reason: str = "complete", tokens: int = TOKENS) -> None:
    text, ended_by = log_of(server, ended["stream"])
    assert ended["texts"] == [text] * 4
    assert (ended["reason"], ended_by) == (reason, reason)
    if reason == "complete":
        assert text == counted(tokens)


WAYS = {
    "json": {"transport": "websocket"},
    "msgpack": {"transport": "websocket", "encoding": "msgpack"},
    "http": {"transport": "http"},
}


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_whole_however_often_its_connection_is_cut(
    way: str, dist: Path, server: ServerProcess, road: Road
) -> None:
    chance = random.Random(way)
    cuts = 0
    with Driven(dist, road.url, **WAYS[way]) as client:
        client.order("open")
        client.order("generate", **asked())
        while True:
            told = client.next()
            if told["event"] == "ended":
                break
            if told["event"] == "grown" and chance.random() < 0.05:
                road.cut()
                cuts += 1
        assert_whole(server, told)
    assert cuts >= 3
    assert sum(told["event"] == "state" and told["state"] == "open" for told in client.told) >= 3


def test_an_answer_is_whole_where_transports_change_in_the_middle(
    dist: Path, server: ServerProcess, road: Road
) -> None:
    road.websockets = "refused"
    with Driven(dist, road.url, transport="auto") as client:
        client.order("open")
        client.order("generate", **asked(tokens=600))
        client.wait("state", state="open", transport="http")
        client.wait_grown("a", 100)
        road.websockets = "through"
        road.broken = True
        road.cut()
        client.wait("state", state="connecting", transport="http")
        client.wait("state", state="connecting", transport="websocket")
        road.broken = False
        opened = client.wait("state", state="open")
        if opened["transport"] == "http":  # they took turns, and this one was let in first
            road.cut()
        assert_whole(server, client.wait("ended"), tokens=600)
    assert {told["transport"] for told in client.told if told["event"] == "state"} == {None, "http", "websocket"}


def test_an_answer_goes_on_when_its_server_is_killed_and_comes_back(dist: Path, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        server.start()
        with Driven(dist, server.url, encoding="msgpack") as client:
            client.order("open")
            client.order("generate", **asked(tokens=600))
            client.wait_grown("a", 200)
            server.kill9()
            client.wait("state", state="waiting")
            server.start()
            ended = client.wait("ended", within_s=60.0)
            assert_whole(server, ended, tokens=600)


def test_an_answer_goes_on_over_another_server(dist: Path, tmp_path: Path) -> None:
    second = ServerProcess(tmp_path / "data")
    with second, ServerProcess(tmp_path / "data", owns_store=False) as first:
        first.start()
        second.start()
        for way in WAYS:
            with Road(first.port, second.port) as road, Driven(dist, road.url, **WAYS[way]) as client:
                client.order("open")
                client.order("generate", **asked())
                client.wait_grown("a", 100)
                road.ports = [second.port]
                road.cut()
                assert_whole(second, client.wait("ended"))


def test_commands_are_carried_out_where_events_are_on_another_server(dist: Path, tmp_path: Path) -> None:
    second = ServerProcess(tmp_path / "data")
    with second, ServerProcess(tmp_path / "data", owns_store=False) as first:
        first.start()
        second.start()
        with Road(first.port) as road, Driven(dist, road.url, transport="http") as client:
            client.order("open")
            client.wait("state", state="open")
            road.ports = [second.port]  # new connections only: the events stay where they are
            client.order("generate", **asked("a", tokens=100))
            client.order("generate", **asked("b", tokens=100))
            ended = {told["name"]: told for told in (client.wait("ended"), client.wait("ended"))}
            for name in "ab":
                assert_whole(second, ended[name], tokens=100)


def test_a_stop_while_there_is_no_connection_is_a_stop(dist: Path, server: ServerProcess, road: Road) -> None:
    with Driven(dist, road.url) as client:
        client.order("open")
        client.order("generate", **asked(tokens=100_000))
        client.wait_grown("a", 50)
        road.broken = True
        road.cut()
        client.wait("state", state="waiting")
        client.order("cancel", name="a")
        road.broken = False
        fence = client.wait("fence", name="a")
        ended = client.wait("ended", name="a")
        assert_whole(server, ended, "cancelled")
        assert fence["stream"] == ended["stream"]
        _, body = server.get(f"/v1/streams/{fence['stream']}?offset={fence['offset'] - 1}")
        assert f'"upto":{fence["offset"]}' in body.decode()


@pytest.mark.parametrize("way", WAYS)
def test_a_lost_reply_starts_nothing_twice(way: str, dist: Path, server: ServerProcess, road: Road) -> None:
    with Driven(dist, road.url, **WAYS[way]) as client:
        client.order("open")
        client.wait("state", state="open")
        client.order("loseReply", type="generate")
        client.order("generate", **asked(tokens=50, request_id=f"lost {way}"))
        client.wait("state", state="closed")
        ended = client.wait("ended")
        assert_whole(server, ended, tokens=50)
        client.order("generate", **asked("again", tokens=50, request_id=f"lost {way}"))
        again = client.wait("ended", name="again")
        assert again["stream"] == ended["stream"]


def test_a_position_is_read_on_by_another_client(dist: Path, server: ServerProcess, road: Road) -> None:
    with Driven(dist, road.url) as first:
        first.order("open")
        first.order("generate", **asked())
        first.wait_grown("a", 100)
        first.order("position", name="a")
        place = first.wait("position")["position"]
    with Driven(dist, road.url, transport="http") as second:
        second.order("open")
        second.order("subscribe", name="a", place=place)
        ended = second.wait("ended")
    text, _ = log_of(server, place["stream"])
    pieces, parts, whole, held = ended["texts"]
    assert (pieces, parts, held) == (text[place["characters"] :],) * 3
    assert whole == text == counted(TOKENS)


def test_two_clients_of_a_session_see_the_same_through_all_that_happens(
    dist: Path, server: ServerProcess, road: Road
) -> None:
    chosen = {"model": MODEL, "params": {"tokens": 100, "rate": RATE}}
    with Driven(dist, road.url) as ada, Driven(dist, road.url, transport="http") as bob:
        ada.order("open")
        bob.order("open")
        ada.order("session", name="s")
        ada.order("send", name="s", content="Count!", chosen=chosen)
        made = ada.wait("made")["id"]
        bob.order("session", name="s", id=made)
        bob.wait_grown("s", 20)
        road.cut()
        ada.order("send", name="s", content="Once more!", chosen=chosen)
        road.cut()
        said = ["Count!", counted(100), "Once more!", counted(100)]
        for client in (ada, bob):
            while (shown := client.wait("session"))["said"] != said or shown["turns"] or shown["requests"]:
                pass


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_a_token_that_expires_is_followed_by_another(transport: str, dist: Path, guarded: ServerProcess) -> None:
    tokens = [signed("ann", lives_s) for lives_s in (3.0, 600.0)]
    with Driven(dist, guarded.url, transport=transport, tokens=tokens) as client:
        client.order("open")
        client.order("generate", **asked(tokens=900))
        ended = client.wait("ended")
        assert ended["texts"] == [counted(900)] * 4
        opened = sum(told["event"] == "state" and told["state"] == "open" for told in client.told)
        assert opened == (1 if transport == "websocket" else 2)  # a socket is told before, and renewed in band


def test_a_token_that_is_refused_is_told_of(dist: Path, guarded: ServerProcess) -> None:
    for transport in ("websocket", "http"):
        with Driven(dist, guarded.url, transport=transport) as client:
            client.order("open")
            assert client.wait("token")["why"] == "required"
            assert client.told[-2]["state"] == "refused"
            client.order("renew", token="wrong")
            client.wait("renewed")
            client.order("open")
            assert client.wait("token")["why"] == "refused"
            client.order("renew", token=signed("ann", 600.0))
            client.wait("renewed")
            client.order("open")
            client.wait("state", state="open")
