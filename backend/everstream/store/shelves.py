"""What a store keeps beside streams: notes, tables, rankings and accounts, each one key.

A name may be anything, also what nobody should read in a list of keys: its key holds a digest of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from everstream.core.lease import partition_for
from everstream.core.quota import Claim, Spent
from everstream.store.deployment import Deployment
from everstream.store.server import function

TABLE_TTL_S = 315_360_000  # ten years, from the last time that it was written to


class Shelves:
    """The half of a store that knows no streams.  `_deployment` is there while it is open."""

    def __init__(self, key_prefix: str, session_ttl_s: int) -> None:
        self._prefix = key_prefix
        self._ranking_ttl = b"%d" % session_ttl_s
        self._deployment: Deployment | None = None

    async def _ask(self, place: int, *arguments: bytes) -> Any:
        assert self._deployment is not None, "the store is not open"
        return await self._deployment.ask(place, *arguments)

    async def _fcall(self, verb: str, place: int, keys: Sequence[bytes], *arguments: bytes) -> Any:
        return await self._ask(place, b"FCALL", function(verb), b"%d" % len(keys), *keys, *arguments)

    def _tagged(self, partition: int) -> str:
        return f"{self._prefix}:{{p{partition}}}:"

    def _note(self, name: str, kind: str = "k") -> tuple[bytes, int]:
        place = partition_for(name)
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        return f"{self._tagged(place)}{kind}:{digest}".encode(), place

    async def remember(self, name: str, value: bytes, ttl_s: int) -> None:
        key, place = self._note(name)
        await self._ask(place, b"SET", key, value, b"EX", b"%d" % ttl_s)

    async def recall(self, name: str) -> bytes | None:
        key, place = self._note(name)
        return cast(bytes | None, await self._ask(place, b"GET", key))

    async def put_row(self, table: str, row: str, value: bytes) -> None:
        key, place = self._note(table, "t")
        await self._ask(place, b"HSET", key, row.encode(), value)
        await self._ask(place, b"EXPIRE", key, b"%d" % TABLE_TTL_S)

    async def get_row(self, table: str, row: str) -> bytes | None:
        key, place = self._note(table, "t")
        return cast(bytes | None, await self._ask(place, b"HGET", key, row.encode()))

    async def drop_row(self, table: str, row: str) -> bool:
        key, place = self._note(table, "t")
        return bool(await self._ask(place, b"HDEL", key, row.encode()))

    async def rows(self, table: str) -> dict[str, bytes]:
        key, place = self._note(table, "t")
        said = await self._ask(place, b"HGETALL", key)
        pairs = said.items() if isinstance(said, dict) else zip(said[::2], said[1::2], strict=True)
        return {row.decode(): value for row, value in pairs}

    async def rank(self, ranking: str, member: str, score: int) -> None:
        key, place = self._note(ranking, "z")
        await self._fcall("rank", place, [key], member.encode(), b"%d" % score, self._ranking_ttl)

    async def unrank(self, ranking: str, member: str) -> None:
        key, place = self._note(ranking, "z")
        await self._fcall("unrank", place, [key], member.encode(), self._ranking_ttl)

    async def ranked(self, ranking: str, below: tuple[int, str] | None, limit: int) -> list[tuple[str, int]]:
        key, place = self._note(ranking, "z")
        after = (b"%d" % below[0], below[1].encode()) if below is not None else ()
        found = await self._fcall("ranked", place, [key], b"%d" % limit, *after)
        return [(member.decode(), int(score)) for member, score in zip(found[::2], found[1::2], strict=True)]

    async def claim(self, account: str, holder: str, claims: Sequence[Claim], ttl_ms: int) -> Spent | list[int]:
        key, place = self._note(account, "a")
        arguments: list[bytes] = [holder.encode(), b"%d" % ttl_ms]
        for claim in claims:
            arguments.append(claim.name.encode())
            arguments += [b"%d" % number for number in (claim.amount, claim.least, claim.most, claim.span_ms)]
        done, *said = await self._fcall("claim", place, [key], *arguments)
        return [int(amount) for amount in said] if done else Spent(said[0].decode(), int(said[1]))

    async def settle(self, account: str, holder: str, used: Mapping[str, int]) -> bool:
        key, place = self._note(account, "a")
        pairs = [part for name, amount in used.items() for part in (name.encode(), b"%d" % amount)]
        return bool(await self._fcall("settle", place, [key], holder.encode(), *pairs))
