"""Which ways of carrying an answer on are open, best first: the rules, without any I/O.

1. The provider still runs it: `exact`.
2. No text of the answer was shown, or white space only: `restart`.  Thinking and half a tool call are withdrawn by it,
   for they cannot be taken up: a signature is missing, or the arguments would have to be guessed.
3. Text was shown and cannot be written on: after a tool call, in the middle of JSON that has to fit a schema, with
   several choices at once, in a conversation that the provider keeps.  Nothing is open: what was shown cannot be
   taken back.
4. All token ids are known, and the server takes them: `prefill`, which draws on from precisely there.
5. The model is known to write on: `prefill`, of the text.
6. `prompted`.

A refusal is never carried on, nor is a request that makes the provider act by itself on other machines: to ask twice
would act twice.
"""

from __future__ import annotations

import zlib
from typing import Literal

from everstream.core.events import Continuation, Request
from everstream.providers.base import Progress
from everstream.providers.carry_policy import Carry, Policy

Rung = Literal["exact", "restart", "tokens", "prefill", "prompted"]
LABELS: dict[Rung, Continuation] = {
    "exact": "exact",
    "restart": "restart",
    "tokens": "prefill",
    "prefill": "prefill",
    "prompted": "prompted",
}
_OFF = (None, False, "none", "off", "disabled")
_ACTS = ("mcp", "computer", "shell", "local_shell")  # tools by whose use a provider changes something


def rungs(policy: Policy, carry: Carry, request: Request, progress: Progress, *, alive: bool) -> tuple[Rung, ...]:
    """The ways to try, in this order.  `alive`: the provider may still run the answer that broke off."""
    if carry == "none":
        return ()
    ways: list[Rung] = ["exact"] if alive else []
    if progress.refusal or _acts(request):
        return tuple(ways)
    if not progress.text.strip():
        return (*ways, "restart")
    if carry == "restart" or not can_be_written_on(request, progress):
        return tuple(ways)
    if policy.tokens and policy.best == "prefill" and _fit(request, progress) and not request.params.tools:
        ways.append("tokens")
    thought = bool(progress.thinking) or thinks(request)
    if policy.best == "prefill" and not (thought and policy.thought == "prompted"):
        ways.append("prefill")
    return (*ways, "prompted")


def can_be_written_on(request: Request, progress: Progress) -> bool:
    """Whether the text shown is one that a model can go on with, and the words for that are kept nowhere."""
    return not (
        progress.tool_calls
        or _has_schema(request)
        or _is_many(request)
        or request.extra.get("conversation") is not None
    )


def tokens_head(model: str) -> int:
    """What the token ids of a model's answers begin with, less than any id: another model's mean something else."""
    return -2 - zlib.crc32(model.encode())


def _fit(request: Request, progress: Progress) -> bool:
    return bool(progress.tokens) and (progress.tokens or (0,))[0] == tokens_head(request.model)


def thinks(request: Request) -> bool:
    """Whether the request asks for thinking, in whatever dialect."""
    wanted = request.params.thinking
    for said in (wanted, *(request.extra.get(key) for key in ("thinking", "reasoning", "enable_thinking"))):
        if isinstance(said, dict):
            said = said.get("type", said.get("effort", True))
        if said not in _OFF:
            return True
    return False


def _has_schema(request: Request) -> bool:
    said = request.extra.get("response_format") or request.extra.get("output_format")
    for key in ("text", "output_config"):
        inner = request.extra.get(key)
        said = said or (inner.get("format") if isinstance(inner, dict) else None)
    return bool(said) and not (isinstance(said, dict) and said.get("type") == "text")


def _is_many(request: Request) -> bool:
    count = request.extra.get("n")
    return isinstance(count, int) and count > 1


def _acts(request: Request) -> bool:
    tools = request.extra.get("tools")
    kinds = [str(tool.get("type", "")) for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    return bool(request.extra.get("mcp_servers")) or any(kind.startswith(_ACTS) for kind in kinds)
