"""Every key runs out, and none before its time: nothing stays in a store whose nodes never come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import pytest
from tests.store.conftest import Place, Seat, new_stream
from tests.store.servers import StoreServer
from tests.store.test_contract import END, HEAD, begun, commit, words

from everstream.core.events import Mark
from everstream.core.lease import Epochs
from everstream.core.summary import Summary
from everstream.settings import Settings
from everstream.store.base import Write
from everstream.store.urls import store_of
from everstream.store.valkey import ValkeyStore

TTL_S = 1_000
SESSION_TTL_S = 3_000
STRIDE = 250  # a quarter of the shorter TTL, for two seconds an entry
WAIT_S = 10.0


async def asleep(seat: Seat, stream: str) -> str:
    _, epochs = await begun(seat, HEAD, stream)
    assert await seat.store.rest(stream, epochs[-1][0], 3)
    return stream


async def busy(one: Seat, two: Seat) -> list[str]:
    """Every verb of a store, on streams in every state, in several partitions."""
    made = []
    for partition in (0, 7, 63):
        stream = new_stream(partition)
        created = await one.store.create(stream, f"q{partition}", b"meta")
        await commit(one, Write(stream, created.epochs, 0, HEAD, False, "n_one", b"meta", {2: Mark("m", (1,))}))
        made.append(stream)
    handed = await one.store.create(new_stream(), "", b"meta", "n_two")
    empty = await one.store.create(new_stream(), "", b"meta")
    ended, epochs = await begun(one, HEAD)
    await commit(one, Write(ended, epochs, 3, [END], True, "n_one"))
    folded, epochs = await begun(one, HEAD)
    await commit(one, Write(folded, epochs, 3, [END], True, "n_one"))
    await one.store.fold(folded, 4, Summary("x" * 1000, end=END))
    reopened, epochs = await begun(one, HEAD)
    await commit(one, Write(reopened, epochs, 3, [END], True, "n_one"))
    newer = (*epochs, (epochs[0][0] + 5000, 3))
    await commit(one, Write(reopened, newer, 3, words("a"), False, "n_two"))
    lost = new_stream()
    await commit(one, Write(lost, ((1024, 0),), 0, HEAD, False, "n_one", b"meta"))
    await two.store.mark_cancelled(lost)
    await two.store.follow(lost)
    assert await two.store.adopt(made[1], "n_one") is not None
    assert await two.store.adopt(handed.stream, "n_two") is not None
    left, epochs = await begun(one, HEAD)
    assert await one.store.hand_over(left, epochs[-1][0], 3, "")
    resting, woken = [await asleep(one, new_stream(9, "s")) for _ in range(2)]
    assert await two.store.adopt(woken, "") is not None
    purged = [await asleep(one, new_stream(9, "s")), (await begun(one, HEAD, new_stream(9)))[0], new_stream(9)]
    await one.store.purge(purged)
    for session in (resting, woken):
        await one.store.rank("user", session, 7)
    await one.store.unrank("user", woken)
    await one.store.remember("note", b"v", 60)
    for row in ("kept", "dropped"):
        await one.store.put_row("table", row, b"v")
    assert await two.store.drop_row("table", "dropped")
    for seat in (one, two):
        await seat.store.renew(60_000)
    await one.store.send("n_two", b"hello")
    return [*made, handed.stream, empty.stream, ended, folded, reopened, lost, left, resting, woken, *purged]


async def test_every_key_of_a_busy_store_runs_out(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("only a server keeps time for its keys")
    one, two = await place.seat(), await place.seat("n_two")
    streams = await busy(one, two)
    left = await place.keys()
    heads = {key.rpartition(":")[2] for key in left if ":h:" in key}
    assert heads == set(streams), "the keys were looked for in the wrong place"
    assert not [key for key, ttl_s in left.items() if ttl_s < 1]


@pytest.fixture
async def seat(server: StoreServer) -> AsyncIterator[Seat]:
    seat = Seat(ValkeyStore(server.unix_url, stream_ttl_s=TTL_S, session_ttl_s=SESSION_TTL_S), "n_one")
    await seat.store.open("n_one", seat.pushes.append, seat.messages.append)
    yield seat
    await seat.store.close()


Kind = Literal["r", "s"]
of_both_kinds = pytest.mark.parametrize("kind", ["r", "s"])


class Clock:
    """The keys of a stream, and what is left of their time."""

    def __init__(self, server: StoreServer, stream: str) -> None:
        self._server = server
        self._keys = (f"es:{{p7}}:h:{stream}", f"es:{{p7}}:l:{stream}", "es:{p7}:o")
        self.ttl_s = TTL_S if stream[0] == "r" else SESSION_TTL_S

    async def shorten(self) -> None:
        """To half of it."""
        await self._server.ask(*(f"EXPIRE {key} {self.ttl_s // 2}" for key in self._keys))

    async def left_s(self) -> list[int]:
        return [int(reply) for reply in await self._server.ask(*(f"TTL {key}" for key in self._keys))]

    async def fresh(self) -> bool:
        head_s, list_s, open_s = await self.left_s()
        return self.ttl_s - 60 < head_s <= list_s <= self.ttl_s and open_s > head_s


async def led(seat: Seat, server: StoreServer, kind: Kind = "r") -> tuple[str, Epochs, Clock]:
    stream, epochs = await begun(seat, HEAD, new_stream(7, kind))
    return stream, epochs, Clock(server, stream)


@of_both_kinds
async def test_an_open_stream_runs_out_after_its_nodes_and_its_name_after_it(
    seat: Seat, server: StoreServer, kind: Kind
) -> None:
    _, _, clock = await led(seat, server, kind)
    assert await clock.fresh()


@of_both_kinds
async def test_a_probe_gives_an_open_stream_its_time_again(seat: Seat, server: StoreServer, kind: Kind) -> None:
    stream, epochs, clock = await led(seat, server, kind)
    await clock.shorten()
    await commit(seat, Write(stream, epochs, 3, [], False, "n_one"))
    assert await clock.fresh()


@of_both_kinds
async def test_a_stream_that_is_never_silent_gets_its_time_with_every_stride(
    seat: Seat, server: StoreServer, kind: Kind
) -> None:
    stream, epochs, clock = await led(seat, server, kind)
    await commit(seat, Write(stream, epochs, 3, words(*"x" * (STRIDE - 5)), False, "n_one"))
    await clock.shorten()
    await commit(seat, Write(stream, epochs, STRIDE - 2, words("x"), False, "n_one"))
    assert not await clock.fresh(), "a commit that pays for it every time would be dear"
    await commit(seat, Write(stream, epochs, STRIDE - 1, words("x"), False, "n_one"))
    assert await clock.fresh()


@of_both_kinds
async def test_adopting_and_a_newer_epoch_give_a_stream_its_time_again(
    seat: Seat, server: StoreServer, kind: Kind
) -> None:
    stream, _, clock = await led(seat, server, kind)
    await clock.shorten()
    adopted = await seat.store.adopt(stream, "n_one")
    assert adopted is not None
    assert await clock.fresh()
    await clock.shorten()
    newer = (*adopted.head.epochs, (adopted.head.epochs[-1][0] + 5000, 3))
    await commit(seat, Write(stream, newer, 3, words("a"), False, "n_two"))
    assert await clock.fresh()


@of_both_kinds
async def test_a_list_that_was_cut_to_nothing_runs_out_too(seat: Seat, server: StoreServer, kind: Kind) -> None:
    stream, epochs, clock = await led(seat, server, kind)
    await commit(seat, Write(stream, ((epochs[0][0] + 5000, 0),), 0, HEAD, False, "n_one", b"m"))
    assert await clock.fresh()


@of_both_kinds
async def test_an_ended_stream_has_its_time_from_the_end_on(seat: Seat, server: StoreServer, kind: Kind) -> None:
    stream, epochs, clock = await led(seat, server, kind)
    await clock.shorten()
    await commit(seat, Write(stream, epochs, 3, [END], True, "n_one"))
    head_s, list_s, open_s = await clock.left_s()
    assert min(head_s, list_s) > clock.ttl_s - 60
    assert open_s == -2, "the last open stream of the partition has ended"


async def test_a_node_that_keeps_streams_for_less_takes_no_time_from_others(seat: Seat, server: StoreServer) -> None:
    _, _, clock = await led(seat, server)
    brief = Seat(ValkeyStore(server.unix_url, stream_ttl_s=60, session_ttl_s=60), "n_brief")
    await brief.store.open("n_brief", brief.pushes.append, brief.messages.append)
    try:
        await begun(brief, HEAD)
    finally:
        await brief.store.close()
    assert await clock.fresh()


async def test_leases_outlive_the_streams_they_are_for(seat: Seat, server: StoreServer) -> None:
    await seat.store.renew(100)
    async with asyncio.timeout(WAIT_S):
        while await seat.store.nodes():
            await asyncio.sleep(0.01)  # pause: the passing of time is what is tested
    assert int((await server.ask("TTL es:nodes"))[0]) > SESSION_TTL_S


# --------------------------------------------------------------------------- sessions


@of_both_kinds
async def test_a_stream_that_is_laid_to_rest_has_its_time_from_then_on(
    seat: Seat, server: StoreServer, kind: Kind
) -> None:
    stream, epochs, clock = await led(seat, server, kind)
    await clock.shorten()
    assert await seat.store.rest(stream, epochs[-1][0], 3)
    head_s, list_s, open_s = await clock.left_s()
    assert clock.ttl_s - 60 < head_s <= list_s <= clock.ttl_s
    assert open_s == -2, "the last open stream of the partition is at rest"
    await clock.shorten()
    assert await seat.store.adopt(stream, "") is not None
    assert await clock.fresh()


async def test_a_stream_at_rest_that_is_handed_over_is_an_open_one_that_lasts(seat: Seat, server: StoreServer) -> None:
    stream, epochs, clock = await led(seat, server, "s")
    assert await seat.store.rest(stream, epochs[-1][0], 3)
    assert await seat.store.hand_over(stream, epochs[-1][0], 3, "n_two")
    assert await clock.fresh()


async def test_the_names_of_open_streams_outlast_the_longest_of_them(seat: Seat, server: StoreServer) -> None:
    _, _, response = await led(seat, server, "r")
    session, epochs, clock = await led(seat, server, "s")
    assert await clock.fresh(), "the session came last"
    _, _, later = await led(seat, server, "r")
    assert await clock.fresh(), "a response came last"
    await commit(seat, Write(session, epochs, 3, words("a"), False, "n_one"))
    assert await response.fresh()
    assert await later.fresh()
    assert await clock.fresh()


@of_both_kinds
async def test_what_is_left_of_a_purged_stream_lasts_as_long_as_a_response(
    seat: Seat, server: StoreServer, kind: Kind
) -> None:
    stream, epochs, clock = await led(seat, server, kind)
    for _ in range(2):
        await seat.store.purge([stream])
        head_s, list_s, open_s = await clock.left_s()
        assert (TTL_S - 60 < head_s <= TTL_S, list_s, open_s) == (True, -2, -2)
        await commit(seat, Write(stream, epochs, 3, words("a"), False, "n_one"))
        await seat.store.follow(stream)
        await seat.store.mark_cancelled(stream)
    head = f"es:{{p7}}:h:{stream}"
    assert await server.ask(f"HLEN {head}", f"HGET {head} e", f"HGET {head} s") == ["2", "9007199254740991:0", "1"]


async def test_a_ranking_lasts_for_the_session_ttl_from_its_last_change(seat: Seat, server: StoreServer) -> None:
    async def left_s(key: str) -> int:
        return int((await server.ask(f"TTL {key}"))[0])

    for member in ("s_a", "s_b"):
        await seat.store.rank("user", member, 1)
    (key,) = [key async for key in seat.store._deployment.server(0).client.scan_iter(match="es:{p*}:z:*")]
    assert SESSION_TTL_S - 60 < await left_s(key.decode()) <= SESSION_TTL_S
    for change in (seat.store.rank("user", "s_a", 2), seat.store.unrank("user", "s_a")):
        await server.ask(f"EXPIRE {key.decode()} 500")
        await change
        assert SESSION_TTL_S - 60 < await left_s(key.decode()) <= SESSION_TTL_S


async def test_what_the_settings_say_is_how_long_things_are_kept(server: StoreServer) -> None:
    store = store_of(Settings(store=server.unix_url, stream_ttl_s=TTL_S, session_ttl_s=SESSION_TTL_S))
    seat = Seat(store, "n_one")
    await store.open("n_one", seat.pushes.append, seat.messages.append)
    try:
        for kind in ("r", "s"):
            _, _, clock = await led(seat, server, kind)
            assert await clock.fresh()
    finally:
        await store.close()


async def test_sessions_are_kept_for_ninety_days_and_responses_for_seven(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("only a server keeps time for its keys")
    seat = await place.seat()
    days: dict[Kind, int] = {"r": 7, "s": 90}
    made = {(await begun(seat, HEAD, new_stream(7, kind)))[0]: days[kind] for kind in days}
    left = await place.keys()
    for stream, kept_days in made.items():
        kept_s = kept_days * 86_400
        assert all(kept_s - 60 < left[f"es:{{p7}}:{key}:{stream}"] <= kept_s for key in "hl")
