"""The contract between the relay and whatever makes tokens.

A provider turns a `Request` into batches of events.  A batch is what arrived together (one read of a socket):
the relay handles it in one go, so a burst costs one turn of the loop and not one a token.  An empty batch means
"still alive, nothing to show" (a ping, a comment) and keeps the idle clock from running out.

How `generate` must behave:

1. `HeadersReceived` comes first, when the provider has accepted the request.
2. Then deltas, then at least one `Finish`.  A stream that ends without the provider's own terminal mark raises
   `ProviderError("provider.connection", …)`: what the SDK calls a normal end may be a cut answer.
3. Errors are raised as `ProviderError`; deltas that came before were already yielded and are kept.
4. Cancelling the task, or closing the generator, closes the provider's HTTP response at once: billing stops.
5. It never waits for ever on its own account, but idle time-outs are the relay's matter, not the provider's.
6. With `progress`, an answer that broke off is taken up again.  `Resumed` then comes after `HeadersReceived` and before
   any content, and says how that was done: never better than the truth.  Only what `progress` does not show follows.
   Where one way is refused the next worse one is tried; where none is left, `ProviderError` is raised.
7. `Mark` may follow content in a batch: what will be needed to carry on from there.  It comes back in `progress`.
8. `Counted` may come at any time after the headers: tokens as the provider has counted them so far.
9. Nothing that ends the reading ends what runs at the provider by itself: that is what `abandon` is for.

A provider may also be able to *pour*: to call the relay for each batch instead of being asked for the next.  That
saves a task's wake-up a token.  The relay prefers it where it is there; nobody has to offer it.  Nor has anybody to
know its models' windows unasked (`KnowingProvider`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from everstream.core.errors import EverstreamError
from everstream.core.events import (
    Content,
    Continuation,
    Counted,
    Finish,
    HeadersReceived,
    Mark,
    Request,
    Resumed,
    ToolCall,
)
from everstream.core.summary import NOTHING, Summary

ProviderEvent = Content | HeadersReceived | Counted | Finish | Mark | Resumed
Batch = Sequence[ProviderEvent]


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as the `models` command shows it.  `why_not` says what to do when it is not usable."""

    id: str
    usable: bool
    continuation: Continuation | None
    why_not: str | None = None
    thinking: bool | None = None
    tools: bool | None = None
    images: bool | None = None
    window: int | None = None  # tokens that it sees at a time, question and answer together


@dataclass(frozen=True, slots=True)
class Progress:
    """What a stream already shows, for a call that carries on where another stopped."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    cursor: Any = None  # the last mark's, where this provider's run may still go on
    since: Summary = NOTHING  # what was shown after that mark
    tokens: tuple[int, ...] | None = None  # the ids of all that was shown, where all are known

    @property
    def shows_content(self) -> bool:
        return bool(self.text or self.thinking or self.refusal or self.tool_calls)


class Memory(Protocol):
    """Where a provider keeps what it has found out, for all nodes.  May raise EverstreamError `store.unavailable`."""

    async def remember(self, name: str, value: bytes, ttl_s: int) -> None: ...

    async def recall(self, name: str) -> bytes | None: ...


class ProviderError(EverstreamError):
    """A provider failed, refused or broke off.  The code is one of `provider.*`, `model.unknown` or
    `request.invalid`."""


class Provider(Protocol):
    """A source of tokens.  One instance a node, made when first needed, shared by all streams."""

    name: str  # the part of a model's id before the slash

    async def models(self) -> list[ModelInfo]:
        """The models worth offering.  Others may be asked for by name all the same."""
        ...

    async def prepare(self) -> None:
        """Do what would hold up the first request: imports, clients.  Away from the loop.  Idempotent."""
        ...

    def check(self, request: Request) -> None:
        """Refuse what can be refused without asking: a name that is none, parameters that cannot be meant, no key.

        Called before a stream is made.  Raises ProviderError.
        """
        ...

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        """How an answer that broke off after `progress` can be carried on at best; None: it cannot."""
        ...

    def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
        """Ask, and yield batches as they come.  `progress` is set when an interrupted answer is carried on."""
        ...

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Stop what may still run at the provider after its connection has closed.  Never raises; bounded in time."""
        ...

    async def aclose(self) -> None:
        """Close pools and clients.  Idempotent."""
        ...


class Sink(Protocol):
    """Where a provider that pours puts its batches."""

    def take(self, batch: Batch) -> bool:
        """Take a batch; False: wait for `room` before the next.  May be called from a callback of the loop."""
        ...

    async def room(self) -> None:
        """Wait until there is room."""
        ...


class PouringProvider(Provider, Protocol):
    """A provider that need not be asked for each batch."""

    async def pour(self, request: Request, progress: Progress | None, sink: Sink) -> None:
        """As `generate`, batch for batch, into `sink`; cancelling it closes the provider's response at once.

        What `sink.take` raises is raised.
        """
        ...


class KnowingProvider(Provider, Protocol):
    """A provider that runs its models itself, and so knows what they see."""

    def window(self, model: str) -> int | None:
        """The tokens that the model of this name sees at a time, question and answer together; None: not known yet."""
        ...
