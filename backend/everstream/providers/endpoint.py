"""One service that makes tokens, as a provider needs to know it: where it is, what it speaks, what is odd about it.

An endpoint comes from the table of presets, from a section `[endpoints.NAME]` of the settings, or from both: what the
settings say wins.  Its name is the part of a model's id before the slash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from everstream.providers.carry_policy import Carry

Api = Literal["chat", "responses", "completions", "messages", "gemini", "interactions", "ollama", "cohere"]

_OF_EVERY_BODY = frozenset({"stream", "stream_options"})  # which nobody has asked for


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`models` are offered unasked; where there are none, the service is asked which it has.

    `headers` and `query` go with every request, `body` into every body that does not say otherwise, and the keys of
    `leave_out` into none.  `max_tokens_field` is how this service calls that bound, where its API leaves a choice.
    `priced_as` is what the public price list calls it.  `context_tokens` is what its models see at a time; 0: it is not
    said.  `thinking`, `tools` and `images` are told of its models.
    `key_header` carries the key where the service wants it elsewhere than its API says.  `called` are keys of a body
    that have another name here.  `rules` is the address whose row of `carry_policy` counts; "" its own.
    """

    name: str
    api: Api
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    needs_key: bool = True
    why_not: str = ""  # what to do where it cannot be used
    key_from: str = ""  # the variable that held the key, or "the settings"
    models: tuple[str, ...] = ()
    continuation: Carry = "auto"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # which may hold keys, as these may
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    leave_out: frozenset[str] = frozenset()
    max_tokens_field: str | None = None
    priced_as: str = ""
    context_tokens: int = 0
    thinking: bool | None = None
    tools: bool | None = None
    images: bool | None = None
    key_header: str = ""
    called: Mapping[str, str] = field(default_factory=dict)
    rules: str = ""
    lists: bool = True  # has a list of its models, which can be asked for
    offered: bool = True  # shown to people unasked, and made ready

    @property
    def on_this_machine(self) -> bool:
        """Whether it is reached without leaving this machine, and so through no proxy."""
        host = urlsplit(self.base_url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")

    @property
    def trusts_environment(self) -> bool:
        """Whether a vendor's package may look there for a proxy; and for whom to trust, which only TLS asks."""
        return not self.on_this_machine or self.base_url.startswith("https:")

    @property
    def hindrance(self) -> str | None:
        """What is missing before it can be asked; None: nothing."""
        return self.why_not if not self.base_url or (self.needs_key and not self.api_key) else None

    def untaken(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        """Warnings about what a person asked for in this body and this service is not sent."""
        asked = sorted(self.leave_out & body.keys() - _OF_EVERY_BODY)
        return tuple(f"{key} is not taken by {self.name} and was left out" for key in asked)

    def fitted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request's body as this service wants it."""
        fitted = {
            **self.body,
            **{self.called.get(key, key): value for key, value in body.items() if key not in self.leave_out},
        }
        if self.max_tokens_field is not None:
            for called in ("max_tokens", "max_completion_tokens"):
                if called in fitted:
                    fitted[self.max_tokens_field] = fitted.pop(called)
        return fitted
