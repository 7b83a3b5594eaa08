"""What can be asked over HTTP: a table with a row for each method of each route, and what it is asked with and answers.

`openapi` makes `/openapi.json` of it.  What a row is asked with is one type: its fields are found in the path, and the
others in the query, or in the body where the method has one.  The rows of sessions are in `rest`, which also carries
them out by this table; those below describe what other modules serve.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from everstream.core.commands import Name
from everstream.core.errors import FAULTS
from everstream.core.events import Params
from everstream.gateway import replies

JSON = "application/json"
EVENTS = "text/event-stream"
HTML = "text/html"
IN_QUERY = frozenset(("GET", "DELETE"))

# What may come of any request that is let in by the door, and of any that needs the store.
DOOR = ("auth.required", "auth.denied", "auth.forbidden", "internal")
STORE = (*DOOR, "store.unavailable", "node.draining")
BODY = ("request.invalid", "protocol.too_large")
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


@dataclass(frozen=True, slots=True)
class Described:
    """`asked`: the type of what is asked with; `left_out`: those of its fields that are not taken."""

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
    failed: type[msgspec.Struct] = replies.Failed
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


# --------------------------------------------------------------------------- what is asked with

Offset = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]
LAST_EVENT_ID = Header("Last-Event-ID", "The offset that the client holds; it wins over `offset`.", Offset)
ON_DISCONNECT = Header(
    "X-Everstream-On-Disconnect",
    "What becomes of the answer where its client goes before the end.",
    Literal["continue", "cancel"],
)
IDEMPOTENCY_KEY = Header("Idempotency-Key", "Makes the request safe to repeat: the answer is the first one's.", Name)


class StreamRead(msgspec.Struct, frozen=True):
    """A stream from a place on."""

    stream: Name
    offset: Offset = 0
    format: Literal["native", "openai", "ui"] = "native"
    include_usage: Literal["0", "1", "true", "false"] = "0"


class StreamNamed(msgspec.Struct, frozen=True):
    stream: Name


class ModelNamed(msgspec.Struct, frozen=True):
    model: Annotated[str, msgspec.Meta(min_length=1)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class CompletionAsked(msgspec.Struct, frozen=True, kw_only=True):
    """As OpenAI's API is asked (platform.openai.com/docs/api-reference/chat/create); `model` is `provider/name`.

    What has no place here is passed on to the provider as it came.
    """

    model: Annotated[str, msgspec.Meta(pattern="^[^/]+/.+$")]
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Literal[1] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    reasoning_effort: str | None = None


# --------------------------------------------------------------------------- what others serve

_ENTRIES = Answer(
    200,
    "The stream as Server-Sent Events: its entries, or chunks like OpenAI's, or parts of the AI SDK's message stream. "
    "The `id` of an event is the offset that a reader holds after it.",
    media=(EVENTS,),
    headers=("X-Everstream-Stream",),
)

OTHERS: tuple[Described, ...] = (
    Described(
        "GET", "/v1/streams/{stream}", "read_stream", "streams", "Read a stream, from any place on",
        (_ENTRIES,), (*STORE, "request.invalid", "stream.unknown"), StreamRead, headers=(LAST_EVENT_ID, ON_DISCONNECT),
    ),
    Described(
        "POST", "/v1/streams/{stream}/cancel", "cancel_stream", "streams", "Stop an answer: the fence",
        (Answer(200, "Where the stream ends: no entry after that offset exists, or will.", replies.Fence),),
        (*STORE, "stream.unknown", "session.unknown", "request.invalid"), StreamNamed,
    ),
    Described(
        "POST", "/v1/chat/completions", "create_chat_completion", "openai", "Ask a model, as OpenAI's API is asked",
        (
            Answer(
                200, "The answer, whole; with `stream` in chunks.", replies.OpenAICompletion, (JSON, EVENTS),
                ("X-Everstream-Stream",),
            ),
        ),
        (*STORE, *BODY, *PROVIDER, "limit.streams"), CompletionAsked,
        headers=(IDEMPOTENCY_KEY, ON_DISCONNECT), failed=replies.OpenAIFailed,
    ),
    Described(
        "GET", "/v1/models", "list_models", "openai", "The models that can be used",
        (Answer(200, "All of them.", replies.OpenAIModels),), DOOR, failed=replies.OpenAIFailed,
    ),
    Described(
        "GET", "/v1/models/{model}", "get_model", "openai", "One model",
        (Answer(200, "It can be used.", replies.OpenAIModel),), (*DOOR, "model.unknown"), ModelNamed,
        failed=replies.OpenAIFailed,
    ),
    Described(
        "GET", "/healthz", "healthz", "operation", "Whether the server lives",
        (Answer(200, "It does.", replies.Alive),), secured=False,
    ),
    Described(
        "GET", "/readyz", "readyz", "operation", "Whether the server can serve",
        (
            Answer(200, "The store answers, and the server is not leaving.", replies.Ready),
            Answer(503, "Not now; `code` says why.", replies.NotReady),
        ),
        secured=False,
    ),
    Described(
        "GET", "/metrics", "metrics", "operation", "Figures, for Prometheus",
        (Answer(200, "The text exposition format.", media=("text/plain",)),), secured=False,
    ),
    Described(
        "GET", "/", "page", "documents", "The chat page", (Answer(200, "A page.", media=(HTML,)),), secured=False,
    ),
    Described(
        "GET", "/docs", "docs", "documents", "This description, for people",
        (Answer(200, "A page.", media=(HTML,)),), secured=False,
    ),
    Described(
        "GET", "/openapi.json", "openapi", "documents", "This description: OpenAPI 3.1",
        (Answer(200, "The document.", dict[str, Any]),), secured=False,
    ),
    Described(
        "GET", "/asyncapi.json", "asyncapi", "documents", "What is said over the WebSocket: AsyncAPI 3.0",
        (Answer(200, "The document.", dict[str, Any]),), secured=False,
    ),
)  # fmt: skip


def types_of(rows: Iterable[Described]) -> list[Any]:
    """Every type that the rows name, once."""
    found: dict[Any, None] = {Params: None}
    for row in rows:
        for shape in (row.asked, row.failed if row.codes else None, *(answer.shape for answer in row.answers)):
            if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
                found[shape] = None
    return list(found)
