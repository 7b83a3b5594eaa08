"""What can be asked over HTTP beside sessions: the rows of `described` for the routes of other modules.

Where such a module reads a request into a type, that is the type named here; where it reads it field by field, because
what is asked with is somebody else's API, the types below say what it reads.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from everstream.core.commands import Name
from everstream.core.errors import FAULTS
from everstream.core.events import Budget
from everstream.gateway import http_replies, replies
from everstream.gateway.described import (
    BODY,
    DOOR,
    EVENTS,
    HTML,
    IDEMPOTENCY_KEY,
    JSON,
    LIMITED,
    PLAIN,
    PROVIDER,
    STORE,
    Answer,
    Described,
    Header,
)
from everstream.gateway.event_source import ID_CHARS_MAX, PROMPT_CHARS_MAX
from everstream.gateway.events import COMMANDS_MAX, PLACES_MAX
from everstream.gateway.generate_request import GenerateAsked

Offset = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]
LAST_EVENT_ID = Header("Last-Event-ID", "The offset that the client holds; it wins over `offset`.", Offset)
ON_DISCONNECT = Header(
    "X-Everstream-On-Disconnect",
    "What becomes of the answer where its client goes before the end.",
    Literal["continue", "cancel"],
)


class StreamRead(msgspec.Struct, frozen=True):
    """A stream from a place on."""

    stream: Name
    offset: Offset = 0
    format: Literal["native", "openai", "ui", "generate"] = "native"
    include_usage: str = ""  # 1 or true: with a last chunk that has it, in OpenAI's format
    ticket: str = ""


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


class UiChatAsked(msgspec.Struct, frozen=True, kw_only=True):
    """As the AI SDK's `useChat` asks; `model`, `system`, `tools`, `params` and `budget` are ours."""

    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    id: str | None = None
    trigger: Literal["submit-message", "regenerate-message"] | None = None
    messageId: str | None = None
    model: str | None = None
    system: str | None = None
    tools: list[dict[str, Any]] | dict[str, Any] | None = None
    params: dict[str, Any] | None = None
    budget: Budget | None = None


class UiModel(msgspec.Struct, frozen=True):
    """`provider/name`, where the body names none."""

    model: str = ""


class UiResumed(msgspec.Struct, frozen=True):
    """`ended`: also where the answer runs no more."""

    chat: Annotated[str, msgspec.Meta(min_length=1)]
    ended: str = ""  # 1 or true
    ticket: str = ""


class UiStopped(msgspec.Struct, frozen=True):
    """`activeStreamId`: stop that answer, and no other."""

    chat: Annotated[str, msgspec.Meta(min_length=1)]
    activeStreamId: Any = None


class EventSourceAsked(msgspec.Struct, frozen=True, kw_only=True):
    prompt: Annotated[str, msgspec.Meta(pattern=r"\S", max_length=PROMPT_CHARS_MAX)]
    provider: str = ""
    model: str = ""
    system: str = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARS_MAX)] | None = None
    ticket: str = ""


class Places(msgspec.Struct, frozen=True):
    """`STREAM`, or `STREAM,EPOCH,OFFSET`: streams to be read, from these places on."""

    at: Annotated[list[str], msgspec.Meta(max_length=PLACES_MAX)] = []
    ticket: str = ""


Said = dict[str, Any]
CommandsAsked = Said | Annotated[list[Said], msgspec.Meta(max_length=COMMANDS_MAX)]


# --------------------------------------------------------------------------- what others serve

