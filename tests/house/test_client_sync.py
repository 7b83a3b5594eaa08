"""The client for plain functions: the same answers, from any thread, and nothing left running."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from tests.gateway.conftest import Gateway, count_text, serving
from tests.house.fake_server import FakeServer, answer, fake_server, text, until

from everstream.client_sync import Position, SyncClient, TextWithdrawn
from everstream.core.errors import EverstreamError
from everstream.gateway.server import Server
from everstream.link import LinkState
from everstream.portal import Portal
from everstream.reconnect import Backoff

T = TypeVar("T")
WAIT_S = 20.0


class Remote(Portal):
    """A thread in which a test's server lives: what the test does to it is done there."""

    def do(self, act: Callable[[], T]) -> T:
        async def done() -> T:
            return act()

        return self.call(done())

    def until(self, condition: Callable[[], Any]) -> None:
        self.call(until(condition))


@pytest.fixture
def remote() -> Iterator[Remote]:
    with Remote("the test's server") as remote:
        yield remote


@pytest.fixture
def server(remote: Remote) -> Iterator[FakeServer]:
    made = fake_server()
    yield remote.call(made.__aenter__())
    remote.call(made.__aexit__(None, None, None))


@pytest.fixture
def gateway(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(Server, "capture_signals", lambda _: contextlib.nullcontext())  # only a main thread may
    made = serving()
    yield remote.call(made.__aenter__())
    remote.call(made.__aexit__(None, None, None))


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(2)
    assert not [thread for thread in left if thread.is_alive()]


def client_of(server: FakeServer | Gateway, **more: Any) -> SyncClient:
    url = server.url if isinstance(server, FakeServer) else server.ws_url
    return SyncClient(url, backoff=Backoff(0.01, 0.05), **more)


# --------------------------------------------------------------------------- reading


def test_text_frames_and_result_of_an_answer(server: FakeServer) -> None:
    with client_of(server) as client:
        assert list(client.generate("fake/one", "hi")) == ["one", " two", " three"]
        kinds = [frame["type"] for frame in client.generate("fake/one", "hi").frames()]
        assert kinds == ["request_start", "delta_text", "delta_text", "delta_text", "stream_end"]
        result = client.generate("fake/one", "hi", max_tokens=3).result(WAIT_S)
        assert (result.text, result.partial) == ("one two three", False)
        assert [model["id"] for model in client.models()] == ["scripted/count", "far/away", "fake/one"]
        assert client.ping() > 0
        assert client.link_state is LinkState.OPEN
        assert client.welcome["node"] == "n_1"
    assert server.said("generate")[2]["params"] == {"max_tokens": 3}


def test_reading_can_be_left_and_taken_up_again(server: FakeServer) -> None:
    with client_of(server) as client:
        stream = client.generate("fake/one", "hi")
        for piece in stream:
            assert piece == "one"
            break
        assert stream.position == Position(stream.id, 7, 2, 3)
        assert next(iter(stream)) == " two"
        assert [frame["type"] for frame in stream.frames()] == ["delta_text", "stream_end"]
        assert list(stream) == []
        assert stream.position == Position(stream.id, 7, 5, len("one two three"))


def test_text_that_is_withdrawn_is_told_and_reading_goes_on(server: FakeServer) -> None:
    seam = {"type": "seam", "epoch": 9, "attempt": 2, "reason": "drain", "check": None, "continuation": "restart"}
    server.script = lambda _: [text("bad"), seam, *answer("good")]
    with client_of(server) as client:
        stream = client.generate("fake/one", "hi")
        with pytest.raises(TextWithdrawn):
            list(stream)
        assert list(stream) == ["good"]


def test_another_client_goes_on_from_a_saved_position(gateway: Gateway) -> None:
    with client_of(gateway) as client:
        stream = client.generate("scripted/count", "hi", tokens=30, rate=300)
        first = next(iter(stream))
        saved = str(stream.position)
    with client_of(gateway) as another:
        stream = another.subscribe(Position.parse(saved))
        assert first + "".join(stream) == stream.result(WAIT_S).text == count_text(30)


def test_a_dropped_connection_is_not_noticed(remote: Remote, server: FakeServer) -> None:
    server.drop_after = [2, 1]
    with client_of(server) as client:
        assert "".join(client.generate("fake/one", "hi")) == "one two three"
    assert server.connected == 3


def test_more_than_can_wait_comes_all_the_same(server: FakeServer) -> None:
    words = [f"{n} " for n in range(5000)]
    server.script = lambda _: answer(*words)
    with client_of(server) as client:
        stream = client.generate("fake/one", "hi")
        first = next(iter(stream))
        assert stream.result(WAIT_S).text == "".join(words)
        assert first + "".join(stream) == "".join(words)


# --------------------------------------------------------------------------- sessions


def test_a_session_is_spoken_in_from_plain_functions(gateway: Gateway) -> None:
    with client_of(gateway) as client:
        session = client.create_session(title="About", model="scripted/count")
        assert "".join(session.send("hi", tokens=3, rate=0)) == count_text(3)
        kinds = []
        for event in session.events():
            kinds.append(event["type"])
            if event["type"] == "turn_end":
                break
        assert [kind for kind in kinds if kind != "presence"] == ["message", "turn_start", "message", "turn_end"]
        first, reply = session.path()
        assert (first["content"], reply["content"]) == ("hi", count_text(3))
        assert session.regenerate(reply["id"], tokens=2, rate=0).result(WAIT_S).text == count_text(2)
        edited = session.edit(first["id"], "ho", tokens=100_000, rate=100)
        assert next(iter(session.stream(edited.id)))
        assert [fence["stream"] for fence in session.cancel()] == [edited.id]
        session.call(lambda s: s.update(title="Anew"))
        assert [found["title"] for found in client.sessions()] == ["Anew"]
        session.close()
        assert "message" in [event["type"] for event in session.events()]  # to their end
        assert list(session.events()) == []
    with client_of(gateway) as client:
        again = client.open_session(session.id, history=10)
        assert again.state.title == "Anew"
        assert len(again.path()) == 2


# --------------------------------------------------------------------------- threads


def test_a_stream_is_cancelled_from_another_thread(remote: Remote, gateway: Gateway) -> None:
    with client_of(gateway) as client, ThreadPoolExecutor(1) as pool:
        stream = client.generate("scripted/count", "hi", tokens=100_000, rate=100)
        got = [next(iter(stream))]
        cancelling = pool.submit(stream.cancel)
        got += stream
        fence = cancelling.result(WAIT_S)
        result = stream.result(WAIT_S)
    assert (result.reason, result.partial, result.text) == ("cancelled", True, "".join(got))
    assert stream.position.offset == fence


def test_twenty_streams_at_once_on_one_client(gateway: Gateway) -> None:
    with client_of(gateway) as client, ThreadPoolExecutor(20) as pool:

        def ask(n: int) -> str:
            return "".join(client.generate("scripted/count", "hi", tokens=50 + n, rate=500))

        answers = list(pool.map(ask, range(20), timeout=WAIT_S))
    assert answers == [count_text(50 + n) for n in range(20)]


async def test_it_works_in_a_thread_whose_loop_is_running(gateway: Gateway) -> None:
    with client_of(gateway) as client:
        assert "".join(client.generate("scripted/count", "hi", tokens=20, rate=0)) == count_text(20)
        loop, elsewhere = asyncio.get_running_loop(), client.generate("scripted/count", "hi", tokens=20, rate=0)
        with ThreadPoolExecutor(1) as pool:
            assert (await loop.run_in_executor(pool, elsewhere.result)).text == count_text(20)


def test_closing_ends_whoever_waits_in_another_thread(remote: Remote, server: FakeServer) -> None:
    server.allowed = 2
    with ThreadPoolExecutor(2) as pool:
        with client_of(server) as client:
            stream = client.generate("fake/one", "hi")
            reading, waiting = pool.submit(list, stream), pool.submit(stream.result)
            remote.until(lambda: server.said("generate"))
        for each in (reading, waiting):
            with pytest.raises(ConnectionError, match="closed"):
                each.result(WAIT_S)


def test_a_wait_for_the_result_has_a_limit(server: FakeServer) -> None:
    server.allowed = 2
    with client_of(server) as client:
        with pytest.raises(TimeoutError):
            client.generate("fake/one", "hi").result(0.01)
        assert client.models()


def test_a_token_is_asked_for_anew_when_it_has_expired(remote: Remote, server: FakeServer) -> None:
    server.tokens, tokens = {"a", "b"}, iter("abc")
    with client_of(server, token=lambda: next(tokens)) as client:
        remote.call(server.close_all(4005))
        remote.until(lambda: server.connected == 2)
        client.models()
        with pytest.raises(EverstreamError):
            client.authenticate("z")
    assert [hello["token"] for hello in server.said("hello")] == ["a", "b"]


# --------------------------------------------------------------------------- coming and going


def test_what_is_wrong_is_raised_as_it_is(server: FakeServer) -> None:
    with client_of(server) as client, pytest.raises(EverstreamError) as caught:
        client.subscribe("r_none")
    assert caught.value.code == "stream.unknown"


def test_without_a_server_nothing_is_left_open() -> None:
    with pytest.raises(ConnectionError, match="no server"):
        SyncClient("ws://127.0.0.1:9", connect_timeout_s=0.05).open()


def test_a_client_that_is_not_open_says_so(server: FakeServer) -> None:
    client = client_of(server)
    with pytest.raises(ConnectionError, match="not open"):
        client.generate("fake/one", "hi")
    with client:
        stream = client.generate("fake/one", "hi")
        with pytest.raises(RuntimeError, match="once"):
            client.open()
    client.close()
    for act in (client.models, stream.cancel, stream.result, lambda: list(stream)):
        with pytest.raises(ConnectionError, match="closed"):
            act()


def test_its_own_thread_is_told_that_it_would_wait_for_itself(server: FakeServer) -> None:
    told: list[str] = []

    def on_state(state: LinkState, _: str) -> None:
        if state is LinkState.OPEN:
            with pytest.raises(RuntimeError) as caught:
                client.models()
            told.append(str(caught.value))

    client = client_of(server, on_state=on_state)
    with client:
        assert client.models()
    assert "wait for its own thread" in told[0]


def test_leaving_it_keeps_the_generation_going(remote: Remote, server: FakeServer) -> None:
    server.allowed = 2
    with client_of(server) as client:
        stream = client.generate("fake/one", "hi")
        assert next(iter(stream)) == "one"
        stream.unsubscribe()
        assert list(stream) == []
        remote.do(lambda: server.streams[stream.id].allow())
        assert client.subscribe(stream.id).result(WAIT_S).text == "one two three"
