"""From a store's address to the store.

embedded://           a private server, started and kept by us     (the default)
memory://             a dict in this process, gone with it
redis://  rediss://   a server, without and with TLS
unix://               a server on this machine
redis+sentinel://     the primary of a group under Sentinels      (rediss+sentinel:// with TLS)
redis+cluster://      a cluster                                   (rediss+cluster:// with TLS)
"""

from __future__ import annotations

from pathlib import Path

from everstream.settings import Settings
from everstream.store.base import OnMessage, OnPush, Store, StoreUnavailable
from everstream.store.embedded import Embedded, attach
from everstream.store.memory import MemoryStore
from everstream.store.valkey import ValkeyStore


class EmbeddedStore(ValkeyStore):
    """A `ValkeyStore` whose server is private to this machine's Everstreams."""

    def __init__(
        self,
        data_dir: Path,
        binary: Path | None,
        *,
        key_prefix: str = "es",
        timeout_s: float = 1.0,
        stream_ttl_s: int = 604_800,
        session_ttl_s: int = 7_776_000,
        request_ttl_s: int = 86_400,
    ) -> None:
        super().__init__(
            "",
            key_prefix=key_prefix,
            timeout_s=timeout_s,
            stream_ttl_s=stream_ttl_s,
            session_ttl_s=session_ttl_s,
            request_ttl_s=request_ttl_s,
        )
        self._data_dir = data_dir
        self._binary = binary
        self._embedded: Embedded | None = None

    async def open(self, node: str, on_push: OnPush, on_message: OnMessage) -> None:
        self._embedded = await attach(self._data_dir, self._binary)
        self._url = self._embedded.url
        try:
            await super().open(node, on_push, on_message)
        except BaseException:
            await self._embedded.detach()
            raise

    async def close(self) -> None:
        await super().close()
        if self._embedded is not None:
            await self._embedded.detach()
            self._embedded = None


def store_of(settings: Settings) -> Store:
    """The store that the settings name, not yet opened.  Raises StoreUnavailable for an address of no known kind."""
    scheme = settings.store.partition("://")[0]
    if scheme == "memory":
        return MemoryStore(request_ttl_s=settings.request_ttl_s)
    if scheme == "embedded":
        return EmbeddedStore(
            settings.data_dir,
            settings.valkey_bin,
            key_prefix=settings.key_prefix,
            timeout_s=settings.store_timeout_s,
            stream_ttl_s=settings.stream_ttl_s,
            session_ttl_s=settings.session_ttl_s,
            request_ttl_s=settings.request_ttl_s,
        )
    if scheme == "unix" or scheme.partition("+")[0] in ("redis", "rediss"):
        return ValkeyStore(
            settings.store,
            key_prefix=settings.key_prefix,
            timeout_s=settings.store_timeout_s,
            stream_ttl_s=settings.stream_ttl_s,
            session_ttl_s=settings.session_ttl_s,
            request_ttl_s=settings.request_ttl_s,
            acks=settings.acks,
            acks_timeout_ms=settings.acks_timeout_ms,
        )
    raise StoreUnavailable(f"no store has an address that begins with `{scheme}://`")
