"""A network of one test's own, in which any two parties can be kept from hearing each other.

The thread that enters leaves the machine's network for a new, empty one with nothing but a loopback; processes and
threads that it starts from there live in it too.  All addresses 127.x.y.z are there, so that every server of a store
can have its own.  Packets between two parties are dropped by nftables, without a word to either: connections stay,
and nothing comes through.

A party is a host (a server of the store that listens and speaks from its own address) or a process group id (a node: it
speaks from whatever address the kernel picks, but its sockets carry its group, and its connections a mark of that).

Networks of other processes never change.  When the thread goes back and the last process in there has ended, the
kernel removes it all.  It needs Linux, root, `ip` and `nft`; `unavailable()` says what is missing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_NETWORK = "/proc/thread-self/ns/net"
_TABLE = "inet cage"

Party = str | int  # a host, or a process group id


def unavailable() -> str:
    """Why there can be no cage here; empty where there can."""
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return f"no {' and no '.join(missing)} here"
    if not os.path.exists(_NETWORK) or os.geteuid() != 0:
        return "a network of its own takes Linux and root"
    try:
        with caged():
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        return f"this machine gives no network of its own: {error}"
    return ""


class Cage:
    """The rules in force.  `groups` are those of the nodes, which have to be known beforehand."""

    def __init__(self) -> None:
        _nft(f"add table {_TABLE}")
        # Marks first, so that the rules of the second list see them.
        _nft(f"add chain {_TABLE} marks {{ type filter hook output priority -10; }}")
        _nft(f"add chain {_TABLE} cuts {{ type filter hook output priority 0; }}")

    def know(self, groups: Sequence[int]) -> None:
        """Have connections that these groups make carry their mark, so that the answers can be told too."""
        for group in groups:
            _nft(f"add rule {_TABLE} marks meta skgid {group} ct mark set {group}")

    def cut(self, ones: Sequence[Party], others: Sequence[Party]) -> None:
        """Nothing passes between any of these and any of those, either way, from one moment on."""
        rules = []
        for one in ones:
            for other in others:
                for source, target in ((one, other), (other, one)):
                    if isinstance(target, str):
                        rules.append(f"{_from(source)} ip daddr {target} drop")
                    elif isinstance(source, str):
                        rules.append(f"{_from(source)} ct mark {target} drop")
        self._drop(rules)

    def lose(self, host: str) -> None:
        """A machine is gone, as when its power fails: no packet from it, none to it, and no RST."""
        self._drop([f"ip saddr {host} drop", f"ip daddr {host} drop"])

    def _drop(self, rules: Sequence[str]) -> None:
        _nft(*(f"add rule {_TABLE} cuts {rule}" for rule in rules))

    def heal(self) -> None:
        """Everybody hears everybody again."""
        _nft(f"flush chain {_TABLE} cuts")


def _from(party: Party) -> str:
    return f"ip saddr {party}" if isinstance(party, str) else f"meta skgid {party}"


def _nft(*commands: str) -> None:
    """All of them at once, or none."""
    subprocess.run(["nft", "-f", "-"], input="\n".join(commands).encode(), check=True, capture_output=True, timeout=10)


@contextmanager
def caged() -> Iterator[Cage]:
    """This thread in a network of its own.  Raises OSError where the system refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open(_NETWORK, os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, capture_output=True, timeout=10)
            yield Cage()
        finally:
            if libc.setns(before, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(before)
