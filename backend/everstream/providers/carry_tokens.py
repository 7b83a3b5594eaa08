"""Carrying on where the provider itself turns text into token ids: the three ways, and what each needs.

    tokens    all ids are known, and are this model's: they are the prompt, and what follows is drawn from there
    text      what was said, without the white space at its end, is the beginning of the assistant's turn
    restart   nothing was said yet

The first two are both `prefill`; only the first is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from everstream.core.events import Continuation, Request
from everstream.providers.base import Progress
from everstream.providers.carry_join import Afresh, Continued, Join, nothing
from everstream.providers.carry_request import begun, stops_of, tells_tokens
from everstream.providers.chat_completions import PROMPT_ENDS


@dataclass(frozen=True, slots=True)
class Way:
    """What to ask, and who joins it to what is shown; `join` None: nothing is shown, and nothing was tried before.

    `prompt` None: the request is still to be put into ids, its last turn perhaps an unfinished one of the assistant.
    `made` is how many tokens of the prompt are the answer's.  `tells`: ids of what follows are of use.
    """

    request: Request
    join: Join | None = None
    prompt: tuple[int, ...] | None = None
    made: int = 0
    tells: bool = False

    def head_of(self, prompt: list[int], head: int) -> tuple[int, ...] | None:
        """What goes before the first ids that are told of the answer; None: none are told."""
        if not self.tells:
            return None
        return () if self.prompt is not None else (head, *prompt, PROMPT_ENDS)


def continued(progress: Progress) -> Continuation | None:
    """How such a provider carries on at best."""
    if progress.tool_calls or progress.refusal:
        return None
    return "prefill" if progress.text.strip() else "restart"


def way_of(request: Request, progress: Progress | None, head: int) -> Way:
    """The way to go.  `head` is what the ids of this model's answers begin with (`carry_ladder.tokens_head`)."""
    tells = tells_tokens(request)
    if progress is None:
        return Way(request, tells=tells)
    if not progress.text.strip():
        return Way(request, Afresh(), tells=tells)
    ids = progress.tokens
    if ids and ids[0] == head and PROMPT_ENDS in ids:
        made = len(ids) - ids.index(PROMPT_ENDS) - 1
        prompt = tuple(token for token in ids if token >= 0)
        return Way(request, Continued("prefill", progress.text, nothing), prompt, made, tells)
    asked, _, white = begun(request, progress)
    return Way(asked, Continued("prefill", progress.text, nothing, white=white, stops=stops_of(request)))
