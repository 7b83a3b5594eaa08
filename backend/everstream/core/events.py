"""The vocabulary: what is asked of a model, and what a stream says in answer.

A response stream is a log of the entries below, in the legal order of `core.order`; what a session's stream says is in
`core.session_events`.  All of them are immutable and know nothing of streams, offsets or wires.

Optional fields (`?` in the protocol) have a default and are left out of a frame when unset; nullable fields have
none and are always written.  Times named `at` are Unix time in milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

# --------------------------------------------------------------------------- what is asked


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image", omit_defaults=True):
    """An image by address, or inline as base64 `data` with its `media_type`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """A finished tool call; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart | ImagePart]
    tool_calls: list[ToolCall] | None = None
    call_id: str | None = None
    is_error: bool = False  # role tool: it says what went wrong


class Tool(msgspec.Struct, frozen=True):
    """A function the model may ask for; `parameters` is a JSON Schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}


_Positive = Annotated[int, msgspec.Meta(ge=1)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class Params(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parameters that mean the same with every provider.  Others travel beside them, untouched."""

    max_tokens: _Positive | None = None
    temperature: _NotNegative | None = None
    top_p: _NotNegative | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    system: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    thinking: bool | str | dict[str, Any] | None = None


class Budget(msgspec.Struct, frozen=True, omit_defaults=True):
    output_tokens: _Positive | None = None
    usd: _NotNegative | None = None


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One generation, complete in itself: any node can run it again from this alone."""

    model: str  # "provider/name"
    messages: list[Message]
    params: Params = Params()
    extra: dict[str, Any] = {}  # parameters only the provider knows
    budget: Budget | None = None
    paid_by: str = ""  # what it was asked with, where that has an account of its own: `key:ID`

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]

    @property
    def model_name(self) -> str:
        """The provider's own name of the model; may itself contain slashes."""
        return self.model.partition("/")[2]


# --------------------------------------------------------------------------- what a stream says


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="type", omit_defaults=True):
    """An entry of a response stream."""

    @property
    def type(self) -> str:
        """What the protocol calls it: `delta_text`, `stream_end`, …"""
        return str(self.__struct_config__.tag)


class RequestStart(Event, frozen=True, gc=False, tag="request_start"):
    model: str
    at: int
    session: str | None = None
    turn: str | None = None
    epoch: int = 0  # the reign that begins with it, as a seam says of later ones: a gateway named another before


class HeadersReceived(Event, frozen=True, gc=False, tag="headers_received"):
    at: int


class FirstToken(Event, frozen=True, gc=False, tag="first_token"):
    ttft_ms: float


class DeltaText(Event, frozen=True, gc=False, tag="delta_text"):
    text: str


class DeltaThinking(Event, frozen=True, gc=False, tag="delta_thinking"):
    text: str


class DeltaToolCall(Event, frozen=True, gc=False, tag="delta_tool_call"):
    """A piece of one tool call: pieces of the same `index` belong together."""

    index: int
    arguments: str
    call_id: str | None = None
    name: str | None = None


class DeltaRefusal(Event, frozen=True, gc=False, tag="delta_refusal"):
    text: str


SeamReason = Literal["node_lost", "drain", "provider_lost"]
Continuation = Literal["exact", "prefill", "prompted", "restart"]
SeamCheck = Literal["verified", "heuristic", "unverified"]


class Seam(Event, frozen=True, gc=False, tag="seam"):
    """From here another node, or another call, carries on.  `continuation` null: only `stream_end` follows.

    `model` is set where another model carries on than the one before.
    """

    epoch: int
    attempt: int
    reason: SeamReason
    continuation: Continuation | None
    check: SeamCheck | None
    node: str
    model: str | None = None


class LastToken(Event, frozen=True, gc=False, tag="last_token"):
    pass


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    source: Literal["provider", "estimated"]
    thinking_tokens: int | None = None
    cached_tokens: int | None = None


class Cost(msgspec.Struct, frozen=True, gc=False):
    input: float
    output: float
    total: float
    currency: str = "USD"


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """What one run at a provider used.  `cost` is None where the model's price is not known."""

    model: str
    usage: Usage
    cost: Cost | None


class Metrics(msgspec.Struct, frozen=True, gc=False):
    """Milliseconds from the request; `stream_ms` is from the first to the last token."""

    ttft_ms: float | None
    stream_ms: float | None
    total_ms: float
    tokens_per_s: float | None


class ErrorInfo(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None


EndReason = Literal["complete", "cancelled", "failed", "interrupted", "budget"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class StreamEnd(Event, frozen=True, gc=False, tag="stream_end"):
    reason: EndReason
    finish_reason: FinishReason | None
    usage: Usage
    cost: Cost | None
    metrics: Metrics
    error: ErrorInfo | None
    warnings: list[str]
    attempts: list[Attempt] | None = None  # what `usage` and `cost` are the sums of, where it was more than one run


Content = DeltaText | DeltaThinking | DeltaToolCall | DeltaRefusal
CONTENT: tuple[type[Event], ...] = (DeltaText, DeltaThinking, DeltaToolCall, DeltaRefusal)
Entry = (
    DeltaText
    | DeltaThinking
    | DeltaToolCall
    | DeltaRefusal
    | RequestStart
    | HeadersReceived
    | FirstToken
    | Seam
    | LastToken
    | StreamEnd
)
EVENTS: tuple[type[Event], ...] = (
    RequestStart,
    HeadersReceived,
    FirstToken,
    *CONTENT,
    Seam,
    LastToken,
    StreamEnd,
)


class Finish(msgspec.Struct, frozen=True, gc=False):
    """A provider's last word.  Not an entry: the relay makes `stream_end` of it.

    `usage` is None where the provider told none.  Some providers say the reason first and the usage later: then
    two of these come, and the fields that are set win.
    """

    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()


class Counted(msgspec.Struct, frozen=True, gc=False):
    """What a provider has counted so far of the call under way.  Not an entry: it is what is known if the call breaks
    off.  May come any number of times; a later one takes the place of an earlier."""

    usage: Usage


class Mark(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a provider needs to carry on from here.  Kept beside the entry before it, never shown.

    `cursor` (plain data) takes the place of an earlier one.  `tokens` are the ids of the tokens that the entries since
    the last mark are made of: they add up.  `before` counts those of earlier marks; the log sets it.
    """

    cursor: Any = None
    tokens: tuple[int, ...] = ()
    before: int = 0


class Resumed(msgspec.Struct, frozen=True, gc=False):
    """A provider has taken an interrupted answer up again, and this is how.  The relay makes a `seam` of it."""

    continuation: Continuation
    check: SeamCheck | None = None
