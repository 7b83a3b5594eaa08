"""What can be asked over HTTP: a table with a row for each method of each route, and what it is asked with and answers.

`openapi` makes `/openapi.json` of it.  What a row is asked with is one type: its fields are found in the path, and the
others in the query, or in the body where the method has one.  The rows of sessions are in `rest`, which also carries
them out by this table; those of what other modules serve are in `described_routes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from everstream.core.commands import Name
from everstream.core.errors import FAULTS
from everstream.core.events import Params
from everstream.gateway import http_replies

JSON = "application/json"
EVENTS = "text/event-stream"
HTML = "text/html"
PLAIN = "text/plain"
IN_QUERY = frozenset(("GET", "DELETE"))

# What may come of any request that is let in by the door, and of any that needs the store.
DOOR = ("auth.required", "auth.denied", "auth.forbidden", "internal")
STORE = (*DOOR, "store.unavailable", "node.draining")
BODY = ("request.invalid", "protocol.too_large")
# What somebody may not use now, or not so much of.
LIMITED = ("limit.streams", "limit.rate", "limit.budget")
# What a provider may be found unable to, before and while it is asked.
PROVIDER = ("model.unknown", *(code for code in FAULTS if code.startswith("provider.")))


@dataclass(frozen=True, slots=True)
class Answer:
    """`shape`: the type of its body; None: it has none, or one that is no JSON."""

    status: int
    what: str
    shape: Any = None
    media: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Header:
    """A header that a request may carry."""

    name: str
    what: str
    schema: Any = str


IDEMPOTENCY_KEY = Header("Idempotency-Key", "Makes the request safe to repeat: the answer is the first one's.", Name)


@dataclass(frozen=True, slots=True)
class Described:
    """`asked`: the type of what is asked with; `left_out`: those of its fields that are not taken.

    `query`: what a request with a body is asked with beside it.  `body`: the type of a body that has no fields of its
    own.  `failed`: what an error looks like, which may depend on how far a request came.
    """

    method: str
    path: str
    name: str
    group: str
    what: str
    answers: tuple[Answer, ...]
    codes: tuple[str, ...] = ()
    asked: type[msgspec.Struct] | None = None
    left_out: frozenset[str] = frozenset()
    headers: tuple[Header, ...] = ()
    query: type[msgspec.Struct] | None = None
    body: Any = None
    body_needed: bool = True
    failed: tuple[type[msgspec.Struct], ...] = (http_replies.Failed,)
    failed_media: tuple[str, ...] = (JSON,)
    more: str = ""
    secured: bool = True

    @property
    def in_path(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]

    @property
    def in_query(self) -> list[str]:
        return self.fields if self.method in IN_QUERY else []

    @property
    def in_body(self) -> list[str]:
        return [] if self.method in IN_QUERY else self.fields

    @property
    def fields(self) -> list[str]:
        """The names of what is asked with beside the path."""
        if self.asked is None:
            return []
        apart = {"id", *self.in_path, *self.left_out}
        return [field.encode_name for field in msgspec.structs.fields(self.asked) if field.encode_name not in apart]

    def statuses(self) -> dict[int, list[str]]:
        """The error codes that may be answered, by their status."""
        found: dict[int, list[str]] = {}
        for code in dict.fromkeys(self.codes):
            found.setdefault(FAULTS[code].http_status, []).append(code)
        return dict(sorted(found.items()))


def types_of(rows: Iterable[Described]) -> list[Any]:
    """Every type that the rows name, once."""
    found: dict[Any, None] = {Params: None}
    for row in rows:
        failed = row.failed if row.codes else ()
        for shape in (row.asked, row.query, *failed, *(answer.shape for answer in row.answers)):
            if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
                found[shape] = None
    return list(found)
