"""What is asked of the leader of a session, as one node hands it to another.

Whoever hands an order on has found out who the user is; whether he may do that is for the leader to say.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from everstream.core.asking import Content, Given
from everstream.core.errors import EverstreamError
from everstream.core.events import ErrorInfo, Request
from everstream.core.session_events import Role, SessionChanged


class Order(msgspec.Struct, frozen=True, tag_field="order", omit_defaults=True):
    user: str


class Create(Order, frozen=True, tag="create"):
    """Say the first entries, where nobody has."""

    changed: SessionChanged
    members: dict[str, Role] = {}


class Send(Order, frozen=True, tag="send"):
    """A message, or one to be answered anew.  `request` has no messages, and no model where the session's is meant."""

    request: Request
    content: Content | None = None
    parent: str | None = None
    follows: bool = False
    on_busy: Literal["queue", "interrupt", "reject", "parallel"] = "queue"
    request_id: str | None = None


class Stop(Order, frozen=True, tag="stop"):
    """Stop the turn of a stream; None: all that run or wait."""

    stream: str | None = None


class Results(Order, frozen=True, tag="results"):
    stream: str
    results: list[Given]


class Approve(Order, frozen=True, tag="approve"):
    """None allows a call, a text forbids it."""

    stream: str
    approvals: dict[str, str | None]


class Update(Order, frozen=True, tag="update"):
    title: str | None = None
    system: str | None = None
    model: str | None = None


class Member(Order, frozen=True, tag="member"):
    """Give somebody a role; None takes it."""

    member: str
    role: Role | None


class Delete(Order, frozen=True, tag="delete"):
    pass


AnyOrder = Create | Send | Stop | Results | Approve | Update | Member | Delete


class Question(msgspec.Struct, frozen=True, array_like=True):
    session: str
    order: AnyOrder


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of an order: fields of the reply, or an error; `moved`: the node that was asked does not lead it."""

    fields: dict[str, Any] = {}
    error: ErrorInfo | None = None
    moved: bool = False


question_decoder = msgspec.msgpack.Decoder(Question)
outcome_decoder = msgspec.msgpack.Decoder(Outcome)


def failure(error: EverstreamError) -> Outcome:
    return Outcome(error=ErrorInfo(error.code, error.message, error.retryable, error.retry_after_ms))


def fields_of(outcome: Outcome) -> dict[str, Any]:
    """Raises EverstreamError where it says so."""
    error = outcome.error
    if error is not None:
        raise EverstreamError(error.code, error.message, retryable=error.retryable, retry_after_ms=error.retry_after_ms)
    return outcome.fields
