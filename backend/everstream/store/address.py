"""What a store's address says: one server, a group that Sentinels watch, or a cluster.

redis://  rediss://  unix://                                  one server
redis+sentinel://user:password@host:port,host:port/NAME/db    the primary that these Sentinels call NAME
redis+cluster://user:password@host:port,host:port             the cluster that these are some nodes of

`rediss+…` is with TLS.  What follows a `?` are options of redis-py: ssl_ca_certs, ssl_certfile, ssl_keyfile,
ssl_check_hostname, client_name and the like.  The user and the password are those of the servers that hold the streams;
Sentinels that want some too get `sentinel_username` and `sentinel_password` from the options.

https://redis.readthedocs.io/en/stable/connections.html
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final
from urllib.parse import unquote

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url

SERVER_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

Spot = tuple[str, int]  # host and port


class Kind(Enum):
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Address:
    """`options` are what redis-py's connections take.  `spots` is empty for a unix socket."""

    kind: Kind
    spots: tuple[Spot, ...]
    options: dict[str, Any]
    service: str = ""

    @property
    def tls(self) -> bool:
        return issubclass(self.options.get("connection_class", Connection), SSLConnection)

    def shown(self) -> str:
        return ",".join(f"{host}:{port}" for host, port in self.spots) or str(self.options.get("path"))


def address_of(url: str) -> Address:
    """Raises ValueError for what is no address, with what is wrong."""
    scheme, _, rest = url.partition("://")
    plain, _, kind = scheme.partition("+")
    if not kind:
        options: dict[str, Any] = dict(parse_url(url))
        if issubclass(options.get("connection_class", Connection), UnixDomainSocketConnection):
            return Address(Kind.SINGLE, (), options)
        spot: Spot = (str(options.pop("host", "localhost")), int(str(options.pop("port", SERVER_PORT))))
        return Address(Kind.SINGLE, (spot,), options)
    if plain not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
        raise ValueError(f"nothing is known of {scheme}://")
    address = _many(plain, Kind(kind), rest)
    if address.kind is Kind.CLUSTER and address.options.pop("db", 0):
        raise ValueError("a cluster has no other database than 0")
    return address


def _many(plain: str, kind: Kind, rest: str) -> Address:
    place, mark, query = rest.partition("?")
    place, _, path = place.partition("/")
    user, at, hosts = place.rpartition("@")
    service, _, db = unquote(path).strip("/").partition("/")
    if kind is Kind.CLUSTER:
        service, db = "", service
    if kind is Kind.SENTINEL and not service:
        raise ValueError("the name of the group is missing: redis+sentinel://host:port,host:port/NAME")
    if db and not db.isdecimal():
        raise ValueError(f"`{db}` is not the number of a database")
    spots: list[Spot] = []
    options: dict[str, Any] = {}
    for host in filter(None, hosts.split(",")):
        options = dict(parse_url(f"{plain}://{user}{at}{host}/{db}{mark}{query}"))
        port = options.pop("port", SENTINEL_PORT if kind is Kind.SENTINEL else SERVER_PORT)
        spots.append((options.pop("host", "localhost"), port))
    if not spots:
        raise ValueError("it names no host")
    return replace(Address(kind, tuple(spots), options), service=service)
