"""Who is there and who types, over nodes that come, go and lose messages: all come to see the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from tests.runtime.conftest import until

from everstream.core.lease import PARTITIONS, owner_of, stream_id
from everstream.runtime import presence, presence_host, presence_post
from everstream.runtime.presence import Person, Presence
from everstream.runtime.presence_host import Hosts, Roll, added
from everstream.store.memory import MemoryStore

FOR_EVER_MS = 10**15
ANN, BEN, EVE = Person("u_ann", "Ann"), Person("u_ben", "Ben"), Person("u_eve", "Eve")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "ALIVE_S", 0.01)
    monkeypatch.setattr(presence, "SETTLE_S", 0.06)
    monkeypatch.setattr(presence, "FLUSH_S", 0.002)
    monkeypatch.setattr(presence, "REFRESH_S", 0.1)
    monkeypatch.setattr(presence, "EXPIRE_S", 60.0)  # where it is not what is tested, nothing goes by it


class Wire(MemoryStore):
    """A store that notes what is sent, and loses, doubles and delays it where it is told to."""

    def __init__(self, beside: Wire | None = None) -> None:
        super().__init__(beside.disk if beside else None)
        if beside:
            self.peers = beside.peers
        self.sent: list[tuple[str, bytes]] = []
        self.loses = False
        self.weather: random.Random | None = None

    async def send(self, node: str, message: bytes) -> None:
        await self.ping()
        self.sent.append((node, message))
        if self.loses:
            return
        if self.weather is None:
            await super().send(node, message)
            return
        for _ in range(self.weather.choice((0, 1, 1, 2))):
            if node in self.peers:
                late_s = self.weather.choice((0.0, 0.01, 0.04))
                asyncio.get_running_loop().call_later(late_s, self.peers[node]._on_message, message)


class Connection:
    """An attendee: what it was told, or asked for itself when it entered."""

    def __init__(self) -> None:
        self.lists: list[list[dict[str, Any]]] = []
        self.typings: list[tuple[str, bool]] = []

    def presence(self, session: str, users: list[dict[str, Any]]) -> None:
        self.lists.append(users)

    def typing(self, session: str, user: str, typing: bool) -> None:
        self.typings.append((user, typing))

    @property
    def sees(self) -> dict[str, int]:
        return {user["id"]: user["connections"] for user in self.lists[-1]}


class Site:
    """A node as far as it matters here."""

    def __init__(self, name: str, store: Wire, *, leads: bool = True) -> None:
        self.name, self.store = name, store
        self.presence = Presence(store, name, asyncio.get_running_loop().time)
        if leads:
            store.disk.leases[name] = FOR_EVER_MS

    async def open(self) -> None:
        await self.store.open(self.name, lambda push: None, self.hears)
        self.presence.start()

    def hears(self, message: bytes) -> None:
        assert self.presence.on_message(message)

    def enter(self, session: str, person: Person) -> Connection:
        connection = Connection()
        self.presence.enter(session, person, connection)
        connection.lists.append(self.presence.users(session))
        return connection

    def leave(self, session: str, connection: Connection) -> None:
        self.presence.leave(session, connection)

    async def die(self) -> None:
        """Without a word."""
        self.store.loses = True
        self.store.disk.leases.pop(self.name, None)
        await self.close()

    async def close(self) -> None:
        await asyncio.wait_for(self.presence.stop(), 5)
        self.store.disk.leases.pop(self.name, None)
        await self.store.close()


@asynccontextmanager
async def sites(*names: str, gateways: tuple[str, ...] = ()) -> AsyncIterator[list[Site]]:
    """Nodes that know each other and have settled."""
    first = Wire()
    async with AsyncExitStack() as stack:
        stores = [first, *(Wire(first) for _ in (*names, *gateways)[1:])]
        made = [Site(name, store, leads=name in names) for name, store in zip((*names, *gateways), stores, strict=True)]
        for site in made:
            await site.open()
            stack.push_async_callback(site.close)
        speakers = [site for site in made if site.name in names]
        await until(lambda: all(speaks_for_its_own(site, names) for site in speakers))
        await until(lambda: all(site.presence._hosts.of(0) == owner_of(0, names) for site in made))
        yield made


def speaks_for_its_own(site: Site, names: tuple[str, ...]) -> bool:
    mine = [p for p in range(PARTITIONS) if owner_of(p, names) == site.name]
    return all(site.presence._hosts.speaks_for(p) for p in mine)


def told_all(*there: Site) -> bool:
    """Whether all that these have to say is on its way."""
    return not any(site.presence._dirty or site.presence._post._outboxes for site in there)


def hosted_by(host: str, *names: str, after: str = "", number: int = 0) -> str:
    """A session that this node hosts while these live, and, once it is dead, the node `after`."""
    for partition in range(PARTITIONS):
        rest = [name for name in names if name != host]
        if owner_of(partition, names) == host and (not after or owner_of(partition, rest) == after):
            return stream_id(partition, number.to_bytes(17, "big"), "s")
    raise AssertionError("no partition is hosted so")


# --------------------------------------------------------------------------- one node


async def test_a_node_alone_shows_who_is_there_and_sends_nothing() -> None:
    async with sites("n_a") as (a,):
        session = hosted_by("n_a", "n_a")
        ann = a.enter(session, ANN)
        assert ann.sees == {"u_ann": 1}
        ben = a.enter(session, BEN)
        assert ben.sees == {"u_ann": 1, "u_ben": 1}
        await until(lambda: ann.sees == {"u_ann": 1, "u_ben": 1})
        assert ann.lists[-1] == [
            {"id": "u_ann", "name": "Ann", "connections": 1},
            {"id": "u_ben", "name": "Ben", "connections": 1},
        ]
        a.presence.typing(session, "u_ann", True, ann)
        a.leave(session, ben)
        a.leave(session, ben)
        await until(lambda: ann.sees == {"u_ann": 1})
        assert (ann.typings, ben.typings) == ([], [("u_ann", True)])
        assert a.presence.users(hosted_by("n_a", "n_a", number=1)) == []
        await asyncio.sleep(0.15)  # pause: a refresh passes
        assert a.store.sent == []
        assert [len(ann.lists), len(ben.lists)] == [3, 1], "told what they knew"


async def test_what_changes_and_changes_back_in_one_turn_is_told_to_nobody() -> None:
    async with sites("n_a") as (a,):
        session = hosted_by("n_a", "n_a")
        ann = a.enter(session, ANN)
        await until(lambda: told_all(a))
        a.leave(session, a.enter(session, EVE))
        await until(lambda: told_all(a))
        assert len(ann.lists) == 1
        ben = a.enter(session, BEN)
        await until(lambda: len(ann.lists) == 2)
        a.leave(session, a.enter(session, EVE))
        await until(lambda: not a.presence._dirty)
        assert [len(ann.lists), len(ben.lists)] == [2, 1]


async def test_a_connection_that_replaces_another_learns_of_its_end() -> None:
    """The list is as before, but not as the new one was told in between."""
    async with sites("n_a") as (a,):
        session = hosted_by("n_a", "n_a")
        old, ben = a.enter(session, ANN), a.enter(session, BEN)
        await until(lambda: not a.presence._dirty)
        new = a.enter(session, ANN)
        assert new.sees == {"u_ann": 2, "u_ben": 1}
        a.leave(session, old)
        await until(lambda: new.sees == {"u_ann": 1, "u_ben": 1})
        assert len(ben.lists) == 1


async def test_a_session_that_nobody_has_open_any_more_takes_no_room() -> None:
    async with sites("n_a", "n_b") as (a, b):
        mine, theirs = hosted_by("n_a", "n_a", "n_b"), hosted_by("n_b", "n_a", "n_b")
        for session in (mine, theirs):
            connections = [(site, site.enter(session, ANN)) for site in (a, b)]
            await until(lambda pairs=connections: all(connection.sees == {"u_ann": 2} for _, connection in pairs))
            for site, connection in connections:
                site.leave(session, connection)
        for site in (a, b):
            await until(lambda it=site.presence: not (it._here or it._left or it._roll.sessions() or it._dirty))
            await until(lambda it=site.presence: not it._post._outboxes)


# --------------------------------------------------------------------------- several nodes


@pytest.mark.parametrize("host", ["n_a", "n_b", "n_c"])
async def test_nodes_see_each_others_people_come_and_go(host: str) -> None:
    names = ("n_a", "n_b", "n_c")
    async with sites(*names) as (a, b, c):
        session = hosted_by(host, *names)
        ann, ben, eve = a.enter(session, ANN), b.enter(session, BEN), c.enter(session, EVE)
        everybody = {"u_ann": 1, "u_ben": 1, "u_eve": 1}
        await until(lambda: ann.sees == ben.sees == eve.sees == everybody)
        assert a.presence.users(session) == b.presence.users(session) == c.presence.users(session)
        b.leave(session, ben)
        await until(lambda: ann.sees == eve.sees == {"u_ann": 1, "u_eve": 1})
        a.leave(session, ann)
        await until(lambda: eve.sees == {"u_eve": 1})
        again = a.enter(session, BEN)
        await until(lambda: again.sees == eve.sees == {"u_ben": 1, "u_eve": 1})


async def test_devices_of_one_person_on_two_nodes_are_counted_together() -> None:
    async with sites("n_a", "n_b") as (a, b):
        session = hosted_by("n_b", "n_a", "n_b")
        phone, laptop = a.enter(session, ANN), b.enter(session, ANN)
        await until(lambda: phone.sees == laptop.sees == {"u_ann": 2})
        tablet = a.enter(session, ANN)
        assert tablet.sees == {"u_ann": 3}
        await until(lambda: phone.sees == laptop.sees == {"u_ann": 3})
        b.leave(session, laptop)
        await until(lambda: phone.sees == tablet.sees == {"u_ann": 2})


@pytest.mark.parametrize("host", ["n_a", "n_b", "n_c"])
async def test_typing_reaches_everybody_else_once(host: str) -> None:
    names = ("n_a", "n_b", "n_c")
    async with sites(*names) as (a, b, c):
        session = hosted_by(host, *names)
        there = [a.enter(session, ANN), a.enter(session, ANN), a.enter(session, EVE)]
        there += [b.enter(session, BEN), c.enter(session, EVE)]
        await until(lambda: all(len(connection.sees) == 3 for connection in there))
        a.presence.typing(session, "u_ann", True, there[0])
        await until(lambda: all(connection.typings for connection in there[1:]))
        a.presence.typing(session, "u_ann", False, there[0])
        await until(lambda: all(len(connection.typings) == 2 for connection in there[1:]))
        a.presence.typing(session, "u_ann", True, Connection())  # which is not there
        await asyncio.sleep(0.02)  # pause: what came twice would come now
        assert there[0].typings == []
        assert all(it.typings == [("u_ann", True), ("u_ann", False)] for it in there[1:])


async def test_who_is_alone_on_a_node_that_is_not_the_host_types_to_nobody() -> None:
    async with sites("n_a", "n_b") as (a, _):
        session = hosted_by("n_b", "n_a", "n_b")
        ann = a.enter(session, ANN)
        await until(lambda: not a.presence._post._outboxes and a.store.sent)
        a.presence.typing(session, "u_ann", True, ann)
        assert not a.presence._post._outboxes


async def test_a_node_that_stops_takes_its_people_along() -> None:
    names = ("n_a", "n_b", "n_c")
    async with sites(*names) as (a, b, c):
        for host in names:
            session = hosted_by(host, *names)
            ann, ben, _ = a.enter(session, ANN), b.enter(session, BEN), c.enter(session, EVE)
            await until(lambda one=ann, two=ben: len(one.sees) == len(two.sees) == 3)
            last = ann
        c.store.disk.leases["n_c"] = FOR_EVER_MS
        await asyncio.wait_for(c.presence.stop(), 5)
        await until(lambda: last.sees == {"u_ann": 1, "u_ben": 1})
        for host in names:
            session = hosted_by(host, *names)
            await until(lambda it=session: len(a.presence.users(it)) == len(b.presence.users(it)) == 2)


# --------------------------------------------------------------------------- what fails


async def test_the_people_of_a_dead_node_go_when_its_lease_does() -> None:
    async with sites("n_a", "n_b", "n_c") as (a, b, c):
        session = hosted_by("n_a", "n_a", "n_b", "n_c")
        ann, ben, _ = a.enter(session, ANN), b.enter(session, BEN), c.enter(session, EVE)
        await until(lambda: len(ann.sees) == len(ben.sees) == 3)
        await c.die()
        await until(lambda: ann.sees == ben.sees == {"u_ann": 1, "u_ben": 1})


@pytest.mark.parametrize("heir", ["n_a", "n_b"])
async def test_a_dead_host_is_followed_by_another_and_nobody_else_seems_to_leave(heir: str) -> None:
    async with sites("n_a", "n_b", "n_c") as (a, b, c):
        session = hosted_by("n_c", "n_a", "n_b", "n_c", after=heir)
        ann, ben, _ = a.enter(session, ANN), b.enter(session, BEN), c.enter(session, EVE)
        await until(lambda: len(ann.sees) == len(ben.sees) == 3)
        known = len(ann.lists), len(ben.lists)
        await c.die()
        await until(lambda: ann.sees == ben.sees == {"u_ann": 1, "u_ben": 1})
        assert (len(ann.lists), len(ben.lists)) == (known[0] + 1, known[1] + 1)
        eve = a.enter(session, EVE)
        await until(lambda: len(ben.sees) == len(eve.sees) == 3)


async def test_a_node_that_joins_becomes_the_host_and_nobody_seems_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "REFRESH_S", 60.0)  # nothing is lost, so nothing has to be made good
    async with sites("n_a", "n_b") as (a, b):
        names = ("n_a", "n_b", "n_c")
        session = hosted_by("n_c", *names, after="n_a")
        partition = int(session[2:4], 16)
        ann, ben = a.enter(session, ANN), b.enter(session, BEN)
        await until(lambda: len(ann.sees) == len(ben.sees) == 2)
        monkeypatch.setattr(presence, "SETTLE_S", 0.3)
        c = Site("n_c", Wire(a.store))
        await c.open()
        await until(lambda: a.presence._hosts.of(partition) == "n_c")
        assert a.enter(session, ANN).sees == {"u_ann": 2, "u_ben": 1}, "forgotten before the new host has spoken"
        await until(lambda: speaks_for_its_own(c, names))
        eve = c.enter(session, EVE)
        await until(lambda: len(ann.sees) == len(ben.sees) == len(eve.sees) == 3)
        assert [len(users) for users in ann.lists] == [1, 2, 2, 3]
        b.leave(session, ben)
        await until(lambda: ann.sees == {"u_ann": 2, "u_eve": 1})
        await c.die()
        await until(lambda: a.presence._hosts.speaks_for(partition))
        await until(lambda: told_all(a))
        assert ann.sees == {"u_ann": 2}, "what was reported before it went came back with it"
        assert a.presence._here[session].others == {}


async def test_a_sum_that_is_late_or_not_the_hosts_changes_nothing() -> None:
    async with sites("n_a", "n_b") as (a, b):
        session = hosted_by("n_a", "n_a", "n_b")
        ann, ben = a.enter(session, ANN), b.enter(session, BEN)
        await until(lambda: len(ben.sees) == 2)
        late = next(message for node, message in a.store.sent if node == "n_b" and message.startswith(b"here "))
        a.leave(session, ann)
        await until(lambda: ben.sees == {"u_ben": 1})
        b.hears(late)
        b.hears(b"here " + msgspec.msgpack.encode(["n_x", 10**6, [[session, {"u_eve": ["Eve", 1]}]]]))
        assert b.presence.users(session) == ben.lists[-1]


@pytest.mark.parametrize("host", ["n_a", "n_b"])
async def test_lost_words_are_made_good_by_a_refresh(host: str) -> None:
    async with sites("n_a", "n_b") as (a, b):
        session = hosted_by(host, "n_a", "n_b")
        a.store.loses = b.store.loses = True
        ann, ben, eve = a.enter(session, ANN), b.enter(session, BEN), b.enter(session, EVE)
        await until(lambda: told_all(a, b))
        assert (ann.sees, ben.sees) == ({"u_ann": 1}, {"u_ben": 1, "u_eve": 1})
        a.store.loses = b.store.loses = False
        await until(lambda: len(ann.sees) == len(ben.sees) == 3, 2)
        a.store.loses = b.store.loses = True
        b.leave(session, ben)
        b.leave(session, eve)  # the last one there: no refresh of its own speaks of the session any more
        await until(lambda: told_all(a, b))
        a.store.loses = b.store.loses = False
        await until(lambda: ann.sees == {"u_ann": 1}, 2)


async def test_a_store_that_was_away_is_no_end() -> None:
    async with sites("n_a", "n_b") as (a, b):
        session = hosted_by("n_a", "n_a", "n_b")
        ann = a.enter(session, ANN)
        a.store.available = b.store.available = False
        ben = b.enter(session, BEN)
        await until(lambda: told_all(b))
        a.store.available = b.store.available = True
        await until(lambda: len(ann.sees) == len(ben.sees) == 2)


async def test_a_gateways_people_are_seen_and_go_when_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sites("n_a", "n_b", gateways=("n_gate", "n_door")) as (a, b, gate, door):
        session = hosted_by("n_b", "n_a", "n_b")
        ann, ben, eve = a.enter(session, ANN), gate.enter(session, BEN), door.enter(session, EVE)
        await until(lambda: len(ann.sees) == len(ben.sees) == len(eve.sees) == 3)
        gate.presence.typing(session, "u_ben", True, ben)
        await until(lambda: ann.typings == eve.typings == [("u_ben", True)])
        monkeypatch.setattr(presence, "EXPIRE_S", 0.4)
        await gate.die()
        await until(lambda: ann.sees == eve.sees == {"u_ann": 1, "u_eve": 1})
        assert b.presence.users(session) == []


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_lost_or_late_all_come_to_see_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "EXPIRE_S", 0.5)
    rnd, names = random.Random(seed), ("n_a", "n_b", "n_c")
    async with sites(*names, gateways=("n_gate",)) as made:
        sessions = [hosted_by(host, *names, number=n) for host in names for n in range(2)]
        open_ones: list[tuple[Site, str, Person, Connection]] = []
        for site in made:
            site.store.weather = rnd
        for step in range(300):
            if rnd.random() < 0.55 or not open_ones:
                site, session, person = rnd.choice(made), rnd.choice(sessions), rnd.choice((ANN, BEN, EVE))
                open_ones.append((site, session, person, site.enter(session, person)))
            else:
                site, session, _, connection = open_ones.pop(rnd.randrange(len(open_ones)))
                site.leave(session, connection)
            if step % 10 == 0:
                await asyncio.sleep(0.002)  # pause: messages travel meanwhile
        for site in made:
            site.store.weather = None

        def truth(session: str) -> dict[str, int]:
            there = [person.id for _, at, person, _ in open_ones if at == session]
            return {user: there.count(user) for user in there}

        await until(lambda: all(connection.sees == truth(session) for _, session, _, connection in open_ones), 5)


async def test_garbage_is_taken_and_dropped() -> None:
    async with sites("n_a") as (a,):
        share = {"u": ("U", 1)}
        for said in (b"", b"\xff", b"\xc1", msgspec.msgpack.encode(["n", 1, [["s_zz", share]]]), b"\x93" * 4_000):
            for prefix in (b"pres ", b"here ", b"type "):
                assert a.presence.on_message(prefix + said)
        for other in (b"", b"pre", b"present", b"cancel s_1"):
            assert not a.presence.on_message(other)
        assert not a.presence._roll.sessions()


# --------------------------------------------------------------------------- bounds and costs


async def test_reports_of_many_sessions_travel_together_and_refreshes_are_spread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with sites("n_a", "n_b") as (a, b):
        sessions = [hosted_by("n_b", "n_a", "n_b", number=n) for n in range(1_000)]
        for session in sessions:
            a.enter(session, ANN)
        await until(lambda: len(b.presence._roll.sessions()) == 1_000)
        reports = [message for _, message in a.store.sent if message.startswith(b"pres ")]
        assert len(reports) < 30
        await until(lambda: told_all(a))
        monkeypatch.setattr(presence, "ALIVE_S", 60.0)
        monkeypatch.setattr(presence, "REFRESH_S", 600.0)
        it, refreshed = a.presence, []
        monkeypatch.setattr(it._post, "report", lambda host, session: refreshed.append(session))
        it._round, it._round_done, it._round_began = [], 0, float("-inf")
        for minute in range(10):
            it._refresh(60.0 * minute)
            assert len(refreshed) == 100 * (minute + 1)
        assert sorted(refreshed) == sorted(sessions)
        it._refresh(600.0)
        assert len(refreshed) == 1_100


async def test_people_shown_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_post, "USERS_MAX", 5)
    async with sites("n_a", "n_b") as (a, b):
        session = hosted_by("n_a", "n_a", "n_b")
        ben = b.enter(session, Person("u_00", "Ben"))
        for n in range(1, 20):
            a.enter(session, Person(f"u_{n:02}", "N"))
        await until(lambda: list(ben.sees) == ["u_00", "u_01", "u_02", "u_03", "u_04"])
        assert len(a.presence.users(session)) == 5


async def test_sessions_past_the_bound_are_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "SESSIONS_MAX", 2)
    monkeypatch.setattr(presence_host, "SESSIONS_MAX", 1)
    async with sites("n_a") as (a,):
        there = [a.enter(hosted_by("n_a", "n_a", number=n), ANN) for n in range(3)]
        assert [len(connection.lists[-1]) for connection in there] == [1, 1, 0]
        a.leave(hosted_by("n_a", "n_a", number=2), there[2])
    roll = Roll()
    assert [roll.report(session, "n", 1, {"u": ("U", 1)}, 0.0) for session in ("one", "two")] == [True, None]


def test_a_late_report_does_not_undo_a_later_one() -> None:
    roll, one, two = Roll(), {"u": ("U", 1)}, {"u": ("U", 2)}
    assert roll.report("s", "n", 7, two, 0.0) is True
    assert roll.report("s", "n", 6, one, 0.0) is None
    assert roll.report("s", "n", 6, {}, 0.0) is None
    assert roll.report("s", "n", 8, two, 5.0) is False
    assert roll.total("s") == two
    assert roll.total("s", besides="n") == {}
    assert roll.expire(5.0) == []
    assert roll.expire(5.1) == ["s"]
    assert roll.sessions() == []


def test_shares_add_up_and_stay_as_they_are() -> None:
    one, two = {"a": ("A", 1), "b": ("B", 2)}, {"b": ("Bee", 1), "c": ("C", 1)}
    assert added(one, two) == {"a": ("A", 1), "b": ("Bee", 3), "c": ("C", 1)}
    assert (one["b"], two["b"]) == (("B", 2), ("Bee", 1))


def test_a_partition_that_comes_to_a_node_is_settled_after_a_while_and_one_that_stays_is_undisturbed() -> None:
    hosts, both = Hosts("n_a"), ("n_a", "n_b")
    mine = {p for p in range(PARTITIONS) if owner_of(p, both) == "n_a"}
    assert hosts.see(both, settled_at=1.0) == (frozenset(), set(range(PARTITIONS)))
    assert (hosts.settle(0.9), hosts.settle(1.0)) == (set(), mine)
    assert hosts.see(both, settled_at=9.0) == (frozenset(), set())
    gone, moved = hosts.see({"n_a"}, settled_at=3.0)
    assert (gone, moved) == ({"n_b"}, set(range(PARTITIONS)) - mine)
    speaks: Callable[[], set[int]] = lambda: {p for p in range(PARTITIONS) if hosts.speaks_for(p)}  # noqa: E731
    assert speaks() == mine
    assert hosts.settle(3.0) == moved
    assert speaks() == set(range(PARTITIONS))
