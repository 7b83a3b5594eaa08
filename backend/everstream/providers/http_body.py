"""One HTTP answer as bytes: aiohttp's own (`http_direct`), or over the transport that the vendors' packages share.

The packages bring pools, retries, time-outs and authentication; only their reading of the body into model objects is
passed by, because it costs more than everything else.  Both use httpx2 over aiohttp:

    SDK response -> httpx2.Response -> bound stream -> aiohttp transport's stream -> aiohttp.ClientResponse.content

The bytes are read by the official iterator at the top.  Reading at the bottom instead, from a private attribute, was
measured to save 3 to 5 of about 22 microseconds a read: too little to depend on it.  What lies below is looked at for
three things that the top does not offer, and each is left out where it cannot be found:

* When a connection breaks, aiohttp raises at once and forgets the bytes that it had received before.  They are taken
  from it first, so that a cut answer keeps every byte that reached this machine.
* Whether the body has ended, without waiting for it.
* Ending the TCP connection at once, in one call that cannot be interrupted.

`flow` goes round all of this for a while: see `http_tap`.

Closing: `close` ends the TCP connection unless the body was read to its end.  `settle` is for an answer whose terminal
event has been seen: the last few bytes of framing are read in the background, for at most `SETTLE_S`, so that the
connection can serve the next request, and nobody waits for that.

This file and `http_direct` alone name httpx2 and aiohttp, and import them when the first client is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from everstream.core.errors import EverstreamError
from everstream.providers.base import ProviderError
from everstream.providers.http_tap import tap_on

if TYPE_CHECKING:
    import httpx2

SETTLE_S = 0.5
POOL_WAIT_S = 30.0  # for a free connection when all are busy

_CAUSES_MAX = 8  # the package's exception, httpx2's, aiohttp's, the system's, and some contexts
_LOST = ("ServerDisconnectedError", "ClientOSError", "ClientPayloadError", "ClientConnectionResetError")
READ_ERRORS: tuple[type[BaseException], ...] = (OSError, TimeoutError)


def make_limits(max_connections: int) -> httpx2.Limits:
    """Pool limits.  aiohttp's own bound of 100 applies when no number is given, so one always is."""
    import httpx2

    return httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)


def make_timeout(connect_s: float) -> httpx2.Timeout:
    """Bounded connecting, unbounded reading: a model may think for an hour, and idleness is the relay's matter."""
    import httpx2

    return httpx2.Timeout(None, connect=connect_s, pool=POOL_WAIT_S)


def read_errors() -> tuple[type[BaseException], ...]:
    """Everything that a read of a body may raise when the connection fails."""
    import aiohttp

    httpx2 = sys.modules.get("httpx2")  # where no package has imported it, nobody raises its errors
    theirs = () if httpx2 is None else (httpx2.HTTPError, httpx2.StreamError)
    return (*READ_ERRORS, *theirs, aiohttp.ClientError)


def connection_error(name: str, error: BaseException) -> ProviderError:
    """What a failed connection means.  The text of the exception may hold addresses, so only its kind is told."""
    if isinstance(error, EverstreamError):
        return ProviderError(error.code, error.message, retryable=error.retryable)
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and len(chain) < _CAUSES_MAX:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    for cause in reversed(chain):  # the deepest is the most exact: the transport calls a lost connection a time-out
        kind = type(cause).__name__
        if isinstance(cause, TimeoutError):
            return ProviderError("provider.timeout", f"{name} did not answer in time")
        if isinstance(cause, ConnectionRefusedError | socket.gaierror):
            return ProviderError("provider.connection", f"{name} cannot be reached")
        if isinstance(cause, ConnectionError) or kind in _LOST:
            break
        if "Timeout" in kind:
            return ProviderError("provider.timeout", f"{name} did not answer in time")
    return ProviderError("provider.connection", f"the connection to {name} broke")


class Body:
    """The bytes of one answer.  `first` is what was read of it already, before it was handed on."""

    __slots__ = ("_content", "_encoded", "_next", "_raw", "_response", "first", "read")

    def __init__(self, response: Any) -> None:
        """`response` is one of a vendor's package, or aiohttp's own."""
        self.first = b""
        self._response = response
        theirs = getattr(response, "http_response", None)
        self._raw = response if theirs is None else _aiohttp_response(response)
        self._content = None if self._raw is None else self._raw.content
        # aiohttp decodes what is compressed unless told otherwise; the packages tell it so, and do it at the top.
        self._encoded = theirs is not None and theirs.headers.get("content-encoding", "identity").lower() != "identity"
        # The official iterator is three generators deep.  Where the reader below is in sight it is asked directly:
        # that takes a fifth off the cost of a read, and a paced token is a read.
        direct = None if self._content is None or self._encoded else getattr(self._content, "readany", None)
        self._next: Callable[[], Awaitable[bytes]] | None = None
        # What has arrived; b"" at the end of the body.  Raises one of `read_errors()`.
        self.read: Callable[[], Awaitable[bytes]] = direct or self._iterate

    async def flow(self, take: Callable[[bytes], bool]) -> bool:
        """Hand what arrives to `take`, as it arrives, until that returns False.

        False when nothing more can be had in this way; the rest, which may be all of it, is to be read.
        """
        tap = tap_on(self._raw)
        return tap is not None and await tap.flow(take)

    async def _iterate(self) -> bytes:
        if self._next is None:
            self._next = self._response.iter_bytes().__anext__
        try:
            return await self._next()
        except StopAsyncIteration:
            return b""

    def remainder(self) -> bytes:
        """After a failed read: what had arrived before the failure."""
        take = getattr(self._content, "_read_nowait", None)
        if take is None or self._encoded:
            return b""
        try:
            return bytes(take(-1))
        except (AssertionError, RuntimeError, TypeError):
            return b""

    def at_end(self) -> bool:
        """Whether the body is known to have been read to its end."""
        return self._content is not None and bool(self._content.is_eof())

    def abort(self) -> None:
        """End the TCP connection now, without waiting for anything.  Harmless after the end of the body."""
        if self._raw is not None:
            self._raw.close()

    async def close(self) -> None:
        """Give the connection back if the body has ended, else end it at once."""
        with contextlib.suppress(*read_errors()):
            if self.at_end():
                while await self.read():  # nothing is waited for: the iterators below run out
                    pass
            else:
                self.abort()
            closing = self._response.close()
            if closing is not None:  # aiohttp's is done at once
                await closing

    def settle(self, tasks: set[asyncio.Task[None]]) -> None:
        """Finish an answer whose last event has been seen, without keeping anybody waiting."""
        task = asyncio.get_running_loop().create_task(self._settled())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _settled(self) -> None:
        try:
            async with asyncio.timeout(SETTLE_S):
                while await self.read():
                    pass
        except read_errors():
            pass
        finally:
            await self.close()


def _aiohttp_response(response: Any) -> Any:
    """The aiohttp response under an SDK's one, or None where it is not to be found."""
    stream = getattr(getattr(response, "http_response", None), "stream", None)
    raw = getattr(getattr(stream, "_stream", stream), "_aiohttp_response", None)
    content = getattr(raw, "content", None)
    return raw if callable(getattr(content, "is_eof", None)) and callable(getattr(raw, "close", None)) else None
