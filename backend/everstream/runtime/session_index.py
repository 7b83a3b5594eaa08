"""Where sessions are found by those who are in them: a card for each session, and a list for each user.

Neither decides anything: who is a member, the session's own stream says.  Its leader writes both after what they tell
has been stored, and again when it takes the session over, so what a crash left out of them comes back.  A list that
still names a session which its user has left is mended by whoever reads it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from everstream.core.session import Session
from everstream.core.session_events import Role
from everstream.store.base import Store

GONE_TTL_S = 1


class Card(msgspec.Struct, frozen=True, array_like=True):
    """What a list tells of a session.  Times in ms."""

    title: str
    model: str
    created: int
    updated: int
    members: dict[str, Role]

    def shown(self, session: str, user: str) -> dict[str, Any]:
        return {
            "session": session,
            "title": self.title,
            "model": self.model,
            "role": self.members[user],
            "created": self.created,
            "updated": self.updated,
            "members": len(self.members),
        }


_card_decoder = msgspec.msgpack.Decoder(Card)


class SessionIndex:
    def __init__(self, store: Store, ttl_s: int) -> None:
        self._store = store
        self._ttl_s = ttl_s

    async def note(self, name: str, session: Session) -> None:
        """Write the card, and put the session where it belongs in its members' lists."""
        if session.deleted or not session.created:
            return
        card = Card(session.title, session.model, session.created, session.updated, dict(session.members))
        await self._store.remember(_card(name), msgspec.msgpack.encode(card), self._ttl_s)
        await asyncio.gather(*(self._store.rank(_list(user), name, card.updated) for user in card.members))

    async def drop(self, name: str, *users: str) -> None:
        """Take a session out of these users' lists."""
        await asyncio.gather(*(self._store.unrank(_list(user), name) for user in users))

    async def erase(self, name: str, session: Session) -> None:
        await self.drop(name, *session.members)
        await self._store.remember(_card(name), b"", GONE_TTL_S)

    async def page(
        self, user: str, below: tuple[int, str] | None, limit: int
    ) -> tuple[list[dict[str, Any]], tuple[int, str] | None]:
        """A user's sessions, that which was used last first, and where the next page begins; None: there is none."""
        shown: list[dict[str, Any]] = []
        while True:
            found = await self._store.ranked(_list(user), below, limit - len(shown) + 1)
            cards = await asyncio.gather(*(self._store.recall(_card(name)) for name, _ in found))
            for (name, score), packed in zip(found, cards, strict=True):
                if len(shown) == limit:
                    return shown, below
                below = (score, name)
                card = _card_decoder.decode(packed) if packed else None
                if card is not None and user in card.members:
                    shown.append(card.shown(name, user))
                else:
                    await self.drop(name, user)
            if not found:
                return shown, None


def _card(name: str) -> str:
    return f"session {name}"


def _list(user: str) -> str:
    return f"sessions of {user}"
