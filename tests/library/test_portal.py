"""`everstream.portal`: plain functions get what coroutines give, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from everstream.portal import ITEMS_WAITING_MAX, Portal

WAIT_S = 10.0


@pytest.fixture
def portal() -> Iterator[Portal]:
    before = threading.active_count()
    with Portal() as portal:
        yield portal
    assert threading.active_count() == before


class Source:
    """Numbers as fast as they are wanted; knows how far it was read, and whether it was closed."""

    def __init__(self, last: int | None = None, error: Exception | None = None) -> None:
        self.given = 0
        self.closed = threading.Event()
        self._last = last
        self._error = error

    async def numbers(self) -> AsyncIterator[int]:
        try:
            while self.given != self._last:
                self.given += 1
                yield self.given
                await asyncio.sleep(0)
            if self._error is not None:
                raise self._error
        finally:
            self.closed.set()


def until(condition: object) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.001)  # pause: between two looks at a condition


async def doubled(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_a_call_gives_what_the_coroutine_returns_or_raises(portal: Portal) -> None:
    async def fail() -> None:
        raise KeyError("this")

    assert portal.call(doubled(21)) == 42
    with pytest.raises(KeyError, match="this"):
        portal.call(fail())


async def test_it_works_in_a_thread_whose_loop_runs(portal: Portal) -> None:
    assert portal.call(doubled(1)) == 2
    assert list(portal.iterate(Source(3).numbers())) == [1, 2, 3]


def test_the_callers_context_variables_are_there(portal: Portal) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("mine")

    async def read() -> str:
        return variable.get()

    assert portal.call(read()) == "mine"


def test_all_items_come_in_order_and_then_what_was_raised(portal: Portal) -> None:
    count = 3 * ITEMS_WAITING_MAX
    source = Source(count, ValueError("at the end"))
    iteration = portal.iterate(source.numbers())
    assert [next(iteration) for _ in range(count)] == list(range(1, count + 1))
    with pytest.raises(ValueError, match="at the end"):
        next(iteration)
    assert list(iteration) == []


def test_a_source_is_read_ahead_only_so_far(portal: Portal) -> None:
    source = Source()
    with portal.iterate(source.numbers()) as iteration:
        assert next(iteration) == 1
        until(lambda: source.given >= ITEMS_WAITING_MAX)
        for _ in range(100):
            portal.call(asyncio.sleep(0))
        assert source.given <= ITEMS_WAITING_MAX + 1
    assert source.closed.is_set()


def test_an_iteration_that_is_dropped_closes_its_source(portal: Portal) -> None:
    source = Source()
    for number in portal.iterate(source.numbers()):
        if number == 3:
            break
    gc.collect()
    assert source.closed.wait(WAIT_S)


def test_an_interrupt_cancels_what_is_waited_for(portal: Portal) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    def interrupt() -> None:
        begun.wait(WAIT_S)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        portal.call(work())
    assert cleaned.is_set()
    thread.join()


def test_a_call_from_within_is_refused_and_not_waited_for(portal: Portal) -> None:
    async def within() -> None:
        portal.call(doubled(1))

    with pytest.raises(RuntimeError, match="its own thread"):
        portal.call(within())


def test_a_closed_portal_says_so_to_those_who_wait_and_those_who_come() -> None:
    portal = Portal()
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    def close() -> None:
        begun.wait(WAIT_S)
        portal.close()

    thread = threading.Thread(target=close)
    thread.start()
    with pytest.raises(RuntimeError, match="closed before"):
        portal.call(work())
    thread.join()
    portal.close()
    assert not portal.alive
    with pytest.raises(RuntimeError, match="is closed"):
        portal.call(doubled(1))


def test_asynchronous_generators_are_finalised_with_the_loop() -> None:
    source = Source()
    held = source.numbers()

    async def begin() -> int:
        return await anext(held)  # type: ignore[call-overload]

    with Portal() as portal:
        assert portal.call(begin()) == 1
        assert not source.closed.is_set()
    assert source.closed.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_copy_in_a_forked_process_knows_that_it_is_none(portal: Portal) -> None:
    child = os.fork()
    if child == 0:
        os._exit(1 if portal.alive else 0)
    assert os.waitpid(child, 0)[1] == 0
