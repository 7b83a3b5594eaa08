"""A token that expires in mid-connection: who is warned, who stays, who goes, and what the streams do meanwhile."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from tests.gateway.conftest import Client, client_of, count_text, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import until

from everstream.client import Client as OurClient
from everstream.core.errors import EverstreamError
from everstream.gateway import standing
from everstream.gateway.auth import Credentials, Principal
from everstream.gateway.standing import TIMER_S_MAX, Standing
from everstream.link import LinkState

SHORT_S = 0.3  # long enough for a hello and a command on a busy machine


def soon(seconds: float = SHORT_S) -> float:
    return time.time() + seconds


def warnings_of(client: Client) -> list[dict[str, Any]]:
    return [frame for frame in client.frames if frame["type"] == "error" and "id" not in frame]


async def test_an_expired_connection_is_warned_then_closed_and_its_stream_goes_on_elsewhere() -> None:
    door = Door(old=person("ann", expires_at=soon()), new=person("ann"))
    async with serving(authenticate=door) as gateway, gateway.client(hello=False) as first:
        await first.ask("hello", token="old")
        stream = await first.generate("hand/any")
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].words("before ")
        held = await first.until(lambda frame: frame["type"] == "delta_text")
        assert await first.closed() == 4005
        assert first.socket.close_reason == "authentication expired"
        (warning,) = warnings_of(first)
        assert (warning["code"], warning["retryable"]) == ("auth.required", True)
        gateway.hand.calls[0].words("and after")
        gateway.hand.calls[0].end()
        place = {"stream": stream, "epoch": gateway.node.hub.get(stream).log.epoch, "offset": held["upto"]}  # type: ignore[union-attr]
        async with gateway.client(hello=False) as again:
            await again.ask("hello", token="new", resume=[place])
            assert (await again.ended(stream))["reason"] == "complete"
            assert (again.streams[stream].text, again.streams[stream].snapshots) == ("and after", 0)
        counters = gateway.node.counters
        assert (counters.connections_expired, counters.connections_refused) == (1, 0)


async def test_a_renewed_connection_stays_and_the_other_one_does_not() -> None:
    door = Door(old=person("ann", expires_at=soon()), new=person("ann", expires_at=soon(60)))
    async with (
        serving(authenticate=door) as gateway,
        gateway.client(hello=False) as renewed,
        gateway.client(hello=False) as other,
    ):
        for client in (renewed, other):
            await client.ask("hello", token="old")
        await renewed.until(lambda frame: frame.get("code") == "auth.required")
        assert (await renewed.ask("auth", token="new"))["type"] == "ok"
        assert await other.closed() == 4005
        assert (await renewed.ask("ping"))["type"] == "pong"
        assert len(warnings_of(renewed)) == 1


async def test_a_renewal_that_ends_earlier_counts_as_it_says() -> None:
    door = Door(long=person("ann", expires_at=soon(3600)), short=person("ann", expires_at=soon()))
    async with serving(authenticate=door) as gateway, gateway.client(hello=False) as client:
        await client.ask("hello", token="long")
        assert (await client.ask("auth", token="short"))["type"] == "ok"
        assert await client.closed() == 4005


async def test_the_same_token_again_is_warned_of_once() -> None:
    door = Door(old=person("ann", expires_at=soon()))
    async with serving(authenticate=door) as gateway, gateway.client(hello=False) as client:
        await client.ask("hello", token="old")
        await client.until(lambda frame: frame.get("code") == "auth.required")
        await client.ask("auth", token="old")
        assert await client.closed() == 4005
        assert len(warnings_of(client)) == 1, "a client that renews at each warning must not go round and round"


async def test_an_expired_token_renews_nothing() -> None:
    door = Door(good=person("ann"), gone=person("ann", expires_at=time.time() - 1))
    async with serving(authenticate=door) as gateway, gateway.client(hello=False) as client:
        await client.ask("hello", token="good")
        assert (await client.ask("auth", token="gone"))["code"] == "auth.denied"
        assert (await client.ask("models"))["type"] == "ok"


async def test_a_token_that_expires_while_hello_waits_is_refused() -> None:
    door = Door(old=person("ann", expires_at=soon(0.1)))
    door.open.clear()
    async with serving(authenticate=door) as gateway, gateway.client(hello=False) as client:
        await client.send(type="hello", id=1, token="old")
        await client.send(type="models", id=2)
        await until(lambda: time.time() > (door.people["old"].expires_at or 0))
        door.open.set()
        assert await client.closed() == 4501
        assert [(frame["type"], frame["code"]) for frame in client.frames] == [("error", "auth.denied")]
        assert gateway.node.counters.connections_refused == 1


async def test_our_own_client_renews_in_time_and_reads_on_without_a_break() -> None:
    given: list[str] = []

    async def who(credentials: Credentials) -> Principal:
        return Principal("ann", "Ann", float(str(credentials.token)))

    def token() -> str:
        given.append(str(soon()))
        return given[-1]

    states: list[LinkState] = []
    async with (
        serving(authenticate=who) as gateway,
        OurClient(gateway.ws_url, token, on_state=lambda state, why: states.append(state)) as client,
    ):
        stream = await client.generate("scripted/count", "count", tokens=60, rate=60)
        result = await stream.result()
    assert result.text == count_text(60)
    assert len(given) >= 3, "a second at 0.3 s each"
    assert states.count(LinkState.OPEN) == 1, "it never had to come back"


async def test_a_client_that_cannot_renew_comes_back_with_a_new_token() -> None:
    door = Door(old=person("ann", expires_at=soon()), new=person("ann"))
    async with serving(authenticate=door) as gateway:
        async with client_of(gateway.ws_url, hello=False) as client:
            await client.ask("hello", token="old")
            assert await client.closed() == 4005
        async with client_of(gateway.ws_url, hello=False) as client:
            assert (await client.ask("hello", token="new"))["type"] == "welcome"


# --------------------------------------------------------------------------- the clock


class Told:
    """A standing on a clock that the test sets, and what it has said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, expires_at: Any, now: float = 1_000.0) -> None:
        self.now = now
        self.said: list[str] = []
        monkeypatch.setattr(standing, "time", self)
        connection = HTTPConnection({"type": "websocket", "headers": [], "client": None})

        async def who(credentials: Credentials) -> Principal:
            return Principal("ann", "Ann", expires_at)

        self.standing = Standing(
            connection, who, 1.0, lambda: self.said.append("soon"), lambda: self.said.append("over")
        )

    def time(self) -> float:
        return self.now

    @property
    def timer_in_s(self) -> float:
        timer = self.standing._timer
        assert timer is not None
        return timer.when() - asyncio.get_running_loop().time()

    def ring(self, now: float) -> list[str]:
        """As if the timer rang when the wall's clock says `now`."""
        self.now = now
        self.standing._look()
        return self.said


