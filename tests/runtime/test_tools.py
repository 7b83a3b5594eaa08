"""Tools: how they are called with what a model sent, and what comes of it, whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from pydantic import BaseModel
from tests.runtime.conftest import WAIT_S, until

from everstream.runtime import tools as tools_module
from everstream.runtime.tools import RESULT_BYTES_MAX, ToolContext, ToolError, ToolOutcome, ToolRunner, Tools

CONTEXT = ToolContext("s_1", "t_1", "call_1", "ann", "bob")
Run = Callable[..., Awaitable[ToolOutcome]]


class Runs:
    """A runner and its tools; calls them as the turns of a session do."""

    def __init__(self, timeout_s: float = WAIT_S) -> None:
        self.tools = Tools()
        self.runner = ToolRunner(self.tools, timeout_s)

    def start(self, function: Callable[..., Any], arguments: str = "{}", **declared: Any) -> asyncio.Task[ToolOutcome]:
        tool = self.tools.add(function, **({"name": f"tool{len(self.tools)}"} | declared))
        return asyncio.create_task(self.runner.run(tool.name, arguments, CONTEXT))

    async def call(self, function: Callable[..., Any], arguments: str = "{}", **declared: Any) -> ToolOutcome:
        async with asyncio.timeout(WAIT_S):
            return await self.start(function, arguments, **declared)


@pytest.fixture
async def runs() -> AsyncIterator[Runs]:
    runs = Runs()
    yield runs
    await runs.runner.stop()


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """What functions in threads wait for; let go at the end, and the threads are gone."""
    before = set(threading.enumerate())
    event = threading.Event()
    yield event
    event.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)


def good(content: str) -> ToolOutcome:
    return ToolOutcome(content, is_error=False)


def bad(content: str) -> ToolOutcome:
    return ToolOutcome(content, is_error=True)


def loop_runs() -> bool:
    """Whether this is called in an event loop."""
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop() is not None
    return False


# --------------------------------------------------------------------------- how they are called


async def test_an_asynchronous_function_runs_in_the_loop_and_a_plain_one_in_a_thread(runs: Runs) -> None:
    async def asynchronous(word: str) -> str:
        return f"{word} {loop_runs()}"

    def plain(word: str) -> str:
        return f"{word} {loop_runs()}"

    assert await runs.call(asynchronous, '{"word": "yes"}') == good("yes True")
    assert await runs.call(plain, '{"word": "no"}') == good("no False")


async def test_objects_methods_and_partial_functions_are_tools_too(runs: Runs) -> None:
    class Shelf:
        def __call__(self, book: str) -> str:
            return f"{book} stands here"

        async def find(self, book: str) -> str:
            return f"{book} is found"

    def look(where: str, book: str) -> str:
        return f"{book} is in the {where}"

    shelf = Shelf()
    assert await runs.call(shelf, '{"book": "It"}') == good("It stands here")
    assert await runs.call(shelf.find, '{"book": "It"}') == good("It is found")
    assert await runs.call(functools.partial(look, "attic"), '{"book": "It"}') == good("It is in the attic")
    assert await runs.call(functools.partial(look, where="attic"), '{"book": "It"}') == good("It is in the attic")
    assert (await runs.call(functools.partial(look, where="attic"), '{"where": "safe", "book": "It"}')).is_error


async def test_a_plain_function_that_gives_something_to_wait_for_is_waited_for(runs: Runs) -> None:
    async def later(word: str) -> str:
        return f"{word} {loop_runs()}"

    assert await runs.call(lambda word: later(word), '{"word": "yes"}') == good("yes True")


async def test_the_context_is_given_by_its_type_or_by_its_name(runs: Runs) -> None:
    def typed(who: ToolContext) -> str:
        return who.user

    def optional(word: str, *, who: ToolContext | None = None) -> str:
        return f"{word} {who and who.approved_by}"

    async def named(context) -> str:  # type: ignore[no-untyped-def]
        return f"{context.session} {context.turn} {context.call_id}"

    def another(context: str) -> str:
        return f"in the {context} of"

    assert await runs.call(typed) == good("ann")
    assert await runs.call(optional, '{"word": "for"}') == good("for bob")
    assert await runs.call(named) == good("s_1 t_1 call_1")
    assert await runs.call(another, '{"context": "light"}') == good("in the light of")


async def test_a_model_cannot_give_the_context(runs: Runs) -> None:
    def who(context: ToolContext, **more: Any) -> str:
        return context.user

    open_to_all = {"type": "object"}
    assert await runs.call(who, '{"a": 1}', parameters=open_to_all) == good("ann")
    told = await runs.call(who, '{"context": {"user": "eve"}}', parameters=open_to_all)
    assert told == bad("wrong arguments: context cannot be given")


async def test_what_was_not_sent_has_the_function_s_own_default(runs: Runs) -> None:
    nothing = object()
    seen: list[Any] = []

    def note(text: str = "", tags: Any = nothing) -> None:
        seen.extend((text, tags))

    assert await runs.call(note, "") == good("null"), "no arguments at all are none"
    assert seen[1] is nothing


async def test_context_variables_come_along(runs: Runs) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("here")

    def plain() -> str:
        return variable.get()

    assert await runs.call(plain) == good("here")


# --------------------------------------------------------------------------- what it returns


class Colour(Enum):
    RED = "red"


class Named(str, Enum):  # noqa: UP042  as older code writes it
    BLUE = "blue"


class Place(BaseModel):
    name: str
    since: date


@dataclass
class Point:
    x: int


class Packed(msgspec.Struct):
    n: int


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ("as it is: {1}", "as it is: {1}"),
        ("", ""),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        (float("nan"), "null"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (["ü"], '["ü"]'),
        (Place(name="Ulm", since=date(850, 1, 2)), '{"name":"Ulm","since":"0850-01-02"}'),
        ([Point(1), Packed(2)], '[{"x":1},{"n":2}]'),
        (Colour.RED, '"red"'),
        (Named.BLUE, '"blue"'),
        ({"where": Path("a/b")}, '{"where":"a/b"}'),
        ("half a pair: \ud800", "half a pair: ?"),
    ],
)
async def test_a_result_is_text_or_json(runs: Runs, result: Any, content: str) -> None:
    assert await runs.call(lambda: result) == good(content)


@pytest.mark.parametrize("result", [object(), b"\xff", {"a": {"b": Runs}}])
async def test_a_result_that_is_no_json_is_an_error(runs: Runs, result: Any) -> None:
    kind = type(result).__name__
    assert await runs.call(lambda: result) == bad(f"it has returned something that is no JSON ({kind})")


async def test_a_result_has_a_bound(runs: Runs) -> None:
    whole = "ü" * (RESULT_BYTES_MAX // 2)
    assert await runs.call(lambda: whole) == good(whole)
    cut = await runs.call(lambda: f"{whole}!")
    assert not cut.is_error
    assert len(cut.content.encode()) <= RESULT_BYTES_MAX
    assert cut.content.endswith(
        f"ü\n[cut: this is the beginning of {RESULT_BYTES_MAX + 1} bytes, too many for one result]"
    )
    assert len((await runs.call(lambda: ["ü" * RESULT_BYTES_MAX])).content.encode()) <= RESULT_BYTES_MAX


# --------------------------------------------------------------------------- what goes wrong


async def test_a_tool_that_is_not_there_is_an_error(runs: Runs) -> None:
    assert await runs.runner.run("nothing", "{}", CONTEXT) == bad("there is no tool nothing")
    assert len((await runs.runner.run("n" * 9999, "{}", CONTEXT)).content) == tools_module.ERROR_CHARS_MAX


async def test_wrong_arguments_are_told_to_the_model_and_nothing_is_run(runs: Runs) -> None:
    def never(days: int, place: Place) -> None:
        raise AssertionError

    def never_either(days: int, place: Place) -> None:
        raise AssertionError

    sent = json.dumps({"days": "two", "place": {"name": 1, "since": "2020-01-01"}, "more": 1})
    told = await runs.call(never, sent)
    assert told == bad(
        "wrong arguments: days: Input should be a valid integer, unable to parse string as an integer; "
        "place.name: Input should be a valid string; more: Extra inputs are not permitted"
    )
    for text in ("[1]", '{"days": 1', "null", '"{}"', "[" * 9999):
        told = await runs.call(never_either, text)
        assert told.is_error
        assert told.content.startswith("wrong arguments: ")


def secretive() -> None:
    raise ConnectionError("postgres://ann:secret@db.internal/people does not answer")


def inherited() -> None:
    class NoSuchThing(ValueError):
        pass

    raise NoSuchThing("/etc/secret")


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (raising(ToolError("ask for another day")), "ask for another day"),
        (raising(ToolError()), "book failed"),
        (raising(ValueError("no such day: 32")), "ValueError: no such day: 32"),
        (raising(KeyError("Ulm")), "KeyError: 'Ulm'"),
        (secretive, "book failed: ConnectionError"),
        (inherited, "book failed: NoSuchThing"),
        (raising(SystemExit("out")), "book failed: SystemExit"),
        (raising(GeneratorExit()), "book failed: GeneratorExit"),
        (raising(StopIteration(1)), "book failed: RuntimeError"),
    ],
)
async def test_an_exception_is_told_as_far_as_it_is_the_model_s_business(
    runs: Runs, function: Callable[[], None], told: str
) -> None:
    async def asynchronous() -> None:
        function()

    with structlog.testing.capture_logs() as logs:
        assert await runs.call(function, name="book") == bad(told)
        runs.tools = runs.runner.tools = Tools()
        assert await runs.call(asynchronous, name="book") == bad(told)
    logged = [(entry["tool"], entry["session"], entry["call"]) for entry in logs if entry["event"] == "a tool failed"]
    words_chosen = told in ("ask for another day", "book failed")
    assert logged == ([] if words_chosen else [("book", "s_1", "call_1")] * 2)


async def test_what_is_told_of_an_error_has_a_bound(runs: Runs) -> None:
    told = await runs.call(raising(ToolError("ü" * 9999)))
    assert told == bad("ü" * (tools_module.ERROR_CHARS_MAX - 1) + "…")


async def test_a_function_that_cancels_itself_has_failed(runs: Runs) -> None:
    assert await runs.call(raising(asyncio.CancelledError()), name="a") == bad("a was cancelled from inside")


# --------------------------------------------------------------------------- time


async def test_what_takes_too_long_is_stopped(runs: Runs) -> None:
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    told = await runs.call(endless, timeout_s=0.01, name="endless")
    assert told == bad("endless took longer than 0.01 s; it was stopped")
    assert ended.is_set()


async def test_the_runner_has_a_limit_for_tools_that_have_none() -> None:
    runs = Runs(timeout_s=0.01)

    async def endless() -> None:
        await asyncio.Event().wait()

    assert "took longer than 0.01 s" in (await runs.call(endless)).content
    assert (await runs.call(lambda: "in time", timeout_s=WAIT_S)) == good("in time")
    await runs.runner.stop()


async def test_a_thread_is_left_behind_and_the_model_is_told_so(runs: Runs, held: threading.Event) -> None:
    told = await runs.call(held.wait, timeout_s=0.05, parameters={"type": "object"}, name="wait")
    assert told == bad("wait took longer than 0.05 s; it cannot be stopped, and may still do what it was asked to")
    assert await runs.call(lambda: "others go on") == good("others go on")


async def test_threads_have_a_bound_and_what_did_not_begin_never_does(
    monkeypatch: pytest.MonkeyPatch, held: threading.Event
) -> None:
    monkeypatch.setattr(tools_module, "THREADS_MAX", 2)
    runs = Runs()
    calls: list[int] = []
    begun: list[int] = []

    def wait() -> None:
        begun.append(1)
        held.wait(WAIT_S)

    first = [runs.start(wait, name=name) for name in ("one", "two")]
    await until(lambda: len(begun) == 2)
    told = await runs.call(lambda: calls.append(1), timeout_s=0.01, name="third")
    assert told == bad("third took longer than 0.01 s; it did not begin, since too many others run")
    held.set()
    assert await asyncio.gather(*first) == [good("null")] * 2
    assert await runs.call(lambda: "there is room again") == good("there is room again")
    assert not calls
    await runs.runner.stop()


async def test_a_thread_that_comes_too_late_does_nothing(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        async def run(self, work: Callable[[], Any], name: str) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                work()

    monkeypatch.setattr(runs.runner, "_threads", Late())
    calls: list[int] = []
    assert "did not begin" in (await runs.call(lambda: calls.append(1), timeout_s=0.01)).content
    assert not calls


async def test_a_function_that_does_not_stop_is_left_to_itself(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools_module, "LET_GO_S", 0.01)
    enough = asyncio.Event()

    async def stubborn() -> None:
        while not enough.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await enough.wait()

    with structlog.testing.capture_logs() as logs:
        assert (await runs.call(stubborn, timeout_s=0.01)).is_error
    assert "a tool does not stop" in [entry["event"] for entry in logs]
    enough.set()


# --------------------------------------------------------------------------- being stopped


async def test_cancelling_a_call_cancels_the_function_and_waits_for_its_clean_up(runs: Runs) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def careful() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # pause: a clean-up that waits
            cleaned.set()

    call = runs.start(careful)
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert cleaned.is_set()


async def test_cancelling_a_call_in_a_thread_waits_for_nothing(runs: Runs, held: threading.Event) -> None:
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        held.wait(WAIT_S)

    call = runs.start(wait)
    await until(begun.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(WAIT_S):
            await call
    assert not held.is_set()


async def test_a_stop_leaves_no_outcome_since_nobody_knows_it(runs: Runs, held: threading.Event) -> None:
    begun = asyncio.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    in_thread = threading.Event()

    def wait() -> None:
        in_thread.set()
        held.wait(WAIT_S)

    calls = [runs.start(endless), runs.start(wait)]
    await begun.wait()
    await until(in_thread.is_set)
    async with asyncio.timeout(WAIT_S):
        await runs.runner.stop()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True)
        )
        with pytest.raises(asyncio.CancelledError):
            await runs.runner.run("tool0", "{}", CONTEXT)
