"""How many tokens a text is, where the provider did not say.

With the extra `tokens` (the package bpe-openai, which carries its vocabularies with it) the text is cut up as OpenAI's
current models do it.  Other vendors' vocabularies differ by tenths, so what is counted here is called an estimate in
any case.  Without the package four characters count as a token.

The vocabulary takes 140 MiB and up to a second to load.  So it is loaded in a thread, and only once it would have been
of use (`wanted`); until it is there the rule of thumb serves.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from everstream.core.meter import estimate_tokens

VOCABULARY = "o200k_base"
PIECE_CHARS = 100_000  # the package takes 200,000 tokens at a time
COUNTED_CHARS_MAX = 1_000_000  # 0.05 s; a longer text is estimated from this much of it

_encode: Callable[[str], list[int]] | None = None
_there = find_spec("bpe_openai") is not None
_missed = False


def wanted() -> bool:
    """Whether a vocabulary is there that would have been of use and is not loaded."""
    return _missed and _there


async def prepare() -> None:
    """Load the vocabulary where there is one, without blocking the loop.  Idempotent."""
    global _there
    if _there:
        _there = False  # who comes next need not wait for it
        await asyncio.to_thread(_load)


def counts() -> bool:
    """Whether `tokens_in` counts, or only divides."""
    global _missed
    _missed = _missed or _encode is None
    return _encode is not None


def tokens_in(text: str) -> int:
    """The tokens of a text, by the vocabulary where it is loaded, else by its length."""
    if not counts() or _encode is None:
        return estimate_tokens(len(text))
    seen = text[:COUNTED_CHARS_MAX]
    tokens = sum(len(_encode(seen[at : at + PIECE_CHARS])) for at in range(0, len(seen), PIECE_CHARS))
    return tokens if len(text) == len(seen) else tokens * len(text) // len(seen)


def _load() -> None:
    global _encode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about how the package finds its own files
        _encode = import_module("bpe_openai").get_encoding(VOCABULARY).encode_ordinary
