"""What is asked to have an answer carried on, in terms that every dialect can say.

The request is the old one with a turn more.  A `prefill` sends what was said without the white space at its end: some
refuse that, and for all of them a token that begins with a space is another one than a space and a word.  What the
reader has seen of it is then dropped from the beginning of the continuation (`carry_join`).

A `prompted` request has one more turn of the user's, which is sent and nowhere kept.  It shows the end of the text,
asks for its last characters first, and these are cut off again: a model that begins with them goes on in the right
place.
"""

from __future__ import annotations

from typing import Any

import msgspec

from everstream.core.events import Message, Request
from everstream.providers.base import Progress
from everstream.providers.carry_join import anchor_of, in_open_fence
from everstream.providers.carry_policy import Policy
from everstream.providers.chat_completions import PROMPT_ENDS

CHARACTERS_PER_TOKEN = 4
SHOWN_AGAIN_CHARACTERS = 200


_ASK = (
    "The connection broke while you were answering, and your message above is what arrived of the answer. "
    "It ends with:\n\n<end>{end}</end>\n\n"
    "Complete that same answer. Your reply is appended to it as it is, so start with a copy of its last characters, "
    "which are:\n\n<copy>{anchor}</copy>\n\n"
    "and write on from there, in the middle of a word or a line if need be. Write nothing else: no tags, no remark "
    "about the interruption, and nothing that was said before.{fence}"
)
_FENCE = " The text ends inside a block of code that is still open: do not open it again."


def begun(request: Request, progress: Progress) -> tuple[Request, str, int]:
    """The request with the unfinished turn at its end, that turn's text, and the white space left out of it."""
    sent = progress.text.rstrip()
    messages = list(request.messages)
    last = messages[-1] if messages else None
    if last is not None and last.role == "assistant" and isinstance(last.content, str) and not last.tool_calls:
        messages.pop()  # the caller had begun the turn already, and two of them in a row are refused
        whole = last.content + sent
    else:
        whole = sent
    messages.append(Message("assistant", whole))
    less = shortened(request, tokens_of(progress.text))
    return msgspec.structs.replace(less, messages=messages), whole, len(progress.text) - len(sent)


def prompted(request: Request, progress: Progress) -> Request:
    """The request with the unfinished answer and a word about it."""
    text = progress.text
    asked = _ASK.format(
        end=text[-SHOWN_AGAIN_CHARACTERS:], anchor=anchor_of(text), fence=_FENCE if in_open_fence(text) else ""
    )
    messages = [*request.messages, Message("assistant", text), Message("user", asked)]
    return msgspec.structs.replace(shortened(request, tokens_of(text)), messages=messages)


def tokens_of(text: str) -> int:
    """An estimate of the tokens in a text."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def shortened(request: Request, tokens: int) -> Request:
    """The request with what is left of its `max_tokens`: one at least, for a provider takes no less."""
    params = request.params
    if params.max_tokens is None:
        return request
    least = 1
    if isinstance(params.thinking, dict) and isinstance(params.thinking.get("budget_tokens"), int):
        least += params.thinking["budget_tokens"]  # which has to be smaller than `max_tokens`
    left = max(params.max_tokens - tokens, least)
    return msgspec.structs.replace(request, params=msgspec.structs.replace(params, max_tokens=left))


def stops_of(request: Request) -> list[str]:
    """The stop sequences of a request."""
    for said in (request.params.stop, request.extra.get("stop"), request.extra.get("stop_sequences")):
        if said:
            return [said] if isinstance(said, str) else [stop for stop in said if isinstance(stop, str)]
    return []


def mark_unfinished(body: dict[str, Any], policy: Policy, progress: Progress) -> None:
    """Say in a chat body that its last message is no finished turn, in the words of the server's kind."""
    last = body["messages"][-1]
    if policy.style in ("prefix", "partial"):
        last[policy.style] = True
    elif policy.style == "continue_final_message":
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    if policy.thought == "reasoning_content" and progress.thinking:
        last["reasoning_content"] = progress.thinking


def tells_tokens(request: Request) -> bool:
    """Whether the ids of an answer's tokens would be of use: not where tools are parsed out of it, nor where a stop
    sequence makes the server hold text back of which it has told the ids."""
    return not (request.params.tools or stops_of(request) or request.extra.get("tools") or request.extra.get("n"))


def completions_body(chat: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The body for `/v1/completions` that draws on from precisely where the answer stopped.

    What the two APIs do not share is left out; `chat` is the body of the first request.
    """
    ids = progress.tokens or ()
    body = {key: value for key, value in chat.items() if key not in _ONLY_CHAT}
    body["prompt"] = [token for token in ids if token >= 0]
    body["return_token_ids"] = True
    asked = chat.get("max_completion_tokens", chat.get("max_tokens"))
    made = len(ids) - ids.index(PROMPT_ENDS) - 1 if PROMPT_ENDS in ids else tokens_of(progress.text)
    body["max_tokens"] = None if asked is None else max(asked - made, 1)  # left out it would mean 16 here
    return body


_ONLY_CHAT = (
    "messages",
    "max_completion_tokens",
    "max_tokens",
    "reasoning_effort",
    "tools",
    "tool_choice",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
)
