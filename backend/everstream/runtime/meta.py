"""What the store keeps beside a stream, so that any node can carry it on."""

from __future__ import annotations

import msgspec

from everstream.core.events import Request


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked, and whose it is.

    In a session the request has no messages: they are in the session's own stream, and would be stored anew with each
    turn, image by image.
    """

    request: Request
    user: str
    session: str = ""
    turn: str = ""


class Owner(msgspec.Struct, frozen=True):
    """That part which says whose a stream is: a user's, or a session's.  A session itself has no more than this."""

    user: str
    session: str = ""
    turn: str = ""


_meta_decoder = msgspec.msgpack.Decoder(Meta)
_owner_decoder = msgspec.msgpack.Decoder(Owner)


def meta_of(packed: bytes) -> Meta:
    return _meta_decoder.decode(packed)


def owner_in(packed: bytes) -> Owner:
    return _owner_decoder.decode(packed)


def is_session(stream: str) -> bool:
    return stream.startswith("s_")
