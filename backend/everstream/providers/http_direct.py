"""HTTP without a vendor's package: for services that have none, or none worth its weight.

What the packages do around a request is little, and is all here: one pool with bounds, a bound on connecting and none
on reading, new attempts before the answer, and the answer's failure in the words of the protocol.

    open ─▶ attempt ─▶ headers: below 400 ──▶ Body, read by `http_answer` as any other
               ▲         │ 408, 409, 429, 500 and more; or no answer at all
               └─ wait ──┘

A new attempt is made only while there is no answer: what has begun is never asked for twice here.  The wait is drawn
from nothing up to a bound that doubles, so that many who failed together do not come back together; where the service
says how long (`Retry-After`) it is obeyed, or told to the caller at once if it is longer than people wait.

aiohttp takes 0.2 seconds to import and a TLS context 20 to 70 milliseconds to make, so both are made in a thread, in
`prepare` or with the first request; the TLS context only where the address asks for one, and with the roots that the
vendors' packages trust: the system's.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from everstream import __version__
from everstream.core.events import Request
from everstream.providers.base import Progress, ProviderError
from everstream.providers.endpoint import Endpoint
from everstream.providers.http_body import POOL_WAIT_S, Body, connection_error, read_errors
from everstream.providers.http_errors import RETRY_WAIT_MS_MAX, retry_after_ms, status_error
from everstream.providers.http_provider import HttpProvider

if TYPE_CHECKING:
    import ssl

    import aiohttp

AGAIN_STATUSES = frozenset({408, 409, 429})  # and all from 500 on
BACK_OFF_S = 0.5  # the bound of the first wait
BACK_OFF_S_MAX = 8.0
KEPT_ALIVE_S = 30.0  # for an idle connection
REDIRECTS_MAX = 5
ERROR_BYTES_MAX = 65_536  # of an error's body
ERROR_S = 5.0  # for reading it
FETCHED_BYTES_MAX = 16 * 1024 * 1024
_WHOLE_BYTES_MAX = 1 << 20  # a body that is larger is written in pieces, not to hold up the loop


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt that brought no answer.  `again`: another may fare better, after `wait_ms` where the service said."""

    error: ProviderError
    again: bool
    wait_ms: int | None = None


