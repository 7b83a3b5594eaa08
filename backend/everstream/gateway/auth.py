"""Who is there: from what a client shows to a principal.

Nobody is asked yet: everybody is the same anonymous user, and the server refuses to listen to other machines unless
it is told that this is meant.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may do things: `id` is what streams and requests belong to."""

    id: str
    name: str


ANONYMOUS = Principal("anonymous", "Anonymous")


def authenticate(token: str | None) -> Principal:
    """The principal behind a token.  While authentication is off a token is not looked at."""
    return ANONYMOUS
