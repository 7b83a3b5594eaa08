"""The application's functions that models may call, and how they are run.

    Tools       name ▶ ServerTool: what the model is told, and what was declared
    ToolRunner  name, JSON text ──checked──▶ the function ──▶ text for the model

Whatever happens is an outcome, and an outcome is a text for the model: what the function returned, or what went wrong.
An asynchronous function runs in a task of its own, so that a cancellation or the time limit is the function's to clean
up after, and not ours to wait for without end.  Any other runs in a thread, which nobody can stop: at the limit it is
left behind, its place is free again when it ends, and the model is told that it may still do what it was asked to.

What a model is told stays in the conversation, for all its members and for whoever runs the model.  So the message of
an exception goes there only if it was meant to (`ToolError`) or speaks of an argument (`ValueError`, `KeyError` and the
like, but no classes made of them: those of libraries may name hosts, files or keys).  Of any other, the model hears
what kind it was, and the rest is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import msgspec
import structlog
from pydantic_core import to_json

from everstream.core.events import Tool
from everstream.providers.function_thread import Threads
from everstream.runtime.ending import end
from everstream.runtime.tool_schema import Signature, WrongArguments, description_of, is_asynchronous, name_of

logger = structlog.get_logger(__name__)

THREADS_MAX = 64  # functions that are not asynchronous, at a time
LET_GO_S = 5.0  # after which a function that does not stop is left to itself
RESULT_BYTES_MAX = 256 * 1024
ERROR_CHARS_MAX = 500
_NOTE_BYTES = 128  # room for what is said of a result that was cut
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # platform.openai.com/docs/api-reference/chat/create, `tools`
_TOLD: Final = (ValueError, LookupError, KeyError, IndexError)


class ToolError(Exception):
    """Raised by a tool: the message is told to the model as it is."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Where a call comes from.  A function is given it by a parameter of this type, or one without a type that is
    named `context`."""

    session: str
    turn: str
    call_id: str
    user: str  # who sent the message that is being answered
    approved_by: str | None


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What the model is told."""

    content: str
    is_error: bool


