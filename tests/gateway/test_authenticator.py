"""Who comes in by which of the ways that the settings open."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.gateway.test_json_tokens import SECRET, signed

from everstream.core.errors import EverstreamError
from everstream.gateway.auth import Credentials, principal_of
from everstream.gateway.authenticator import Authenticator, authenticator_of
from everstream.gateway.keys import Keys
from everstream.settings import Settings
from everstream.store.memory import MemoryStore


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open("n_test", lambda push: None, lambda message: None)
    yield store
    await store.close()


def asking(auth: str, store: MemoryStore) -> Authenticator:
    authenticator = authenticator_of(Settings(auth=auth, jwt_secret=SECRET), store)
    assert authenticator is not None
    return authenticator


def test_where_nobody_is_to_be_asked_there_is_nothing_to_ask_with(store: MemoryStore) -> None:
    assert authenticator_of(Settings(), store) is None


@pytest.mark.parametrize(
    ("auth", "by_key", "by_token"), [("keys", True, False), ("jwt", False, True), ("keys,jwt", True, True)]
)
async def test_only_the_ways_that_are_open_let_somebody_in(
    auth: str, by_key: bool, by_token: bool, store: MemoryStore
) -> None:
    _, key = await Keys(store).create("kay")
    authenticator = asking(auth, store)
    for token, user, let_in in (
        (key, "kay", by_key),
        (signed(), "ann", by_token),
        ("es_", "", False),
        ("x", "", False),
    ):
        found = await authenticator(Credentials(token))
        assert (found.id if found else None) == (user if let_in else None)


@pytest.mark.parametrize("auth", ["keys", "jwt", "keys,jwt"])
async def test_no_token_and_a_wrong_one_are_told_apart(auth: str, store: MemoryStore) -> None:
    for token, code in ((None, "auth.required"), ("", "auth.required"), ("x", "auth.denied"), ("es_x", "auth.denied")):
        with pytest.raises(EverstreamError) as refused:
            await principal_of(asking(auth, store), Credentials(token), 5.0)
        assert refused.value.code == code


async def test_a_key_holds_until_it_is_revoked_and_a_token_until_it_expires(store: MemoryStore) -> None:
    id, key = await Keys(store).create("kay")
    authenticator = asking("keys,jwt", store)
    by_key, by_token = [await authenticator(Credentials(token)) for token in (key, signed())]
    assert by_key is not None
    assert by_token is not None
    assert [await authenticator.holds(found.proof) for found in (by_key, by_token)] == [True, True]
    await Keys(store).revoke(id)
    assert [await authenticator.holds(found.proof) for found in (by_key, by_token)] == [False, True]
    assert await authenticator(Credentials(key)) is None
