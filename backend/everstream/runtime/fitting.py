"""How much of a conversation fits into a model's window, in tokens; `core.context` says where it is cut then.

    window = answer + spare + system prompt + tools + messages

Three things keep this cheap enough for the event loop, whatever the history:

* A token is at least one byte of text.  So what has no more bytes than there is room fits, and nothing is counted.
  Most conversations are of that kind.
* Counting stops where the room is full (`core.context`).
* The vocabulary is asked about `COUNTED_CHARS` of one request: what always goes along, and the newest messages.  What
  is older is taken to have as many bytes a token as they: bytes, for in these the scripts of the world differ least.

All of it is an estimate: other vendors' vocabularies differ from the one that is asked by tenths, so a tenth of what
the answer leaves free is kept as a spare.
"""

from __future__ import annotations

from itertools import chain
from typing import Final

import msgspec

from everstream.core.context import left_out
from everstream.core.events import ImagePart, Message, Request
from everstream.core.meter import CHARS_PER_TOKEN, MESSAGE_OVERHEAD_TOKENS
from everstream.providers.tokenizer import counts, tokens_in

ANSWER_TOKENS: Final = 4_096  # what is kept free for an answer that has no bound of its own
ANSWER_SHARE: Final = 4  # but no more of a window than its fourth
SPARE_SHARE: Final = 10  # of what the answer leaves free
COUNTED_CHARS: Final = 100_000  # about 7 ms
CALL_OVERHEAD_TOKENS: Final = 8  # of a tool call, and of a tool's description: the marks around them

# What an image takes depends on its size, which is not looked at.  Claude scales down what would be more than about
# 1,600 (docs.claude.com, "Vision": width times height by 750); OpenAI's tiles come to 1,445 for a large one, and
# Gemini's 258 a tile to about as much for a screenful.  Models that look closer take up to three times that.
IMAGE_TOKENS: Final = 1_600


def left_out_of(request: Request, window: int | None) -> int:
    """How many of a request's oldest messages to leave out, so that it fits into a window of so many tokens.

    0 where the window is not known.  Takes some 10 ms at most, and mostly far less.
    """
    if window is None:
        return 0
    params, messages = request.params, request.messages
    room = window - _answer_tokens(params.max_tokens, window)
    room -= room // SPARE_SHARE
    beside = [params.system or "", *(msgspec.json.encode(tool).decode() for tool in params.tools or ())]
    room -= CALL_OVERHEAD_TOKENS * len(beside)
    if _surely_fit(beside, messages, room):
        return 0
    counter = _Counter()
    room -= sum(map(counter.tokens, beside))
    return left_out(messages, room, lambda message: _overhead(message) + counter.tokens(*_texts(message)))


def _answer_tokens(max_tokens: int | None, window: int) -> int:
    """What the answer may take.  A bound as large as the window means that there is to be none."""
    if max_tokens is not None and max_tokens < window:
        return max_tokens
    return min(ANSWER_TOKENS, window // ANSWER_SHARE)


def _surely_fit(beside: list[str], messages: list[Message], room: int) -> bool:
    room -= sum(map(_bytes_of, beside))
    for message in reversed(messages):
        if room < 0:
            return False
        room -= _overhead(message) + sum(map(_bytes_of, _texts(message)))
    return room >= 0


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _texts(message: Message) -> tuple[str, ...]:
    content, calls = message.content, message.tool_calls
    if isinstance(content, str) and not calls:
        return (content,)
    said = (
        (content,) if isinstance(content, str) else (part.text for part in content if not isinstance(part, ImagePart))
    )
    return (*said, *chain.from_iterable((call.name, call.arguments) for call in calls or ()))


def _overhead(message: Message) -> int:
    """Tokens that a message takes beside its text."""
    overhead = MESSAGE_OVERHEAD_TOKENS + CALL_OVERHEAD_TOKENS * len(message.tool_calls or ())
    if isinstance(message.content, str):
        return overhead
    return overhead + IMAGE_TOKENS * sum(isinstance(part, ImagePart) for part in message.content)


class _Counter:
    """Tokens of texts: by the vocabulary as long as `COUNTED_CHARS` last, then by what it has said so far."""

    def __init__(self) -> None:
        self._chars_left = COUNTED_CHARS if counts() else 0
        self._bytes = 0
        self._tokens = 0

    def tokens(self, *texts: str) -> int:
        return sum(map(self._tokens_of, texts))

    def _tokens_of(self, text: str) -> int:
        size = _bytes_of(text)
        if not 0 < len(text) <= self._chars_left:
            if self._chars_left and text:
                self._count(text[: self._chars_left])
                self._chars_left = 0
            return self._estimated(size)
        self._chars_left -= len(text)
        return self._count(text)

    def _count(self, text: str) -> int:
        tokens = tokens_in(text)
        self._bytes += _bytes_of(text)
        self._tokens += tokens
        return tokens

    def _estimated(self, size: int) -> int:
        """Rounded up.  Without a vocabulary, a token for each four bytes: a word's part, or a character of Chinese."""
        if not self._tokens:
            return -(-size // CHARS_PER_TOKEN)
        return -(-size * self._tokens // self._bytes)
