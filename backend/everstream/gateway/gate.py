"""How many may come in: sockets of this process, and of one address.

A process that has no file descriptor left can take nobody, not even who wants to go on reading, and cannot reach its
store either.  So it stops well before: whoever comes too many is told so, and to come again.  An address is counted so
that one machine cannot take all the room there is.

Behind a proxy every socket has the proxy's address; what the proxy says in `X-Forwarded-For` counts then, but only of
a proxy that the settings trust: anybody can send the header.  The machine's own addresses are never counted: there it
is a proxy that says nothing, or somebody who could stop the server anyway.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

if sys.platform != "win32":
    import resource

# What else is open: the store's connections, providers' answers, logs, the listening sockets.
FILES_KEPT: Final = 256
MOST: Final = 1_000_000
FEWEST: Final = 64  # of a process that may hardly open files
ADDRESS_CHARS_MAX: Final = 64

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """The answer to one too many: an HTTP status, a line, and when to come again in seconds."""

    status: int
    message: str
    retry_after_s: int


FULL: Final = TurnedAway(503, "this server has no room for more connections", 5)
TOO_MANY: Final = TurnedAway(429, "there are too many connections from this address", 10)


class Gate:
    """Counts who is in.  `most` and `most_of_address` are numbers of sockets."""

    def __init__(self, most: int, most_of_address: int, trusted_proxies: str = "") -> None:
        """Raises ValueError where a trusted proxy is no address and no network."""
        self._most = most
        self._most_of_address = most_of_address
        self._trusted = [ip_network(part.strip()) for part in trusted_proxies.split(",") if part.strip()]
        self._inside = 0
        self._of_address: Counter[str] = Counter()

    def enter(self, address: str) -> TurnedAway | None:
        """One more socket of `address`; not counted where the answer says why not."""
        counted = _countable(address)
        refusal = None
        if self._inside >= self._most:
            refusal = FULL
        elif counted and self._of_address[address] >= self._most_of_address:
            refusal = TOO_MANY
        if refusal is not None:
            return refusal
        self._inside += 1
        if counted:
            self._of_address[address] += 1
        return None

    def leave(self, address: str) -> None:
        self._inside -= 1
        if _countable(address):
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def address_of(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Who a request comes from: its peer, or whom trusted proxies name, the nearest one that is none of them."""
        address = peer
        said = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        for hop in reversed(said.decode("latin-1").split(",") if said else []):
            if not self._trusts(address):
                break
            named = _bare(hop.strip())
            if _parsed(named) is None:
                break  # nobody's address: the last one that is known counts
            address = named
        return address

    def _trusts(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._trusted)


def room_for(wanted: int) -> int:
    """How many sockets a process may have: `wanted`, or where that is 0 as many as it may open files for."""
    possible = MOST
    if sys.platform != "win32":
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            possible = max(soft - FILES_KEPT, FEWEST)
    return min(wanted, possible) if wanted else possible


def _bare(hop: str) -> str:
    """`[2001:db8::1]:80` and `192.0.2.1:80`, as some proxies write them, without port and brackets."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _parsed(address: str) -> Address | None:
    try:
        return ip_address(address) if len(address) <= ADDRESS_CHARS_MAX else None
    except ValueError:
        return None


def _countable(address: str) -> bool:
    parsed = _parsed(address)
    return parsed is not None and not parsed.is_loopback
