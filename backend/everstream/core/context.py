"""Which messages a model is still shown when a conversation has outgrown its window.

    user assistant | user assistant tool assistant | user assistant tool …
                   ^                               ^
                   a cut may be made here,         or here, and no later: the present turn stays

The oldest turns go first and whole: what is left begins with a user's message, so that no answer stands without its
question and no tool's result without its call.  The present turn, the last user's message with all that followed it, is
never left out.  Where it does not fit by itself everything before it is, and the provider says what it thinks.

Messages are weighed from the newest back and only as long as they may fit, so a history without end costs no more than
a window full of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everstream.core.events import Message


def left_out(messages: Sequence[Message], room_tokens: int, tokens: Callable[[Message], int]) -> int:
    """How many of the oldest messages to leave out, so that the rest fits into `room_tokens`; 0 where all fit.

    `tokens` says what a message takes, at least 0.  It is asked from the newest back, at most once for each, and no
    more once the answer is known.  System messages are no part of `messages`.
    """
    last = next((at for at in range(len(messages) - 1, 0, -1) if messages[at].role == "user"), 0)
    if last == 0:  # one turn, or none that a cut could be made before
        return 0
    cut, taken = last, 0
    for at in range(len(messages) - 1, -1, -1):
        taken += tokens(messages[at])
        if taken > room_tokens:
            return cut
        if at <= last and messages[at].role == "user":
            cut = at
    return 0
