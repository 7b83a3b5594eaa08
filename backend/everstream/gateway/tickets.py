"""One-time tickets, for what can send an address and no header: a browser's `EventSource`, a link.

    POST /v1/tickets ──▶ tk_…, good for TICKET_S                       note "ticket DIGEST": whose it is
    GET …?ticket=tk_… ──recall, claim──▶ the first one is let in       note "read DIGEST": whose, and which stream
    the same again, on that stream ──recall──▶ reads on, for READING_S

An address is written down by every proxy on its way, so what stands in one must be worth nothing to who finds it there.
A ticket is good once, soon, and for reading; the store, which all nodes share, keeps its digest and decides by `claim`
who was first.  A browser that lost its connection asks the same address again, with the `Last-Event-ID` that it has:
so the stream that a ticket began, or was used to read, may be read on with it; no other one may, and none be begun.
Who finds such an address within the hour could read that one answer, and do nothing else.

A ticket stands for the proof that it was asked for with: it ends with it, and is taken back with it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from starlette.requests import Request

from everstream.core.errors import EverstreamError
from everstream.core.quota import Claim, Spent
from everstream.gateway.auth import Authenticate, Credentials, Principal
from everstream.store.base import Store

logger = structlog.get_logger(__name__)

TICKET_S: Final = 30
READING_S: Final = 3_600
_CLAIMED_MS: Final = 3 * TICKET_S * 1000  # longer than the ticket, so that nobody is first twice
_TICKET: Final = re.compile(r"tk_[A-Za-z0-9_-]{43}")  # 256 bits
_ONCE: Final = (Claim("uses", 1, 1, 1, 0),)


class _Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose a ticket is; `stream`: what it may still be used to read."""

    id: str
    name: str
    expires_at: float | None = None
    proof: str = ""
    stream: str = ""


async def made(store: Store, principal: Principal) -> str:
    """A ticket of somebody, good for `TICKET_S`.  Raises EverstreamError `store.unavailable`."""
    ticket = "tk_" + secrets.token_urlsafe(32)
    await _keep(store, "ticket", ticket, _note(principal), TICKET_S)
    return ticket


def ticket_in(request: Request) -> str | None:
    """The ticket that a request shows, if it shows one."""
    return request.query_params.get("ticket") or None


def redeeming(store: Store, authenticate: Authenticate | None, ticket: str, reads: str) -> Authenticate:
    """An `authenticate` that lets in who comes with this ticket, to read the stream `reads`; "": to do anything else.

    `authenticate` is asked whether the proof behind the ticket still holds.  Raises EverstreamError
    `auth.denied` for what is no ticket (any more), and `store.unavailable`.
    """

    async def redeem(credentials: Credentials) -> Principal:
        if _TICKET.fullmatch(ticket) is None:
            raise _denied()
        note = await _recall(store, "ticket", ticket)
        if note is not None and await _first(store, ticket):
            if reads:
                await _keep(store, "read", ticket, msgspec.structs.replace(note, stream=reads), READING_S)
        else:
            note = await _recall(store, "read", ticket)
            if note is None or note.stream != reads:
                raise _denied()
        holds: Callable[[str], Awaitable[bool]] | None = getattr(authenticate, "holds", None)
        if note.proof and holds is not None and not await holds(note.proof):
            raise _denied()
        return Principal(note.id, note.name, note.expires_at, note.proof)

    return redeem


async def began(store: Store, request: Request, principal: Principal, stream: str) -> None:
    """With the ticket of this request a stream was begun, which it is good for reading on.

    Where the store is away it is not: the browser's next try needs another ticket.
    """
    ticket = ticket_in(request)
    if ticket is None:
        return
    try:
        await _keep(store, "read", ticket, msgspec.structs.replace(_note(principal), stream=stream), READING_S)
    except EverstreamError as error:
        logger.warning("a ticket cannot be used to read on", stream=stream, error=error.message)


# --------------------------------------------------------------------------- what is kept


def _note(principal: Principal) -> _Note:
    return _Note(principal.id, principal.name, principal.expires_at, principal.proof)


async def _first(store: Store, ticket: str) -> bool:
    said = await store.claim(_name("ticket", ticket), secrets.token_hex(8), _ONCE, _CLAIMED_MS)
    return not isinstance(said, Spent)


async def _keep(store: Store, what: str, ticket: str, note: _Note, ttl_s: int) -> None:
    await store.remember(_name(what, ticket), msgspec.msgpack.encode(note), ttl_s)


async def _recall(store: Store, what: str, ticket: str) -> _Note | None:
    packed = await store.recall(_name(what, ticket))
    return None if packed is None else msgspec.msgpack.decode(packed, type=_Note)


def _name(what: str, ticket: str) -> str:
    return f"{what} {hashlib.sha256(ticket.encode()).hexdigest()}"


def _denied() -> EverstreamError:
    return EverstreamError("auth.denied", "this ticket is not accepted: it was used, is too old, or is none")
