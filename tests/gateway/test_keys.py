"""API keys: who is let in by one, until when, and what is kept of it."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from tests.runtime.conftest import running

from everstream.core.errors import EverstreamError
from everstream.gateway import keys as keys_module
from everstream.gateway.auth import Credentials, Principal, principal_of
from everstream.gateway.keys import KEPT_EXPIRED_S, TABLE, KeyInfo, Keys, TooManyKeys, id_of
from everstream.runtime.revoking import tell_revoked
from everstream.store.base import StoreUnavailable
from everstream.store.memory import MemoryStore

NOW = 1_800_000_000.0
DAY_S = 86_400
SHAPE = re.compile(r"es_([a-z2-7]{12})_([A-Za-z0-9]{43})")
UNKNOWN = f"es_{'a' * 12}_{'B' * 43}"
NO_KEYS = (
    *("", "es_", "ey.J0.x", "es_\x00", "\udc80", "x" * 100_000),
    *(UNKNOWN[:-1], UNKNOWN + "C", UNKNOWN + "\n", " " + UNKNOWN, UNKNOWN.upper()),
    *(UNKNOWN.replace("a", "1"), UNKNOWN.replace("B", "ż"), UNKNOWN.replace("_B", "-B")),
)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(store: MemoryStore, clock: Clock) -> Keys:
    return Keys(store, clock)


# --------------------------------------------------------------------------- made and found


async def test_a_key_says_whose_it_is_until_when_and_by_what(keys: Keys) -> None:
    id, key = await keys.create("ada", "Ada Lovelace", NOW + DAY_S)
    assert await keys.find(key) == Principal("ada", "Ada Lovelace", NOW + DAY_S, f"key:{id}")
    id, key = await keys.create("bob")
    assert await keys.find(key) == Principal("bob", "bob", None, f"key:{id}")


async def test_a_key_has_its_id_in_it_and_every_one_is_another(keys: Keys) -> None:
    made = [await keys.create("ada") for _ in range(100)]
    parts = [match.groups() for _, key in made if (match := SHAPE.fullmatch(key))]
    assert [id for id, _ in parts] == [id for id, _ in made]
    assert len({id for id, _ in parts}) == len({secret for _, secret in parts}) == 100
    assert len({char for _, secret in parts for char in secret}) == 62, "all of the alphabet is drawn from"


async def test_the_right_id_with_another_secret_is_nobody(keys: Keys) -> None:
    id, key = await keys.create("ada")
    _, other = await keys.create("bob")
    last = "A" if key[-1] != "A" else "B"
    for wrong in (key[:-1] + last, f"es_{id}_{other[-43:]}", key.swapcase().replace("ES_", "es_")):
        assert await keys.find(wrong) is None
    assert await keys.find(UNKNOWN) is None


@pytest.mark.parametrize("shown", NO_KEYS)
async def test_what_is_no_key_is_refused_without_a_question_to_the_store(
    shown: str, keys: Keys, store: MemoryStore
) -> None:
    store.available = False
    assert await keys.find(shown) is None
    with pytest.raises(StoreUnavailable):
        await keys.find(UNKNOWN)


async def test_an_expired_key_is_nobodys_from_its_second_on(keys: Keys, clock: Clock) -> None:
    id, key = await keys.create("ada", expires_at=NOW + 10)
    clock.now = NOW + 9.999
    assert await keys.find(key) is not None
    assert await keys.holds(f"key:{id}")
    clock.now = NOW + 10
    assert await keys.find(key) is None
    assert not await keys.holds(f"key:{id}")


async def test_all_nodes_know_a_key_at_once(keys: Keys, store: MemoryStore, clock: Clock) -> None:
    id, key = await keys.create("ada")
    other = Keys(store.beside(), clock)
    assert await other.find(key) is not None
    await keys.revoke(id)
    assert await other.find(key) is None


# --------------------------------------------------------------------------- taken back


async def test_a_revoked_key_lets_nobody_in_and_holds_no_more(keys: Keys) -> None:
    id, key = await keys.create("ada")
    other, kept = await keys.create("ada")
    assert await keys.holds(f"key:{id}")
    assert [await keys.revoke(id) for _ in range(2)] == [True, False]
    assert await keys.find(key) is None
    assert not await keys.holds(f"key:{id}")
    assert await keys.find(kept) is not None, "another key of the same user"
    assert await keys.holds(f"key:{other}")


@pytest.mark.parametrize("proof", ["", "key:", "key:nobody", "jwt:x", "aaaaaaaaaaaa", "key:" + "A" * 12, "key:\x00"])
async def test_what_is_no_proof_of_a_key_does_not_hold(proof: str, keys: Keys, store: MemoryStore) -> None:
    store.available = False
    assert not await keys.holds(proof)


async def test_every_node_is_told_of_a_proof_that_was_taken_back() -> None:
    store = MemoryStore()
    async with running(store) as one, running(store.beside()) as two:
        heard: list[tuple[str, str]] = []
        assert await one.revoke("key:early") == 2, "who has nobody to let in hears it all the same"
        for node in (one, two):
            node.on_revoked = lambda proof, node=node: heard.append((node.id, proof))
        assert await two.revoke("key:żółw") == 2
        assert sorted(heard) == sorted([(one.id, "key:żółw"), (two.id, "key:żółw")])


async def test_a_node_that_cannot_be_told_keeps_no_other_from_hearing(store: MemoryStore) -> None:
    told: list[str] = []

    class Lossy(MemoryStore):
        async def send(self, node: str, message: bytes) -> None:
            if node == "n_b":
                raise StoreUnavailable()
            told.append(f"{node} {message.decode()}")

    lossy = Lossy(store.disk)
    store.disk.leases = dict.fromkeys(("n_a", "n_b", "n_c"), store.disk.clock_ms() + 60_000)
    assert await tell_revoked(lossy, "key:x") == (2, 3)
    assert sorted(told) == ["n_a revoked key:x", "n_c revoked key:x"]
    lossy.available = False
    with pytest.raises(StoreUnavailable):
        await tell_revoked(lossy, "key:x")


# --------------------------------------------------------------------------- what is kept


async def test_nothing_that_is_kept_or_listed_has_a_secret_in_it(keys: Keys, store: MemoryStore) -> None:
    id, key = await keys.create("ada", "Ada")
    (packed,) = store.disk.tables[TABLE].values()
    assert b"Ada" in packed
    assert hashlib.sha256(key.encode()).digest() in packed, "of the whole key"
    told = packed + repr(await keys.list()).encode() + repr(await keys.find(key)).encode()
    assert id.encode() in told
    for part in (key, key[-43:], key[-43:-20], key[-20:]):
        assert part.encode() not in told


async def test_keys_are_listed_oldest_first_with_what_may_be_told(keys: Keys, clock: Clock) -> None:
    first, _ = await keys.create("bob", "", NOW + DAY_S)
    clock.now += 1
    second, _ = await keys.create("ada", "Ada")
    assert await keys.list() == [
        KeyInfo(first, "bob", "bob", NOW, NOW + DAY_S),
        KeyInfo(second, "ada", "Ada", NOW + 1, None),
    ]


async def test_the_table_is_as_large_as_there_are_keys_whatever_is_done_with_them(
    keys: Keys, store: MemoryStore
) -> None:
    _, kept = await keys.create("ada")
    before = dict(store.disk.tables[TABLE])
    for _ in range(50):
        id, key = await keys.create("ada")
        for shown in (key, kept, UNKNOWN, f"es_{id}_{'x' * 43}"):
            await keys.find(shown)
        assert await keys.holds(f"key:{id}")
        assert await keys.revoke(id)
    assert store.disk.tables == {TABLE: before}, "a look writes nothing, and a revoked key leaves nothing"


async def test_an_expired_key_is_listed_for_a_while_and_then_forgotten(keys: Keys, clock: Clock) -> None:
    id, _ = await keys.create("ada", expires_at=NOW + 10)
    clock.now = NOW + 10 + KEPT_EXPIRED_S - 1
    lasting, _ = await keys.create("bob")
    assert [(info.id, info.expired(clock.now)) for info in await keys.list()] == [(id, True), (lasting, False)]
    clock.now += 2
    other, _ = await keys.create("eve")
    assert {info.id for info in await keys.list()} == {lasting, other}


async def test_there_is_a_bound_to_how_many_keys_there_are(
    keys: Keys, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "KEYS_MAX", 3)
    made = [await keys.create("ada", expires_at=NOW + 10) for _ in range(3)]
    with pytest.raises(TooManyKeys, match="3 keys"):
        await keys.create("ada")
    await keys.revoke(made[0][0])
    await keys.create("ada", expires_at=NOW + 10)
    clock.now += KEPT_EXPIRED_S + 11
    await keys.create("ada")
    assert len(await keys.list()) == 1, "what is forgotten makes room"


@pytest.mark.parametrize("row", [b"", b"\xc1", b"\x80", b"\x81\xa4hash\xc0", b"[]"])
async def test_a_row_that_cannot_be_read_lets_nobody_in_and_hides_no_other(
    row: bytes, keys: Keys, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    await store.put_row(TABLE, "a" * 12, row)
    _, key = await keys.create("ada")
    assert await keys.find(UNKNOWN) is None
    assert not await keys.holds("key:" + "a" * 12)
    assert [info.user for info in await keys.list()] == ["ada"]
    assert await keys.find(key) is not None
    assert "a" * 12 in "".join(capsys.readouterr())
    assert await keys.revoke("a" * 12)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"user": ""}, "a user is"),
        ({"user": "x" * 257}, "a user is"),
        ({"user": "ada\nroot"}, "a user is"),
        ({"user": "\x1b[2J"}, "a user is"),
        ({"user": " ada"}, "a user is"),
        ({"user": "\udc80"}, "a user is"),
        ({"user": "ada", "name": "x" * 257}, "a name is"),
        ({"user": "ada", "expires_at": NOW}, "in the future"),
        ({"user": "ada", "expires_at": float("nan")}, "in the future"),
    ],
)
async def test_a_key_that_could_not_be_meant_is_not_made(
    wish: dict[str, Any], said: str, keys: Keys, store: MemoryStore
) -> None:
    with pytest.raises(ValueError, match=said):
        await keys.create(**wish)
    assert store.disk.tables == {}


# --------------------------------------------------------------------------- the store is away


async def test_a_store_that_is_away_lets_nobody_in_and_says_that_trying_again_may_help(
    keys: Keys, store: MemoryStore
) -> None:
    id, key = await keys.create("ada")
    store.available = False

    async def authenticate(credentials: Credentials) -> Principal | None:
        return await keys.find(credentials.token or "")

    with pytest.raises(EverstreamError) as refused:
        await principal_of(authenticate, Credentials(key), 1.0)
    assert (refused.value.code, refused.value.retryable) == ("store.unavailable", True)
    for asked in (keys.create("bob"), keys.revoke(id), keys.list(), keys.holds(f"key:{id}")):
        with pytest.raises(StoreUnavailable):
            await asked
    store.available = True
    assert await principal_of(authenticate, Credentials(key), 1.0) == Principal("ada", "ada", None, f"key:{id}")


def test_a_key_can_be_named_by_its_id_or_by_itself() -> None:
    assert [id_of(text) for text in ("a" * 12, UNKNOWN, UNKNOWN[:-1], "", "a" * 11, "key:" + "a" * 12)] == [
        "a" * 12,
        "a" * 12,
        None,
        None,
        None,
        None,
    ]
