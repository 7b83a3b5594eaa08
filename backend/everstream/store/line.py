"""A connection for one call at a time, at the cost of the system calls.

redis-py makes the connection: address, TLS, authentication, database.  Then this protocol takes its transport over, so
that a call is one `write`, and a reply goes from the socket through hiredis into the caller's future without a
stream reader, a time-out context or a parser's task in between.  That halves what a commit costs.

The time-out is a look now and then at when the call began, not a timer a call; so it comes up to `LOOK_S` late.
"""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis

LOOK_S = 0.25


class Line(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport, timeout_s: float) -> None:
        """Take `transport` over.  Whatever was asked on it before must have been answered.

        Whoever made the transport must be kept: a connection of redis-py closes it when it is collected.
        """
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._reply: asyncio.Future[Any] | None = None
        self._began = 0.0
        self._lost: Exception | None = None
        self._looking = self._loop.call_later(LOOK_S, self._look)
        transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        return self._lost is None

    async def call(self, command: bytes) -> Any:
        """The reply; an error of the server is *returned*, as hiredis.ReplyError.

        Raises ConnectionError or TimeoutError, after which the line is of no use: the reply may still be under way.
        """
        if self._lost is not None:
            raise self._lost
        self._began = self._loop.time()
        reply = self._reply = self._loop.create_future()
        self._transport.write(command)
        try:
            return await reply
        except asyncio.CancelledError:
            self._fail(ConnectionError("a call was given up"))
            raise
        finally:
            self._reply = None

    def close(self) -> None:
        self._fail(ConnectionError("the line was closed"))

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            reply = self._reader.gets()
        except hiredis.ProtocolError as error:
            self._fail(ConnectionError(f"the server does not speak RESP: {error}"))
            return
        if reply is not False and self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionError("the server closed the connection") if error is None else error)

    def _look(self) -> None:
        self._looking = self._loop.call_later(LOOK_S, self._look)
        if self._reply is not None and self._loop.time() - self._began > self._timeout_s:
            self._fail(TimeoutError("no reply in time"))

    def _fail(self, error: Exception) -> None:
        if self._lost is None:
            self._lost = error
            self._looking.cancel()
            self._transport.abort()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(self._lost)
