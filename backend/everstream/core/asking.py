"""What is asked of a conversation, and what has become of an answer: words between a leader and its rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from everstream.core.events import EndReason, ErrorInfo, FinishReason, ImagePart, TextPart
from everstream.core.session import text_of
from everstream.core.session_events import CallMade

TITLE_CHARS_MAX = 80

Content = str | list[TextPart | ImagePart]
OnBusy = str  # queue, interrupt, reject, parallel


@dataclass(frozen=True, slots=True)
class Bounds:
    messages: int
    members: int
    turns: int
    queue: int
    tool_rounds: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A `generate` of a session, and the id that its turn will have.

    Without `content` it answers `parent` anew; `follows`: it goes behind the newest path.
    """

    turn: str
    user: str
    model: str | None
    content: Content | None
    parent: str | None
    follows: bool
    on_busy: OnBusy
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Given:
    """A result of a tool, from outside."""

    call_id: str
    content: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """How a response stream has ended: what it showed, and why it is over."""

    text: str
    thinking: str
    calls: Sequence[CallMade]  # only where the answer is whole
    reason: EndReason
    finish_reason: FinishReason | None = None
    error: ErrorInfo | None = None


def says_something(content: Content) -> bool:
    if isinstance(content, str):
        return bool(content.strip())
    return any(not isinstance(part, TextPart) or part.text.strip() for part in content)


def title_of(content: Content) -> str:
    """A title from a first message: the beginning of its text, in one line, cut at a word."""
    text = " ".join(text_of(content).split())
    if len(text) <= TITLE_CHARS_MAX:
        return text
    cut = text[: TITLE_CHARS_MAX - 1]
    word = cut.rsplit(" ", 1)[0]
    return (word if len(word) > TITLE_CHARS_MAX // 2 else cut).rstrip(" ,;:.-") + "…"
