"""A long answer, quick and slow: the page never keeps anybody waiting for a tenth of a second.

What counts is the time that the page's main thread works on one task, by the thread's own clock: whatever else the
machine does meanwhile is not the page's doing.  Chromium's tracing says it; `longtask` entries would count the wall's
clock.  The figures are printed (`pytest -s`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.server import ServerProcess
from tests.web.browser import Chat, wait_until

pytestmark = pytest.mark.browser

TOKENS = 10_000
TASK_MS_MAX = 100.0
TRIES = 3
HEAP_MIB_MAX = 32.0  # for a page with this one answer
ENDED_WITHIN_S = 60.0
CATEGORIES = ["-*", "disabled-by-default-devtools.timeline"]  # the tasks of the page's threads


@pytest.fixture(scope="module", autouse=True)
def tracer(browser: Browser) -> None:
    """Chromium starts a process for its first trace, and keeps it: no test has left that behind."""
    browser.start_tracing(categories=CATEGORIES)
    browser.stop_tracing()


@dataclass(frozen=True, slots=True)
class Work:
    """What the page's main thread has done: its tasks in milliseconds of its own time, the longest first."""

    tasks_ms: list[float]

    @property
    def longest_ms(self) -> float:
        return self.tasks_ms[0]

    def __str__(self) -> str:
        longest = ", ".join(f"{task:.0f}" for task in self.tasks_ms[:3])
        return f"{len(self.tasks_ms)} tasks, {sum(self.tasks_ms):.0f} ms in all, the longest {longest} ms"


def work_of(trace: bytes) -> Work:
    events: list[dict[str, Any]] = json.loads(trace)["traceEvents"]
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"] / 1000
        for event in events
        if "tdur" in event  # one that still runs when the tracing ends has none
        and event["name"] == "RunTask"
        and (event["pid"], event["tid"]) in mains
    ]
    return Work(sorted(tasks, reverse=True))


def heap_mib(page: Page) -> float:
    """The page's memory for its objects, after the rubbish was taken away."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    used: float = devtools.send("Runtime.getHeapUsage")["usedSize"]
    devtools.detach()
    return used / 2**20


def best_of(tries: int, measured: Callable[[], Work]) -> Work:
    """The least that it takes: a processor that others use too is slower even by a thread's own clock."""
    best = measured()
    for _ in range(tries - 1):
        if best.longest_ms < TASK_MS_MAX:
            break
        best = min(best, measured(), key=lambda work: work.longest_ms)
    return best


@pytest.mark.parametrize("rate", [0, 1_000], ids=["at-once", "a-thousand-a-second"])
def test_ten_thousand_tokens_of_markdown_hold_nobody_up(
    browser: Browser, page: Page, server: ServerProcess, rate: int
) -> None:
    chat = Chat(page, server.url)
    chat.choose("scripted/lorem", tokens=TOKENS, rate=rate)

    def answered() -> Work:
        page.click("#new-chat")
        wait_until(page, lambda: chat.turns == 0)
        browser.start_tracing(page=page, categories=CATEGORIES)
        chat.ask("At length: headings, lists, code, tables.")
        assert chat.wait_ended(ENDED_WITHIN_S) == "complete"
        return work_of(browser.stop_tracing())

    def reloaded() -> Work:
        browser.start_tracing(page=page, categories=CATEGORIES)
        page.reload()
        chat.wait_ready()
        page.type("#prompt", "Thanks")
        assert chat.state() == "complete"
        return work_of(browser.stop_tracing())

    work = best_of(TRIES, answered)
    heap = heap_mib(page)
    print(f"\n{TOKENS} tokens at {rate or 'any number'} a second: {work}; heap {heap:.1f} MiB")
    assert len(chat.answer()) > 4 * TOKENS
    assert work.longest_ms < TASK_MS_MAX, str(work)
    assert heap < HEAP_MIB_MAX
    # Nor does it hold up whoever reloads it, or writes on under it.
    work = best_of(TRIES, reloaded)
    print(f"reloaded: {work}")
    assert work.longest_ms < TASK_MS_MAX, str(work)
