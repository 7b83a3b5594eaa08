"""What a store's address may be, and what it is taken for."""

from __future__ import annotations

import re

import pytest
from redis.asyncio.connection import SSLConnection

from everstream.settings import Settings
from everstream.store.address import Kind, address_of
from everstream.store.base import StoreUnavailable
from everstream.store.urls import store_of
from everstream.store.valkey import ValkeyStore


def test_a_single_server_is_taken_as_redis_py_takes_it() -> None:
    address = address_of("redis://user:p%40ss@host:7000/3?client_name=es")
    assert (address.kind, address.spots) == (Kind.SINGLE, (("host", 7000),))
    assert address.options == {"username": "user", "password": "p@ss", "db": 3, "client_name": "es"}
    assert address_of("redis://").spots == (("localhost", 6379),)
    assert address_of("unix:///run/x.sock?db=2").options["path"] == "/run/x.sock"


def test_a_group_names_its_sentinels_itself_and_a_database() -> None:
    address = address_of("redis+sentinel://u:p%2Fw@a:1,b,[::1]:3/my%20group/2?sentinel_password=s")
    assert (address.kind, address.service) == (Kind.SENTINEL, "my group")
    assert address.spots == (("a", 1), ("b", 26379), ("::1", 3))
    assert address.options == {"username": "u", "password": "p/w", "db": 2, "sentinel_password": "s"}
    assert not address.tls


def test_a_cluster_names_some_nodes_and_has_one_database() -> None:
    address = address_of("rediss+cluster://:p@a:1,b?ssl_ca_certs=/ca.pem&ssl_check_hostname=false")
    assert (address.kind, address.spots, address.service) == (Kind.CLUSTER, (("a", 1), ("b", 6379)), "")
    assert address.tls
    assert address.options == {
        "password": "p",
        "connection_class": SSLConnection,
        "ssl_ca_certs": "/ca.pem",
        "ssl_check_hostname": False,
    }
    assert address_of("redis+cluster://a/0").options == {}


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis+cluster://a/1", "database"),
        ("redis+cluster://", "no host"),
        ("redis+sentinel://a:1", "name of the group"),
        ("redis+sentinel://a:1/", "name of the group"),
        ("redis+sentinel://a:1/g/x", "`x`"),
        ("redis+sentinel://a:99999/g", "ort"),
        ("redis+ring://a:1", "redis+ring://"),
        ("unix+cluster:///x", "unix+cluster://"),
        ("redis+cluster://a?db=x", "db"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_wrong(url: str, what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        address_of(url)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel"])
def test_the_settings_lead_to_a_store_that_waits_for_whom_they_say(scheme: str) -> None:
    store = store_of(Settings(store=f"{scheme}://host:1/group", acks="replica", acks_timeout_ms=7))
    assert isinstance(store, ValkeyStore)
    assert store._acks_ms == 7
    primary = store_of(Settings(store=f"{scheme}://host:1/group"))
    assert isinstance(primary, ValkeyStore)
    assert primary._acks_ms == 0


def test_an_address_of_no_kind_is_no_store() -> None:
    with pytest.raises(StoreUnavailable, match="etcd"):
        store_of(Settings(store="etcd://host"))
