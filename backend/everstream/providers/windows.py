"""How many tokens a model sees at a time, question and answer together: its window.

Who knows it is asked in this order, and the first who does has said it:

1. the section `[endpoints.NAME]` of the settings (`context_tokens`), which holds for all models of a service;
2. the provider itself: one that runs its models knows (`base.KnowingProvider`), and many services tell it in the list
   of their models, once somebody has asked for that;
3. the public price list, once it is loaded;
4. the setting `context_tokens`, for all that nobody knows.

Nothing is asked for here: a window is looked up when a turn begins, which must not wait for it.  What the application's
own functions see, and what `scripted` pretends to, only the last can say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from everstream.providers.base import ModelInfo
from everstream.providers.pricing import window_of

TOLD_MAX: Final = 20_000  # models of all lists together; a service's list is cut at 500


class Windows:
    """`said` is what the settings say of a service and `priced_as` what the price list calls it; `otherwise` holds for
    what nobody knows.  0 is no word at all."""

    def __init__(
        self, said: Mapping[str, int] | None = None, priced_as: Mapping[str, str] | None = None, otherwise: int = 0
    ) -> None:
        self._said = said or {}
        self._priced_as = priced_as or {}
        self._otherwise = otherwise
        self._told: dict[str, int] = {}

    def learn(self, models: Iterable[ModelInfo]) -> None:
        """Keep what the providers' lists tell."""
        for model in models:
            if model.window is not None and (model.id in self._told or len(self._told) < TOLD_MAX):
                self._told[model.id] = model.window

    def of(self, model: str, own: int | None = None) -> int | None:
        """The window of `provider/name`; `own` is what its provider knows unasked.  None: nobody knows it."""
        provider, _, name = model.partition("/")
        return (
            self._said.get(provider)
            or own
            or self._told.get(model)
            or window_of(self._priced_as.get(provider, ""), name)
            or self._otherwise
            or None
        )
