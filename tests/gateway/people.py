"""People at the door of a server under test, and what they show."""

from __future__ import annotations

import asyncio

from everstream.gateway.auth import Credentials, Principal
from everstream.store.base import StoreUnavailable


class Door:
    """An `authenticate` with a list of tokens, whose proofs can be taken back."""

    def __init__(self, **people: Principal) -> None:
        self.people = people
        self.taken_back: set[str] = set()
        self.away = False  # as a store that does not answer
        self.asked: list[str] = []  # proofs, in order
        self.open = asyncio.Event()  # while it is not set, everybody waits
        self.open.set()
        self.waiting = 0

    async def __call__(self, credentials: Credentials) -> Principal | None:
        principal = self.people.get(credentials.token or "")
        self.waiting += 1
        await self.open.wait()
        self.waiting -= 1
        return principal

    async def holds(self, proof: str) -> bool:
        self.asked.append(proof)
        if self.away:
            raise StoreUnavailable()
        return proof not in self.taken_back


def person(name: str, key: str = "", expires_at: float | None = None) -> Principal:
    return Principal(name, name.title(), expires_at, f"key:{key}" if key else "")
