"""What is answered over HTTP alone, as types: errors as bodies, what was used, and what other APIs want to hear.

As in `replies`, a field without a default is always there.
"""

from __future__ import annotations

from typing import Any, Literal

from everstream.core.events import Cost, EndReason, FinishReason, Usage
from everstream.gateway.replies import ErrorFrame, Failure, Reply

# --------------------------------------------------------------------------- what is wrong


class Failed(Reply, frozen=True, kw_only=True):
    """The body of an answer over HTTP that is no success."""

    error: Failure


class OpenAIFailure(Reply, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIFailed(Reply, frozen=True, kw_only=True):
    """An error as OpenAI's bodies have it; `code` is the protocol's."""

    error: OpenAIFailure


class CommandFailed(ErrorFrame, frozen=True, kw_only=True):
    """A frame that is an answer over HTTP."""

    type: Literal["error"]
    id: str | int | None = None


class TicketMade(Reply, frozen=True, kw_only=True):
    ticket: str
    expires_ms: int


class EventsNamed(Reply, frozen=True, kw_only=True):
    connection: str


# --------------------------------------------------------------------------- what was used


class ModelUsage(Reply, frozen=True, kw_only=True):
    """What ended turns used of one model, in tokens.

    `cost` adds up the turns whose price is known, null where none is; `unpriced` counts the others, `estimated` the
    turns whose tokens were, at least in part, estimated, and `unknown` those that ended without a count.
    """

    model: str
    turns: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    thinking_tokens: int
    cached_tokens: int
    estimated: int
    unknown: int
    cost: Cost | None
    unpriced: int


class SessionUsage(Reply, frozen=True, kw_only=True):
    """What the ended turns of a session used, by model; `running` turns are not counted yet."""

    session: str
    turns: int
    running: int
    models: list[ModelUsage]


# --------------------------------------------------------------------------- other APIs


class GenerateCall(Reply, frozen=True, kw_only=True):
    call_id: str
    name: str
    arguments: str


class Generated(Reply, frozen=True, kw_only=True):
    """An answer of the generate API, whole."""

    output: str
    thinking: str | None
    tool_calls: list[GenerateCall]
    reason: EndReason
    finish_reason: FinishReason | None
    usage: Usage
    cost: Cost | None
    warnings: list[str]
    stream: str


class ChatStopped(Reply, frozen=True, kw_only=True):
    success: Literal[True]
    stream: str | None
    offset: int | None


# --------------------------------------------------------------------------- HTTP


class Alive(Reply, frozen=True, kw_only=True):
    status: Literal["ok"]
    node: str


class Ready(Reply, frozen=True, kw_only=True):
    status: Literal["ready"]
    node: str


class NotReady(Reply, frozen=True, kw_only=True):
    status: Literal["unavailable"]
    code: str
    message: str


class OpenAIModel(Reply, frozen=True, kw_only=True):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(Reply, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[OpenAIModel]


class OpenAIChoice(Reply, frozen=True, kw_only=True):
    index: int
    message: dict[str, Any]
    logprobs: None
    finish_reason: str


class OpenAICompletion(Reply, frozen=True, kw_only=True):
    """As OpenAI's API answers (platform.openai.com/docs/api-reference/chat/object)."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[OpenAIChoice]
    usage: dict[str, Any]
