"""All connections of a process, for whoever has something to tell them: a drain, or a proof that was taken back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from everstream.gateway.headcount import Headcount
from everstream.gateway.standing import Standing
from everstream.runtime.node import Node


class Connected(Protocol):
    """A connection, as those see it who speak to all of them."""

    standing: Standing

    async def close(self, code: int, reason: str) -> None: ...

    def goaway(self, after_ms: int, reason: str) -> None: ...

    def revoked(self) -> None:
        """What it stands on was taken back: close."""
        ...


class Connections:
    """All connections of this process."""

    def __init__(self) -> None:
        self._open: set[Connected] = set()
        self._headcount: Headcount | None = None
        self.leave_by: float | None = None  # loop time by which everybody was asked to have left

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connected]:
        return iter(list(self._open))

    @contextmanager
    def joined(self, connection: Connected, node: Node) -> Iterator[None]:
        """While somebody is connected."""
        self._open.add(connection)
        node.counters.connections += 1
        node.counters.connections_total += 1
        try:
            yield
        finally:
            self._open.discard(connection)
            node.counters.connections -= 1

    def headcount(self, node: Node) -> Headcount:
        """What counts the connections of each user, on this node and all others."""
        if self._headcount is None:
            self._headcount = Headcount(node)
        return self._headcount

    def proofs(self) -> set[str]:
        """What those who are connected stand on, as far as it can be told apart."""
        return {connection.standing.principal.proof for connection in self._open} - {""}

    def revoked(self, proof: str) -> None:
        """Close what stands on this proof, at once."""
        for connection in self:
            if connection.standing.taken_back(proof):
                connection.revoked()
