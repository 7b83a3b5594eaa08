"""A session as a document: JSON with all its branches, or Markdown of one path."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from everstream.core.events import TextPart
from everstream.core.session import Session
from everstream.core.session_events import SessionMessage

_FENCE_LEAST = 3


def as_json(name: str, session: Session, messages: Iterable[SessionMessage]) -> str:
    """Everything that members may see.  Times are Unix time in ms."""
    fields = {
        "session": name,
        "title": session.title,
        "system": session.system,
        "model": session.model,
        "created": session.created,
        "members": members_of(session),
        "messages": list(messages),
    }
    return msgspec.json.format(msgspec.json.encode(fields), indent=2).decode()


def as_markdown(session: Session, messages: Iterable[SessionMessage]) -> str:
    """The messages in their order, each under who said it."""
    lines = [f"# {_one_line(session.title) or 'Chat'}", ""]
    if session.system:
        lines += ["> " + line for line in session.system.splitlines()] + [""]
    for message in messages:
        said_at = datetime.fromtimestamp(message.created / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        lines += [f"## {_one_line(message.author)} ({said_at} UTC)", "", _content(message), ""]
        for call in message.tool_calls or ():
            lines += [f"Calls `{_one_line(call.name)}`:", "", fenced(call.arguments, "json"), ""]
        if message.reason is not None:
            lines += [f"*({message.reason})*", ""]
    return "\n".join(lines)


def members_of(session: Session) -> list[dict[str, Any]]:
    """As the protocol shows them."""
    return [{"user": user, "role": role} for user, role in session.members.items()]


def fenced(text: str, language: str = "") -> str:
    """A block of code, whatever stands in it."""
    longest = run = 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(_FENCE_LEAST, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _content(message: SessionMessage) -> str:
    if message.role == "tool":
        return fenced(message.content if isinstance(message.content, str) else "")
    if isinstance(message.content, str):
        return message.content
    parts = []
    for part in message.content:
        if isinstance(part, TextPart):
            parts.append(part.text)
        else:
            parts.append(f"![image]({part.url})" if part.url else f"*(an image, {part.media_type or 'inline'})*")
    return "\n\n".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())
