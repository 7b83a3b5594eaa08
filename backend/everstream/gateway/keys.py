"""API keys: what a program or a person shows to be let in, and what the store knows of it.

    es_<id>_<secret>      id      12 characters of base32 (60 bits): no secret, names the key in lists and logs
                          secret  43 characters of base62 (256 bits); no character of a key ends a word, so a double
                                  click takes all of it, and scanners for leaked secrets find it by its shape

    table "keys":  id ──▶ {hash, user, name, created_at, expires_at}

Only the SHA-256 of the whole key is kept: whoever reads the store, a backup of it or its traffic can let nobody in.  A
slow hash as for passwords would add nothing: it makes guessing dear where there is little to guess, and 256 bits of
chance cannot be guessed at any speed.  It would only make every connection dear.  For the same reason there is no salt.

A look at a key is one read of one row, and no write: a time of last use would cost a write for every connection.
What is no key by its shape is refused without a question to the store.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from everstream.gateway.auth import ID_CHARS_MAX, Principal
from everstream.gateway.standing import KEY
from everstream.store.base import Store

logger = structlog.get_logger(__name__)

TABLE: Final = "keys"
PROOF: Final = KEY  # and the id: what a principal's proof is
KEYS_MAX: Final = 10_000  # 2 MB: lists are read whole.  Who has more users has tokens signed for them
KEPT_EXPIRED_S: Final = 30 * 86_400  # for as long a list still says why a client was refused

_BASE32: Final = string.ascii_lowercase + "234567"
_BASE62: Final = string.ascii_letters + string.digits
_ID_CHARS: Final = 12
_SECRET_CHARS: Final = 43
_KEY: Final = re.compile(rf"es_([a-z2-7]{{{_ID_CHARS}}})_[A-Za-z0-9]{{{_SECRET_CHARS}}}")
_ID: Final = re.compile(rf"[a-z2-7]{{{_ID_CHARS}}}")


class TooManyKeys(Exception):
    """There are `KEYS_MAX` of them: some have to be revoked first."""


class _Row(msgspec.Struct, frozen=True):
    """A key as the table has it.  `hash` is of the whole key; times are Unix times in seconds."""

    hash: bytes
    user: str
    name: str
    created_at: float
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be told of a key.  Times are Unix times in seconds; without `expires_at` it holds until revoked."""

    id: str
    user: str
    name: str
    created_at: float
    expires_at: float | None

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now


class Keys:
    """The keys of an installation, in its store.  `clock` gives Unix time in seconds.

    Every call may raise EverstreamError `store.unavailable`: then nobody is let in, and a client may try again.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock

    async def create(self, user: str, name: str = "", expires_at: float | None = None) -> tuple[str, str]:
        """The id and the key, which nobody can look up again.  `name` is what the user is shown as (else `user`).

        Raises ValueError for a user or a name that cannot be shown in one line of 256 characters, or a time that is
        past, and TooManyKeys.
        """
        name = name or user
        for what, text in (("user", user), ("name", name)):
            if not (0 < len(text) <= ID_CHARS_MAX and text.isprintable() and text.strip() == text):
                raise ValueError(f"a {what} is 1 to {ID_CHARS_MAX} characters that can be shown in one line")
        now = self._clock()
        if expires_at is not None and not expires_at > now:
            raise ValueError("a key must expire in the future")
        await self._make_room(now)
        id = _drawn(_BASE32, _ID_CHARS)
        key = f"es_{id}_{_drawn(_BASE62, _SECRET_CHARS)}"
        row = _Row(_hash(key), user, name, now, expires_at)
        await self._store.put_row(TABLE, id, msgspec.msgpack.encode(row))
        return id, key

    async def find(self, key: str) -> Principal | None:
        """Who shows this key; None where it is no key, or one that does not hold (any more)."""
        shaped = _KEY.fullmatch(key)
        if shaped is None:
            return None
        id = shaped[1]
        row = _row(id, await self._store.get_row(TABLE, id))
        if row is None or not hmac.compare_digest(row.hash, _hash(key)) or _info(id, row).expired(self._clock()):
            return None
        return Principal(row.user, row.name, row.expires_at, PROOF + id)

    async def holds(self, proof: str) -> bool:
        """Does a key that somebody came in by still hold?  What is no proof of a key does not."""
        id = proof.removeprefix(PROOF)
        if id == proof or _ID.fullmatch(id) is None:
            return False
        row = _row(id, await self._store.get_row(TABLE, id))
        return row is not None and not _info(id, row).expired(self._clock())

    async def revoke(self, id: str) -> bool:
        """False where there is no such key.  Who is connected by it stays until nodes are told, or look again."""
        return await self._store.drop_row(TABLE, id)

    async def list(self) -> Sequence[KeyInfo]:
        """All keys, oldest first; those that expired stay for `KEPT_EXPIRED_S`."""
        rows = ((id, _row(id, packed)) for id, packed in (await self._store.rows(TABLE)).items())
        infos = (_info(id, row) for id, row in rows if row is not None)
        return sorted(infos, key=lambda info: (info.created_at, info.id))

    async def _make_room(self, now: float) -> None:
        keys = await self.list()
        forgotten = [info for info in keys if info.expired(now - KEPT_EXPIRED_S)]
        for info in forgotten:
            await self._store.drop_row(TABLE, info.id)
        if len(keys) - len(forgotten) >= KEYS_MAX:
            raise TooManyKeys(f"there are {KEYS_MAX} keys, which is as many as there may be")


def id_of(text: str) -> str | None:
    """The id that `text` is, or, where somebody has a whole key at hand, that key's; None for anything else."""
    if _ID.fullmatch(text):
        return text
    shaped = _KEY.fullmatch(text)
    return shaped[1] if shaped else None


def _drawn(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _row(id: str, packed: bytes | None) -> _Row | None:
    if packed is None:
        return None
    try:
        return msgspec.msgpack.decode(packed, type=_Row)
    except msgspec.DecodeError:
        logger.warning("a key in the store cannot be read, and lets nobody in", key=id)
        return None


def _info(id: str, row: _Row) -> KeyInfo:
    return KeyInfo(id, row.user, row.name, row.created_at, row.expires_at)
