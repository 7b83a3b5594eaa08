"""How a response stream is made: here, or, on a node that runs no models, for another to lead."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Protocol

import msgspec

from everstream.core.errors import EverstreamError
from everstream.core.events import Request
from everstream.core.lease import owner_of, partition_for, stream_id
from everstream.core.log import Log
from everstream.providers.registry import Registry
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.meta import Meta
from everstream.runtime.succession import LEAD
from everstream.runtime.wholly import Wholly
from everstream.settings import Settings
from everstream.store.base import Created, Store


class Begins(Protocol):
    def start_relay(self, feed: Feed, request: Request, seam: None) -> None: ...


class Making:
    def __init__(
        self,
        node: Begins,
        store: Store,
        hub: Hub,
        providers: Registry,
        settings: Settings,
        heirs: Callable[[], Awaitable[set[str]]],
        wholly: Wholly,
    ) -> None:
        self._node = node
        self._store = store
        self._hub = hub
        self._providers = providers
        self._settings = settings
        self._heirs = heirs
        self._wholly = wholly

    async def generate(self, request: Request, user: str, request_id: str | None) -> str:
        """Begin an answer, or find what this request has begun before; its stream.  Raises EverstreamError."""
        known_as = _known_as(user, request_id) if request_id else ""
        partition = partition_for(known_as or secrets.token_hex(8))
        meta = msgspec.msgpack.encode(Meta(request, user))
        stream = stream_id(partition, secrets.token_bytes(17))
        if not self._settings.lead:
            return await self._elsewhere(stream, partition, known_as, meta)
        self._providers.get(request.provider).check(request)

        def begin(created: Created | None) -> None:
            self._hub.being_made.discard(stream)
            if created is not None and created.fresh:
                self._node.start_relay(self._hub.lead(Log(created.stream, created.epochs), meta), request, None)

        self._hub.being_made.add(stream)
        try:
            made = await self._wholly.do(self._store.create(stream, known_as, meta), f"make {stream}", begin)
        except EverstreamError:
            begin(None)
            raise
        begin(made)
        return made.stream

    async def known(self, user: str, request_id: str | None) -> str | None:
        """The stream that this request has begun before."""
        if not request_id:
            return None
        known_as = _known_as(user, request_id)
        return await self._store.made_by(known_as, partition_for(known_as))

    async def _elsewhere(self, stream: str, partition: int, known_as: str, meta: bytes) -> str:
        """This node runs no models: name one that does."""
        leader = owner_of(partition, await self._heirs())
        if leader is None:
            raise EverstreamError("provider.overloaded", "no server that runs models is there", retry_after_ms=1000)
        created = await self._store.create(stream, known_as, meta, leader)
        if created.fresh:
            await self._store.send(leader, LEAD + created.stream.encode())
        return created.stream


def _known_as(user: str, request_id: str) -> str:
    return blake2b(f"{user}\0{request_id}".encode(), digest_size=16).hexdigest()
