"""Answers asked for over HTTP, until there is something to send: begun, refused, or whole.

    key? ──▶ the stream it made before ──▶ failed before a word was said? ──▶ the stream that the repeat makes
                                     └──▶ else: that one

A provider that refuses is told of by a status, as its own API does, so nothing is sent before it has taken the
request.  A repeat with the same `Idempotency-Key` finds the answer of the first; but where that failed in a way that
trying again may help, and showed nothing, the repeat is meant to try again, and all who repeat it share one new answer.

A client may go while it is being waited for.  Then nobody waits any longer, and whether the answer goes on is what the
client, or the settings, have said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from everstream.core.errors import EverstreamError
from everstream.core.events import Request, StreamEnd
from everstream.gateway.http_door import Served, Shape, native_error, paying, refusal
from everstream.gateway.http_streams import HttpStreams, accepted
from everstream.gateway.outcome import failure_of
from everstream.runtime.ending import end
from everstream.runtime.hub import Feed

KEY_CHARS_MAX = 256
REPEATS_MAX = 16  # failures of one key that a repeat looks behind
CLIENT_GONE = 499  # as nginx logs it; nobody reads it


class ClientGone(Exception):
    """Nobody is there to be answered."""


class Refused(Exception):
    """A stream that has nothing to show but an error."""

    def __init__(self, feed: Feed, error: EverstreamError) -> None:
        super().__init__(error.code)
        self.feed = feed
        self.error = error


def key_of(request: HttpRequest) -> str | None:
    """What makes a request safe to repeat.  Raises EverstreamError `request.invalid`."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= KEY_CHARS_MAX:
        raise EverstreamError("request.invalid", f"an idempotency key has 1 to {KEY_CHARS_MAX} characters")
    return key


class HttpAnswers:
    """Has answers begun for requests over HTTP."""

    def __init__(self, served: Served, streams: HttpStreams) -> None:
        self._served = served
        self._streams = streams

    async def begun(self, request: HttpRequest, wanted: Request, user: str, *, whole: bool) -> Feed:
        """The stream of an answer, once its provider has taken the request.

        With `whole` it is to be sent in one piece.  Raises EverstreamError where there is no stream, Refused where it
        failed before it showed anything, and ClientGone.
        """
        self._streams.cancels(request)  # refused before anything costs money
        wanted = paying(request, wanted)
        return await self.taken(request, await self._made(wanted, user, key_of(request), whole=whole))

    async def taken(self, request: HttpRequest, feed: Feed) -> Feed:
        """A stream whose provider has taken the request.  Raises Refused and ClientGone."""
        await self._while_there(request, feed, accepted(feed))
        total = feed.log.total()
        failed = failure_of(total.end) if total.end is not None and not total.shows_content else None
        if failed is not None:
            raise Refused(feed, failed)
        return feed

    async def ended(self, request: HttpRequest, feed: Feed) -> StreamEnd:
        """The end of an answer that came to a good one.  Raises Refused and ClientGone."""
        await self._while_there(request, feed, feed.wait_ended())
        over = feed.log.total().end
        assert over is not None, "the log has ended"
        failed = failure_of(over)
        if failed is not None:
            raise Refused(feed, failed)
        return over

    async def _made(self, wanted: Request, user: str, key: str | None, *, whole: bool) -> Feed:
        node = self._served.node
        feed = await node.generate(wanted, user, key)
        for _ in range(REPEATS_MAX):
            if key is None or not _in_vain(feed, whole):
                break
            feed = await node.generate(wanted, user, f"{key}\0{feed.stream}")
        return feed

    async def _while_there(self, request: HttpRequest, feed: Feed, waiting: Awaitable[object]) -> None:
        """Wait.  Raises ClientGone where the client goes first, and has the answer stopped if it is to be."""
        wait, gone = asyncio.ensure_future(waiting), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((wait, gone), return_when=asyncio.FIRST_COMPLETED)
            if wait.done():
                wait.result()
                return
        finally:
            await end([task for task in (wait, gone) if not task.done()])
        if self._streams.cancels(request):
            node = self._served.node
            node.do(node.stop_stream(feed.stream), f"stop {feed.stream}")
        raise ClientGone


def _in_vain(feed: Feed, whole: bool) -> bool:
    """Whether a stream has failed, and its client, who saw nothing of it, may try again."""
    if not feed.log.ended:
        return False
    total = feed.log.total()
    failed = failure_of(total.end) if total.end is not None else None
    return failed is not None and failed.retryable and (whole or not total.shows_content)


async def _gone(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def refused(fault: Refused | ClientGone, shape: Shape = native_error) -> Response:
    """The answer to a request whose stream came to nothing: it names the stream, whose part can still be read."""
    if isinstance(fault, ClientGone):
        return Response(status_code=CLIENT_GONE)
    answer = refusal(fault.error, shape)
    answer.headers["x-everstream-stream"] = fault.feed.stream
    return answer
