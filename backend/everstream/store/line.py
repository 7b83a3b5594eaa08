"""A connection for calls, several at a time, at the cost of the system calls.

redis-py makes the connection: address, TLS, authentication, database.  Then this protocol takes its transport over, so
that a call is one `write`, and a reply goes from the socket through hiredis into the caller's future without a
stream reader, a time-out context or a parser's task in between.  That halves what a commit costs.

Replies come in the order of the calls.  So the oldest call is the one that a time-out is measured by, and when it
fails, all that were made after it fail with it: nobody can tell any more which reply would belong to whom.  The
time-out is a look now and then at when the oldest call began, not a timer a call; so it comes up to `LOOK_S` late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import hiredis

LOOK_S = 0.25


def packed(*words: bytes) -> bytes:
    """A command as it goes over the wire."""
    return hiredis.pack_command(words)  # type: ignore[arg-type, no-any-return]  # its stub knows tuples of one


class _Call(asyncio.Future[Any]):
    """What a caller waits for; `replies` are those that came, where there are to be several."""

    began = 0.0
    wanted = 1
    replies: list[Any] | None = None


class Line(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport, timeout_s: float) -> None:
        """Take `transport` over.  Whatever was asked on it before must have been answered.

        Whoever made the transport must be kept: a connection of redis-py closes it when it is collected.
        """
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._calls: deque[_Call] = deque()  # as many as callers, who wait for their replies, or gave up lately
        self.lost: Exception | None = None  # what made it useless
        self._looking = self._loop.call_later(LOOK_S, self._look)
        transport.set_protocol(self)

    def call(self, command: bytes, replies: int = 1) -> asyncio.Future[Any]:
        """The reply to a packed command; for several packed together, the list of their `replies`.

        An error of the server is *returned*, as hiredis.ReplyError.  Awaiting raises ConnectionError or TimeoutError,
        after which the line is of no use: the reply may still be under way.  A caller may give up at any time.
        """
        call = _Call(loop=self._loop)
        if self.lost is not None:
            call.set_exception(self.lost)
            return call
        call.began = self._loop.time()
        if replies != 1:
            call.wanted, call.replies = replies, []
        self._calls.append(call)
        try:
            self._transport.write(command)
        except RuntimeError as error:  # uvloop's word for a connection that was reset a moment ago
            self._fail(ConnectionError(str(error)))
        return call

    def close(self) -> None:
        self._fail(ConnectionError("the line was closed"))

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            reply = self._reader.gets()
            while reply is not False:
                if not isinstance(reply, hiredis.PushNotification):  # which nobody asked for
                    self._take(reply)
                reply = self._reader.gets()
        except (hiredis.ProtocolError, IndexError) as error:
            self._fail(ConnectionError(f"the server does not speak RESP: {error}"))

    def _take(self, reply: Any) -> None:
        call = self._calls[0]
        if call.replies is not None:
            call.replies.append(reply)
            if len(call.replies) < call.wanted:
                return
            reply = call.replies
        self._calls.popleft()
        if not call.done():
            call.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionError("the server closed the connection") if error is None else error)

    def _look(self) -> None:
        self._looking = self._loop.call_later(LOOK_S, self._look)
        if self._calls and self._loop.time() - self._calls[0].began > self._timeout_s:
            self._fail(TimeoutError("no reply in time"))

    def _fail(self, error: Exception) -> None:
        if self.lost is None:
            self.lost = error
            self._looking.cancel()
            self._transport.abort()
        while self._calls:
            call = self._calls.popleft()
            if not call.done():
                call.set_exception(self.lost)
