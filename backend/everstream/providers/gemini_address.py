"""Where Gemini is asked, and what identifies us: in the words of Google's package.

The package writes a request's address and credentials: the key, or on Vertex AI a token that it gets and renews
(GOOGLE_GENAI_USE_VERTEXAI, GOOGLE_CLOUD_PROJECT, GOOGLE_CLOUD_LOCATION).  It is asked for them by its own hook for HTTP
clients: with one that sends nothing and keeps what it was to send.  The body, and the way there and back, are ours
(`http_direct`).

That is so because the package reads an answer line by line, a model object a chunk.  Measured with chunks of 500 bytes
over loopback (processor time of one process): 160 to 180 microseconds a chunk as fast as they come and 370 to 430 with
one each 2 ms, against 10 and 75 to 110 here.  It also forgets what arrived before a break, ends a cut answer without a
word, and sleeps up to ten seconds before it tells that a connection failed.  An address costs 1 ms a request.  The
package's own client for interactions takes 18 ms for it and half a second to import, so their address is made from
that of the models, which lies beside it.

`google.genai` is imported here and nowhere else, when the first client is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from everstream.providers.http_body import Body
from everstream.providers.http_direct import Direct

_STREAM = ":streamGenerateContent"
_NOT_OURS = frozenset({"accept", "accept-encoding", "connection", "content-length", "host"})  # the transport's headers

_written: ContextVar[list[Any]] = ContextVar("requests that the package would have sent")


@dataclass(frozen=True, slots=True)
class Address:
    """`path` begins with a slash and may have a query; `headers` hold the credentials."""

    origin: str
    path: str
    headers: Mapping[str, str]

    def beside(self, model: str, path: str) -> Address:
        """The address of something else that lies where the models do.  `model`: the one whose address this is."""
        models = self.path.partition(_STREAM)[0].removesuffix(f"/models/{model}").removesuffix("/publishers/google")
        return replace(self, path=f"{models}/{path}")


class Google:
    """The package's client, which knows addresses and credentials, and the way there."""

    def __init__(self, package: Any, direct_to: Callable[[str], Direct]) -> None:
        self._package = package
        self._direct_to = direct_to
        self._direct: Direct | None = None

    async def prepare(self, base_url: str) -> None:
        """Do what would hold up the first request to that address."""
        parts = urlsplit(base_url)
        self._direct = self._direct_to(f"{parts.scheme}://{parts.netloc}")
        await self._direct.prepare()

    async def address(self, model: str, version: str | None) -> Address:
        """Where a model is asked.  Raises what the package raises: where it has no credentials, or knows no such name.

        `version` of the API; None: the package's.
        """
        from google.genai import types

        kept: list[Any] = []
        before = _written.set(kept)
        try:
            config = types.GenerateContentConfig(
                automatic_continuation=False, http_options=types.HttpOptions(api_version=version)
            )
            chunks = await self._package.aio.models.generate_content_stream(model=model, contents="hi", config=config)
            async for _ in chunks:
                pass
        finally:
            _written.reset(before)
        request = kept[0]
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_OURS}
        return Address(f"{request.url.scheme}://{request.url.netloc.decode()}", request.url.raw_path.decode(), headers)

    async def open(self, method: str, at: Address, body: Mapping[str, Any] | None, max_retries: int | None) -> Body:
        """Contract: `Direct.open`."""
        if self._direct is None:
            self._direct = self._direct_to(at.origin)
        return await self._direct.open(method, at.path, body, at.headers, max_retries=max_retries)

    async def close(self) -> None:
        if self._direct is not None:
            await self._direct.close()
        await self._package.aio.aclose()
        self._package.close()


def make_package(api_key: str | None, base_url: str | None, version: str | None, *, vertex: bool) -> Any:
    """The package's client.  Imports it, and may look for credentials on other machines: for a thread.

    Raises what the package raises where it finds none.
    """
    import httpx2
    from google import genai
    from google.genai import types

    class Recorder(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
        """Keeps what it is to send, and answers with nothing."""

        async def handle_async_request(self, request: Any) -> Any:
            _written.get().append(request)
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=b"")

    options = types.HttpOptions(
        base_url=base_url,
        api_version=version,
        httpx_async_client=httpx2.AsyncClient(transport=Recorder()),
        httpx_client=httpx2.Client(transport=Recorder()),
    )
    return genai.Client(vertexai=vertex, api_key=api_key, http_options=options)


def is_about_credentials(error: BaseException) -> bool:
    """Whether it is for the lack of credentials that the package raised this."""
    return any(kind.__module__.startswith("google.auth") for kind in type(error).__mro__)


def on_vertex() -> bool:
    """Whether the environment says that Vertex AI is meant, in the package's words."""
    for name in ("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI"):
        said = os.environ.get(name)
        if said is not None:
            return said.lower() in ("true", "1")
    return False
