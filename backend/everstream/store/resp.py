"""A few words of RESP: enough to ask a Redis or Valkey server how it is, and to send it to bed.

`valkey.py` is the one file that imports a client library, and it is for streams.  The supervisor of the embedded
store and `everstream doctor` need PING, INFO and SHUTDOWN, before there is a client and when there may be no server:
one connection, a few commands, one reply each, everything bounded.  Replies are simple strings, errors, integers
and bulk strings; no command used here answers with anything else.

https://valkey.io/topics/protocol/
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

REPLY_BYTES: Final = 1_048_576  # INFO is about 6 kB
DEFAULT_PORT: Final = 6379

_STRANGER: Final = "this is not a Redis or Valkey server"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a unix socket, or host and port."""

    path: Path | None = None
    host: str = "localhost"
    port: int = DEFAULT_PORT
    tls: bool = False
    username: str = ""
    password: str = ""


class ServerError(Exception):
    """The server answered, and the answer is an error; the text is the server's."""


def parse_url(url: str) -> Address:
    """The address in a `redis://`, `rediss://` or `unix://` URL.  Raises ValueError for anything else."""
    parts = urlsplit(url)
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix":
        return Address(path=Path(unquote(parts.path)), username=username, password=password)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"not an address of one server: {parts.scheme}://")
    return Address(
        host=unquote(parts.hostname or "localhost"),
        port=parts.port or DEFAULT_PORT,
        tls=parts.scheme == "rediss",
        username=username,
        password=password,
    )


async def ask(address: Address, *commands: str, timeout_s: float) -> list[str]:
    """Connect, send each command (words parted by spaces), and return one reply each.

    A server that hangs up in answer to the last command (as to SHUTDOWN) has answered with "".  Raises OSError or
    TimeoutError when there is no server, EOFError when it hangs up early, ServerError for the first error reply.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await _connect(address)
        try:
            if address.password:
                user = (address.username,) if address.username else ()
                writer.write(_packed("AUTH", *user, address.password))
                await _reply(reader)
            replies = []
            for number, command in enumerate(commands, start=1):
                writer.write(_packed(*command.split(" ")))
                try:
                    replies.append(await _reply(reader))
                except (EOFError, ConnectionError):
                    if number < len(commands) or not command.startswith("SHUTDOWN"):
                        raise
                    replies.append("")
            return replies
        except asyncio.LimitOverrunError as error:
            raise EOFError(_STRANGER) from error
        finally:
            writer.transport.abort()  # every reply is read: there is nothing left to say
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def parse_info(text: str) -> dict[str, str]:
    """The fields of an INFO reply."""
    pairs = (line.partition(":") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path is not None:
        return await asyncio.open_unix_connection(str(address.path), limit=REPLY_BYTES)
    context = ssl.create_default_context() if address.tls else None
    return await asyncio.open_connection(address.host, address.port, ssl=context, limit=REPLY_BYTES)


def _packed(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


async def _reply(reader: asyncio.StreamReader) -> str:
    line = await reader.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2].decode("utf-8", "replace")
    if kind == b"-":
        raise ServerError(rest)
    if kind in b"+:":
        return rest
    if kind != b"$" or not rest.isdecimal() or int(rest) > REPLY_BYTES:
        raise EOFError(_STRANGER)
    return (await reader.readexactly(int(rest) + 2))[:-2].decode("utf-8", "replace")