@pytest.mark.parametrize("years_ahead", [1e12, 1e300, math.inf, 10**400])
async def test_a_token_that_lasts_for_years_sets_a_timer_of_a_day(
    monkeypatch: pytest.MonkeyPatch, years_ahead: float
) -> None:
    told = Told(monkeypatch, years_ahead)
    await told.standing.admit("t")
    assert 0 < told.timer_in_s <= TIMER_S_MAX
    assert told.ring(1_000.0 + TIMER_S_MAX) == []
    assert 0 < told.timer_in_s <= TIMER_S_MAX
    told.standing.end()


@pytest.mark.parametrize("expires_at", [0, -1.0, 1_000.0, -math.inf, math.nan])
async def test_what_is_no_later_time_lets_nobody_in(monkeypatch: pytest.MonkeyPatch, expires_at: float) -> None:
    told = Told(monkeypatch, expires_at)
    with pytest.raises(EverstreamError) as refused:
        await told.standing.admit("t")
    assert refused.value.code == "auth.denied"


@pytest.mark.parametrize(("holds_s", "warned_s"), [(3_600, 3_570), (300, 270), (100, 90), (10, 9)])
async def test_the_warning_comes_half_a_minute_before_or_a_tenth(
    monkeypatch: pytest.MonkeyPatch, holds_s: float, warned_s: float
) -> None:
    told = Told(monkeypatch, 1_000.0 + holds_s)
    await told.standing.admit("t")
    assert told.timer_in_s == pytest.approx(warned_s, abs=0.5)
    assert told.ring(1_000.0 + warned_s - 0.01) == [], "a timer may ring too early"
    assert told.ring(1_000.0 + warned_s) == ["soon"]
    assert told.ring(1_000.0 + holds_s - 0.01) == ["soon"]
    assert told.ring(1_000.0 + holds_s) == ["soon", "over"]


async def test_a_clock_that_was_set_back_gives_the_time_that_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, 1_100.0)
    await told.standing.admit("t")
    assert told.ring(1_090.0) == ["soon"]
    assert told.ring(500.0) == ["soon"], "neither over, nor told again"
    assert told.timer_in_s == pytest.approx(590.0, abs=0.5)
    told.standing.end()