Approval = bool | Callable[[dict[str, Any]], bool]


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A registered function, what the model is told of it, and how it is run.  Made by `Tools.add`."""

    name: str
    description: str
    parameters: dict[str, Any]  # JSON Schema
    function: Callable[..., Any]
    approval: Approval
    timeout_s: float | None  # None: as long as the settings say
    repeatable: bool
    signature: Signature = field(repr=False, compare=False)

    def described(self) -> Tool:
        """As a model is offered it."""
        return Tool(self.name, self.description, self.parameters)

    def needs_approval(self, arguments: str) -> bool:
        """Whether a member must allow this call.

        A predicate is given the arguments as the function would be, with its defaults.  One that fails, or cannot be
        asked since the arguments are wrong, has not said that the call is harmless.
        """
        if isinstance(self.approval, bool):
            return self.approval
        try:
            return bool(self.approval(self.signature.values(arguments)))
        except WrongArguments:
            return True
        except Exception:
            logger.exception("whether a call needs approval cannot be told, so it does", tool=self.name)
            return True


class Tools(Mapping[str, ServerTool]):
    """The tools of one application, by name."""

    def __init__(self) -> None:
        self._tools: dict[str, ServerTool] = {}

    def __getitem__(self, name: str) -> ServerTool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def add(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: dict[str, Any] | None = None,
        approval: Approval = False,
        timeout_s: float | None = None,
        repeatable: bool = False,
    ) -> ServerTool:
        """Register a function.  `name`, `description` and `parameters` (a JSON Schema) are its own where not given.

        `approval`: whether a member has to allow a call, always or by its arguments.  `repeatable`: it may be run
        again where a server died in the middle of it.  Raises ValueError for a name that is none, or is taken, a time
        that is none and parameters that the function does not take, TypeError for what is no such function.
        """
        if not callable(function) or inspect.isclass(function):
            raise TypeError(f"a tool must be a function, not {function!r:.100}")
        name = name_of(function) if name is None else name
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a tool: 1 to 64 letters, digits, _ and - are wanted")
        if name in self._tools:
            raise ValueError(f"there is a tool {name!r} already")
        if not isinstance(approval, bool) and (not callable(approval) or is_asynchronous(approval)):
            raise TypeError(f"approval of the tool {name!r} must be a bool, or a plain function of the arguments")
        if timeout_s is not None and not (timeout_s > 0 and math.isfinite(timeout_s)):
            raise ValueError(f"timeout_s of the tool {name!r} must be more than nothing and not without end")
        if parameters is not None and parameters.get("type") != "object":
            raise ValueError(f'parameters of the tool {name!r} must be a JSON Schema with "type": "object"')
        try:
            signature = Signature(function, ToolContext, parameters)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name!r} cannot be a tool: {error}") from error
        told = description_of(function) if description is None else description
        tool = ServerTool(name, told, signature.schema, function, approval, timeout_s, repeatable, signature)
        self._tools[name] = tool
        return tool


class ToolRunner:
    """Runs tools, for one node."""

    def __init__(self, tools: Mapping[str, ServerTool], timeout_s: float) -> None:
        """`timeout_s`: for tools that have no time of their own.  `tools` may grow."""
        self.tools = tools
        self._timeout_s = timeout_s
        self._threads = Threads(THREADS_MAX)
        self._tasks: set[asyncio.Task[ToolOutcome]] = set()  # those that were left behind, too
        self._stopped = asyncio.Event()

    async def run(self, name: str, arguments: str, context: ToolContext) -> ToolOutcome:
        """The outcome of one call; `arguments` is JSON text, as the model wrote it.

        Cancelling this cancels the function, and waits for its clean-up.  Raises CancelledError alone: when it is
        cancelled, and when the runner stops, since then nobody knows the outcome.
        """
        if self._stopped.is_set():
            raise asyncio.CancelledError
        tool = self.tools.get(name)
        if tool is None:
            return _error(f"there is no tool {name}")
        call = _Call(tool, arguments, context)
        task = asyncio.create_task(call.outcome(self._threads), name=f"tool {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        limit_s = self._timeout_s if tool.timeout_s is None else tool.timeout_s
        try:
            await asyncio.wait((task,), timeout=limit_s)
            if not task.done():
                logger.warning("a tool takes too long", limit_s=limit_s, **call.known_as)
                await call.let_go(task)
                return _error(f"{name} took longer than {limit_s:g} s; {call.left_as}")
        except asyncio.CancelledError:
            await call.let_go(task)
            raise
        if self._stopped.is_set() and task.cancelled():
            raise asyncio.CancelledError
        return call.judge(task)

    async def stop(self) -> None:
        """Cancel what runs.  Functions in threads are left behind."""
        self._stopped.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LET_GO_S):
                await end(self._tasks)


class _Call:
    """One call of a tool."""

    def __init__(self, tool: ServerTool, arguments: str, context: ToolContext) -> None:
        self._tool = tool
        self._arguments = arguments
        self._context = context
        self._wanted = True
        self._in_thread = False  # it has begun there
        self._stoppable = is_asynchronous(tool.function)
        self.known_as = {"tool": tool.name, "session": context.session, "call": context.call_id}

    @property
    def left_as(self) -> str:
        """What has become of it, once its time is over."""
        if self._stoppable:
            return "it was stopped"
        if self._in_thread:
            return "it cannot be stopped, and may still do what it was asked to"
        return "it did not begin, since too many others run"

    async def outcome(self, threads: Threads) -> ToolOutcome:
        try:
            return ToolOutcome(await self._result(threads), is_error=False)
        except WrongArguments as error:
            return _error(str(error))
        except ToolError as error:
            return _error(str(error) or f"{self._tool.name} failed")
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # the latter would end the server
            logger.exception("a tool failed", **self.known_as)
            kind = type(error)
            return _error(
                f"{kind.__name__}: {error}" if kind in _TOLD else f"{self._tool.name} failed: {kind.__name__}"
            )

    async def _result(self, threads: Threads) -> str:
        given = self._tool.signature.arguments(self._arguments)
        given |= dict.fromkeys(self._tool.signature.contexts, self._context)
        if self._stoppable:
            return content_of(await self._tool.function(**given))
        result, content = await threads.run(lambda: self._called(given), f"tool {self._tool.name}")
        if content is None:  # a plain function that gives something to wait for
            self._stoppable = True
            content = content_of(await result)
        return content

    def _called(self, given: dict[str, Any]) -> tuple[Any, str | None]:
        """Call a plain function, in a thread: what it returns, and the text of that unless it is to be waited for."""
        if not self._wanted:
            return None, ""
        self._in_thread = True
        result = self._tool.function(**given)
        return result, None if inspect.isawaitable(result) else content_of(result)

    async def let_go(self, task: asyncio.Task[ToolOutcome]) -> None:
        """Nobody waits for it any more: stop it if that can be done."""
        self._wanted = False
        task.cancel()
        if self._stoppable:
            await asyncio.wait((task,), timeout=LET_GO_S)
            if not task.done():
                logger.warning("a tool does not stop", **self.known_as)

    def judge(self, task: asyncio.Task[ToolOutcome]) -> ToolOutcome:
        if task.cancelled():
            return _error(f"{self._tool.name} was cancelled from inside")
        error = task.exception()
        if error is None:
            return task.result()
        logger.error("a tool failed", exc_info=error, **self.known_as)
        return _error(f"{self._tool.name} failed: {type(error).__name__}")


def content_of(result: Any) -> str:
    """A tool's result as text: text as it is, anything else as JSON, and not more of it than a model can bear.

    Raises ToolError for what is no JSON.
    """
    if isinstance(result, str) and not isinstance(result, Enum):
        content = str(result).encode("utf-8", "replace")  # half a surrogate pair cannot be stored
    else:
        try:
            content = to_json(result, inf_nan_mode="null", fallback=msgspec.to_builtins)
        except Exception as error:
            logger.exception("a tool's result is no JSON")
            raise ToolError(f"it has returned something that is no JSON ({type(result).__name__})") from error
    if len(content) <= RESULT_BYTES_MAX:
        return content.decode()
    kept = content[: RESULT_BYTES_MAX - _NOTE_BYTES].decode("utf-8", "ignore")
    return f"{kept}\n[cut: this is the beginning of {len(content)} bytes, too many for one result]"


def _error(words: str) -> ToolOutcome:
    words = words.encode("utf-8", "replace").decode()
    return ToolOutcome(words if len(words) <= ERROR_CHARS_MAX else words[: ERROR_CHARS_MAX - 1] + "…", is_error=True)