_ENTRIES = Answer(
    200,
    "The stream as Server-Sent Events: its entries, or chunks like OpenAI's, or parts of the AI SDK's message stream. "
    "The `id` of an event is the offset that a reader holds after it.",
    media=(EVENTS,),
    headers=("X-Everstream-Stream",),
)
_PARTS = Answer(
    200,
    "Parts of a UI message stream, as Server-Sent Events.",
    media=(EVENTS,),
    headers=("X-Everstream-Stream", "X-Vercel-AI-UI-Message-Stream"),
)
_NO_PAGE = Answer(503, "This server was made without its pages, and says how to build them.", media=(HTML,))
_STOPPED = Answer(200, "The fence; `stream` is null where nothing ran.", http_replies.ChatStopped)

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
                200, "The answer, whole; with `stream` in chunks.", http_replies.OpenAICompletion, (JSON, EVENTS),
                ("X-Everstream-Stream",),
            ),
        ),
        (*STORE, *BODY, *PROVIDER, *LIMITED), CompletionAsked,
        headers=(IDEMPOTENCY_KEY, ON_DISCONNECT), failed=(http_replies.OpenAIFailed,),
    ),
    Described(
        "GET", "/v1/models", "list_models", "openai", "The models that can be used",
        (Answer(200, "All of them.", http_replies.OpenAIModels),), DOOR, failed=(http_replies.OpenAIFailed,),
    ),
    Described(
        "GET", "/v1/models/{model}", "get_model", "openai", "One model",
        (Answer(200, "It can be used.", http_replies.OpenAIModel),), (*DOOR, "model.unknown"), ModelNamed,
        failed=(http_replies.OpenAIFailed,),
    ),
    Described(
        "GET", "/v1/events", "read_events", "streams", "Read many streams at once, as a WebSocket does",
        (Answer(200, "The protocol's frames as Server-Sent Events, for as long as it is open.", media=(EVENTS,)),),
        (*STORE, "request.invalid", "limit.rate"), Places,
        more="The first frame is `welcome`, whose `connection` takes commands.",
    ),
    Described(
        "POST", "/v1/tickets", "make_ticket", "streams", "A ticket for an address, where no header can be sent",
        (Answer(200, "It is good once, for so long.", http_replies.TicketMade),), STORE,
        more="As `ticket` in the query of `/stream`, `/v1/streams/{stream}`, `/v1/events` and "
        "`/api/chat/{chat}/stream` it takes the place of a token.",
    ),
    Described(
        "POST", "/v1/commands", "give_commands", "streams", "Say what is said over the WebSocket",
        (
            Answer(200, "The reply, or for a list `replies`.", dict[str, Any]),
            Answer(202, "The replies come as events on that connection.", http_replies.EventsNamed),
        ),
        tuple(FAULTS), body=CommandsAsked, failed=(http_replies.Failed, http_replies.CommandFailed),
        more="A command as `/asyncapi.json` has it, a list of them, or {`connection`, `commands`}: carried out on an "
        "event connection (`/v1/events`), which hears the replies.",
    ),
    Described(
        "POST", "/api/v1/generate", "generate", "apis", "One input, one answer",
        (Answer(200, "The answer.", http_replies.Generated, headers=("X-Everstream-Stream",)),),
        (*STORE, *BODY, *PROVIDER, *LIMITED), GenerateAsked, headers=(IDEMPOTENCY_KEY, ON_DISCONNECT),
    ),
    Described(
        "POST", "/api/v1/generate/stream", "generate_stream", "apis", "One input, one answer, in chunks",
        (Answer(200, "Chunks as Server-Sent Events.", media=(EVENTS,), headers=("X-Everstream-Stream",)),),
        (*STORE, *BODY, *PROVIDER, *LIMITED), GenerateAsked, headers=(IDEMPOTENCY_KEY, ON_DISCONNECT),
    ),
    Described(
        "GET", "/stream", "event_source", "apis", "An answer for the browser's `EventSource`",
        (
            Answer(
                200, "Tokens as Server-Sent Events, then `done` or `error`.", media=(EVENTS,),
                headers=("X-Everstream-Stream",),
            ),
            Answer(204, "The answer was read to its end: come no more."),
        ),
        (*STORE, *PROVIDER, "request.invalid", "stream.unknown"), EventSourceAsked,
        headers=(Header("Last-Event-ID", "The `id` of the last event that was read."), ON_DISCONNECT),
    ),
    Described(
        "POST", "/api/chat", "chat", "apis", "An answer for the AI SDK's `useChat`",
        (_PARTS,), (*STORE, *BODY, *PROVIDER, *LIMITED), UiChatAsked, query=UiModel, headers=(ON_DISCONNECT,),
        failed_media=(PLAIN, JSON),
    ),
    Described(
        "GET", "/api/chat/{chat}/stream", "resume_chat", "apis", "A chat's answer that runs, from its beginning on",
        (_PARTS, Answer(204, "None runs.")), (*STORE, "request.invalid", "stream.unknown"), UiResumed,
        headers=(Header(ON_DISCONNECT.name, ON_DISCONNECT.what),), failed_media=(PLAIN, JSON),
    ),
    Described(
        "DELETE", "/api/chat/{chat}/stream", "delete_chat_stream", "apis", "Stop a chat's answer",
        (_STOPPED,), (*STORE, "request.invalid", "stream.unknown"), UiStopped, frozenset(("activeStreamId",)),
        failed_media=(PLAIN, JSON),
    ),
    Described(
        "POST", "/api/chat/{chat}/stop", "stop_chat", "apis", "Stop a chat's answer, or one that it names",
        (_STOPPED,), (*STORE, *BODY, "stream.unknown"), UiStopped, body_needed=False, failed_media=(PLAIN, JSON),
    ),
    Described(
        "GET", "/healthz", "healthz", "operation", "Whether the server lives",
        (Answer(200, "It does.", http_replies.Alive),), secured=False,
    ),
    Described(
        "GET", "/readyz", "readyz", "operation", "Whether the server can serve",
        (
            Answer(200, "The store answers, and the server is not leaving.", http_replies.Ready),
            Answer(503, "Not now; `code` says why.", http_replies.NotReady),
        ),
        secured=False,
    ),
    Described(
        "GET", "/metrics", "metrics", "operation", "Figures, for Prometheus",
        (Answer(200, "The text exposition format.", media=(PLAIN,)),), secured=False,
    ),
    Described(
        "GET", "/", "page", "documents", "The chat page",
        (Answer(200, "A page.", media=(HTML,)), _NO_PAGE), secured=False,
    ),
    Described(
        "GET", "/docs", "docs", "documents", "This description, for people",
        (Answer(200, "A page.", media=(HTML,)), _NO_PAGE), secured=False,
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
