"""What has been found out about providers that no table knows, and how it is found out.

The question is asked of an endpoint and a model the first time that a text has to be carried on there: an assistant's
turn that breaks off in the middle of the alphabet.  A model that writes on says the next letter.  One that repeats the
turn first is told from one that begins a new turn by the words before the letters, which nobody would say by himself.

What is found is kept for a day: here for `FOUND_MAX` models, and in the store's memory, where there is one, for all
nodes.  Where the store cannot be asked, one does without.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

import msgspec

from everstream.core.errors import EverstreamError
from everstream.core.events import DeltaText, Message, Params, Request
from everstream.providers.base import Memory, ProviderError
from everstream.providers.carry_policy import PROMPTED, Policy, refusal_in
from everstream.providers.http_answer import Fold, Opener, answer

FOUND_S = 86_400
FOUND_MAX = 1024
PROBE_S = 15.0
PROBE_TOKENS = 24
PROBE_SAID = "Here, 4711: abcdefghijklm"
_GOES_ON = "nop"

Ask = Callable[[Request], tuple[Opener, Fold]]


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a model writes on, and whether it repeats what was sent."""

    prefill: bool
    echo: bool = False


class Known:
    """The findings of one provider, by address and subject: a model, and the way in which its turns are begun."""

    def __init__(self, memory: Memory | None) -> None:
        self._memory = memory
        self._found: dict[str, tuple[float, Finding]] = {}  # until when (monotonic); the oldest go first
        self._asking: dict[str, asyncio.Task[Finding | None]] = {}

    def recalled(self, address: str, subject: str) -> Finding | None:
        """What this node knows, without asking anybody."""
        until_s, finding = self._found.get(_name(address, subject), (0.0, None))
        return finding if time.monotonic() < until_s else None

    async def learn(self, address: str, subject: str, finding: Finding) -> None:
        """Keep a finding for a day."""
        name = _name(address, subject)
        self._keep(name, finding)
        if self._memory is not None:
            with contextlib.suppress(EverstreamError):  # the next node will ask again
                await self._memory.remember(name, msgspec.json.encode(finding), FOUND_S)

    async def settle(
        self, policy: Policy, address: str, subject: str, ask: Callable[[], Awaitable[Finding | None]]
    ) -> Policy:
        """The policy with the question answered that the table left open.  Never raises; asks once at a time."""
        finding = self.recalled(address, subject) or await self._remembered(_name(address, subject))
        if finding is None and policy.best == "probe":
            finding = await self._ask_once(address, subject, ask)
        if finding is None:
            return PROMPTED if policy.best == "probe" else policy
        return applied(policy, finding)

    async def aclose(self) -> None:
        for task in tuple(self._asking.values()):
            task.cancel()
        if self._asking:
            await asyncio.wait(tuple(self._asking.values()))

    async def _ask_once(
        self, address: str, subject: str, ask: Callable[[], Awaitable[Finding | None]]
    ) -> Finding | None:
        name = _name(address, subject)

        async def asked() -> Finding | None:
            finding = await ask()
            if finding is not None:
                await self.learn(address, subject, finding)
            return finding

        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(asked(), name="probe a model")
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)  # who no longer waits does not take the answer from the others

    async def _remembered(self, name: str) -> Finding | None:
        if self._memory is None:
            return None
        try:
            kept = await self._memory.recall(name)
            finding = None if kept is None else msgspec.json.decode(kept, type=Finding)
        except (EverstreamError, msgspec.DecodeError):
            return None
        if finding is not None:
            self._keep(name, finding)
        return finding

    def _keep(self, name: str, finding: Finding) -> None:
        self._found.pop(name, None)
        self._found[name] = (time.monotonic() + FOUND_S, finding)
        if len(self._found) > FOUND_MAX:
            del self._found[next(iter(self._found))]


def applied(policy: Policy, finding: Finding) -> Policy:
    """A policy, and what was found."""
    return replace(policy, best="prefill" if finding.prefill else "prompted", echo=policy.echo or finding.echo)


def probe(model: str) -> Request:
    """The question: a turn that breaks off.  No temperature is asked for: some take none, and no letter is in doubt."""
    said = [Message("user", "Write the lowercase alphabet without separators."), Message("assistant", PROBE_SAID)]
    return Request(model, said, Params(max_tokens=PROBE_TOKENS))


async def ask_whether_it_writes_on(name: str, opener: Opener, fold: Fold) -> Finding | None:
    """Ask, for at most `PROBE_S`.  None: nothing was found out, for the provider failed."""
    text = ""
    settling: set[asyncio.Task[None]] = set()
    try:
        async with asyncio.timeout(PROBE_S), aclosing(answer(name, opener, fold, settling)) as batches:
            async for batch in batches:
                text += "".join(event.text for event in batch if isinstance(event, DeltaText))
                if len(text) > 2 * len(PROBE_SAID):
                    break
    except ProviderError as error:
        if error.code == "provider.invalid" or refusal_in(error.message) is not None:
            return Finding(prefill=False)
        return None
    except TimeoutError:
        return None
    finally:
        if settling:
            await asyncio.wait(tuple(settling))
    said = text.lstrip()
    if said.startswith(PROBE_SAID + _GOES_ON):
        return Finding(prefill=True, echo=True)
    return Finding(prefill=said.startswith(_GOES_ON))


def _name(address: str, subject: str) -> str:
    """A key of bounded length, without the address in it."""
    return "continuation." + hashlib.blake2b(f"{address}\n{subject}".encode(), digest_size=16).hexdigest()
