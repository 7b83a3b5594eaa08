"""What the scripted models say, as ready-made events.

Everything here is pure and shared: an event is immutable, so a thousand streams may hold the same one.  The caches
are bounded: the first numbers of the count, and a few hundred sections of the markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from random import Random

from everstream.core.events import DeltaText, DeltaThinking

COUNTED_TOKENS = 4096
SECTIONS_CACHED = 512

COUNTED: tuple[DeltaText, ...] = (DeltaText("1"), *(DeltaText(f" {n}") for n in range(2, COUNTED_TOKENS + 1)))


def counted_after(n: int) -> Iterator[DeltaText]:
    """The numbers after `n` (at least 1), without end."""
    return (DeltaText(f" {number}") for number in count(n + 1))


_TOKEN = re.compile(r"\s*\S+")
_THOUGHT = (
    "First I read the question again. Then I ask what is known and what is wanted. A small example helps: "
    "I try it and look. It holds, so I write the answer down. Is there a simpler way? Not that I can see."
)
# The first thought has a space before it as well: the text goes round and round.
THOUGHTS: tuple[DeltaThinking, ...] = tuple(DeltaThinking(token) for token in _TOKEN.findall(" " + _THOUGHT))

_NOUNS = re.findall(
    r"\w+",
    "river stone lamp garden letter window harbour ladder morning engine orchard signal valley basket bridge compass "
    "thread meadow kettle island ledger candle forest anchor",
)
_ADJECTIVES = re.findall(r"\w+", "quiet bright narrow patient early hollow steady distant plain gentle sudden honest")
_VERBS = re.findall(r"\w+", "carries keeps finds follows mends counts opens remembers crosses answers")


def _sentence(random: Random) -> str:
    first, second = random.sample(_NOUNS, 2)
    return (
        f"The {random.choice(_ADJECTIVES)} {first} {random.choice(_VERBS)} the {random.choice(_ADJECTIVES)} {second}."
    )


def _list(random: Random) -> str:
    return "\n".join(
        f"- **{random.choice(_NOUNS)}**: {random.choice(_VERBS)} the {noun}" for noun in random.sample(_NOUNS, 3)
    )


def _steps(random: Random) -> str:
    return "\n".join(f"{n}. {_sentence(random)}" for n in (1, 2, 3))


def _code(random: Random) -> str:
    name, other = random.sample(_NOUNS, 2)
    function = f"def {name}(n):\n    return n * {random.randint(2, 99)}"
    loop = f"for {other} in range(3):\n    print({name}({other}))"
    return f"```python\n{function}\n\n{loop}\n```"


def _table(random: Random) -> str:
    rows = "\n".join(
        f"| {noun} | {random.randint(1, 999)} | *{random.choice(_ADJECTIVES)}* |" for noun in random.sample(_NOUNS, 3)
    )
    return f"| thing | count | kind |\n|---|---:|---|\n{rows}"


_BLOCKS = (_list, _code, _table, _steps)


@lru_cache(maxsize=SECTIONS_CACHED)
def lorem(seed: int, section: int) -> tuple[DeltaText, ...]:
    """Section `section` (0, 1, …) of the markdown text with that seed, as tokens: a word with the space before it."""
    random = Random(f"{seed} {section}")
    title = f"{random.choice(_ADJECTIVES)} {random.choice(_NOUNS)}".capitalize()
    heading = f"# {title}" if section == 0 else f"\n\n## {title}"
    block = _BLOCKS[section % len(_BLOCKS)](random)
    text = f"{heading}\n\n{_sentence(random)} {_sentence(random)}\n\n{block}"
    return tuple(DeltaText(token) for token in _TOKEN.findall(text))