class Direct:
    """The way to one service.  Made without I/O; used on one loop; `close` when done.

    `headers` and the endpoint's own headers and query go with every request, and its key where the endpoint wants it,
    otherwise as `Authorization: Bearer`.
    `max_retries` counts the attempts after the first.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str] | None = None,
        max_connections: int = 4096,
        max_retries: int = 2,
        connect_timeout_s: float = 10.0,
    ) -> None:
        key: dict[str, str] = {}
        if endpoint.api_key:
            key = {
                endpoint.key_header or "Authorization": ("" if endpoint.key_header else "Bearer ") + endpoint.api_key
            }
        self._endpoint = endpoint
        self._name = endpoint.name
        self._base_url = endpoint.base_url.rstrip("/")
        self._query = dict(endpoint.query)
        self._headers = {
            "User-Agent": f"everstream/{__version__}",
            "Accept-Encoding": "identity",  # a compressed stream is held back until a block is full
            **key,
            **(headers or {}),
            **endpoint.headers,
        }
        self._max_connections = max_connections
        self._max_retries = max_retries
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._making = asyncio.Lock()

    async def prepare(self) -> None:
        """Import aiohttp and make the pool.  Idempotent."""
        async with self._making:
            if self._session is None:
                tls, proxy = await asyncio.to_thread(_surroundings, self._endpoint)
                self._session = self._make_session(tls, proxy)

    async def open(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        max_retries: int | None = None,
    ) -> Body:
        """The body of an answer that is no error.  `path` follows the base URL; `body` goes out as JSON.

        Raises ProviderError, after the last attempt.
        """
        data = None if body is None else msgspec.json.encode(body)
        left = self._max_retries if max_retries is None else max_retries
        bound_s = BACK_OFF_S
        while True:
            answered = await self._attempt(method, path, data, headers)
            if not isinstance(answered, _Failure):
                return Body(answered)
            wait_ms = answered.wait_ms
            if left <= 0 or not answered.again or (wait_ms or 0) > RETRY_WAIT_MS_MAX:
                raise answered.error
            left -= 1
            await asyncio.sleep(random.uniform(0.0, bound_s) if wait_ms is None else wait_ms / 1000)
            bound_s = min(2 * bound_s, BACK_OFF_S_MAX)

    async def fetch(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, within_s: float) -> bytes:
        """A whole answer, asked for once.  Raises ProviderError, also where it takes longer."""
        try:
            async with asyncio.timeout(within_s):
                opened = await self.open(method, path, body, max_retries=0)
                try:
                    return await _whole(opened.read, FETCHED_BYTES_MAX)
                finally:
                    await opened.close()
        except read_errors() as error:
            raise connection_error(self._name, error) from None

    async def close(self) -> None:
        """End all connections.  Idempotent; a later request makes a new pool."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ------------------------------------------------------------------

    async def _attempt(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse | _Failure:
        if self._session is None:
            await self.prepare()
        session = self._session
        assert session is not None
        sent = io.BytesIO(data) if data is not None and len(data) > _WHOLE_BYTES_MAX else data
        said = dict(headers) if headers else {}
        if data is not None:
            said.setdefault("Content-Type", "application/json")
        try:
            response = await session.request(
                method,
                self._base_url + path,
                data=sent,
                headers=said,
                params=self._query or None,
                max_redirects=REDIRECTS_MAX,
            )
            if response.status < 400:
                return response
            return await self._refusal(response)
        except read_errors() as error:
            return _Failure(connection_error(self._name, error), again=True)

    async def _refusal(self, response: aiohttp.ClientResponse) -> _Failure:
        body: Any = b""
        try:
            async with asyncio.timeout(ERROR_S):
                body = await _whole(response.content.readany, ERROR_BYTES_MAX)
        except read_errors():
            pass  # the status says enough
        finally:
            response.close()  # harmless once the body was read to its end: the connection is back in the pool
        told: Any
        try:
            told = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = body.decode("utf-8", "replace") or None
        status = response.status
        wanted = response.headers.get("x-should-retry")
        again = wanted == "true" or (wanted != "false" and (status >= 500 or status in AGAIN_STATUSES))
        error = status_error(self._name, status, response.headers, told)
        return _Failure(error, again, retry_after_ms(response.headers))

    def _make_session(self, tls: ssl.SSLContext | None, proxy: str | None) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_connections,
                keepalive_timeout=KEPT_ALIVE_S,
                ssl=True if tls is None else tls,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=POOL_WAIT_S + self._connect_timeout_s, sock_connect=self._connect_timeout_s
            ),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy,
        )


class DirectProvider(HttpProvider):
    """A provider whose service has no package, or is asked without it.  Its dialect is its own."""

    package = "aiohttp"
    _client: Direct | None

    async def prepare(self) -> None:
        """Import aiohttp and make the pool, away from the loop.  Contract: `base.Provider.prepare`."""
        await super().prepare()
        if self._client is not None:
            await self._client.prepare()

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Nothing runs on once its connection is closed."""

    async def _open(self, path: str, body: Mapping[str, Any]) -> Body:
        if self._client is None:
            await self.prepare()
        direct: Direct = self._connect()
        return await direct.open("POST", path, self._endpoint.fitted(body))

    def _make_client(self, api_key: str | None) -> Direct:
        return Direct(
            self._endpoint,
            max_connections=self._max_connections,
            max_retries=self._max_retries,
            connect_timeout_s=self._connect_timeout_s,
        )


async def _whole(read: Callable[[], Awaitable[bytes]], most: int) -> bytes:
    """What `read` gives up to its end, or to `most` bytes."""
    pieces: list[bytes] = []
    size = 0
    while size < most and (piece := await read()):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _surroundings(endpoint: Endpoint) -> tuple[ssl.SSLContext | None, str | None]:
    """What it takes to reach an endpoint from here: a TLS context, and a proxy.  Takes a while: for a thread."""
    import aiohttp  # noqa: F401  here, so that it is imported in the thread

    parts = urlsplit(endpoint.base_url)
    tls = None
    if parts.scheme == "https":
        import httpx2

        tls = httpx2.create_ssl_context()
    here = endpoint.on_this_machine or proxy_bypass(parts.hostname or "")
    return tls, None if here else getproxies().get(parts.scheme)
