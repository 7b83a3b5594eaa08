"""A test that leaves something running, or open, fails: it, and not the one after it that stumbles over the remains.

`no_leaks` is for every test.  What was there when the test began (what a fixture of a wider scope keeps, say) is not
its doing; what is new when it ends, after all its own fixtures have cleaned up, is:

    asyncio tasks        in the loop of an async test
    sockets              of this process: connections, listeners, the pipes of a transport that nobody closed
    processes            that descend from this one, or work in pytest's temporary directory.  The second finds those
                         that cut the tie to their parent, as the embedded store does.

Closing takes the loop a few turns and a process a moment, so the check looks again until nothing is left, for
`GRACE_S` at most.  Sockets and processes are read from `/proc`; where there is none (macOS), only tasks are checked.

To use it, `tests/conftest.py` says `from tests.leaks import no_leaks, no_leaks_in_the_loop`, which makes it automatic.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

GRACE_S = 2.0
LOOK_EVERY_S = 0.01

_PROC = Path("/proc")
_FDS = _PROC / "self" / "fd"
_PPID_FIELD = 1  # of what follows the name in `stat`
# Python's own keepers, which it starts once and means to keep.
_KEPT = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")


def open_sockets() -> set[str]:
    """The sockets of this process, each as the kernel names it."""
    sockets = set()
    for fd in os.listdir(_FDS) if _FDS.is_dir() else ():
        try:
            target = os.readlink(_FDS / fd)
        except OSError:
            continue  # closed since it was listed
        if target.startswith("socket:"):
            sockets.add(target)
    return sockets


def _read(pid: str, name: str) -> bytes:
    try:
        return (_PROC / pid / name).read_bytes()
    except OSError:
        return b""  # ended since it was listed


def _works_in(pid: str, folder: Path) -> bool:
    try:
        return Path(os.readlink(_PROC / pid / "cwd")).is_relative_to(folder)
    except OSError:
        return False


def _descends(pid: str) -> bool:
    """Is this process a child of ours, or a child's child?"""
    ours = str(os.getpid())
    while pid not in ("", "0", "1", ours):
        fields = _read(pid, "stat").rpartition(b")")[2].split()
        pid = fields[_PPID_FIELD].decode() if fields else ""
    return pid == ours


def _left_to_another(pid: str) -> bool:
    """Has it ended, and is it a child's child?  Then waiting for it is the child's matter: a browser takes its time."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return not fields or (fields[0] == b"Z" and fields[_PPID_FIELD] != str(os.getpid()).encode())


def all_processes() -> set[str]:
    """The ids of all processes of the machine."""
    return {name for name in os.listdir(_PROC) if name.isdigit()} if _FDS.is_dir() else set()


class Before:
    """What was there when the test began.  `folder` is where pytest has its temporary directories."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sockets = open_sockets()
        self._processes = all_processes()

    def left(self) -> list[str]:
        """What is new since then and ours, a line each."""
        found = [f"open {name}" for name in sorted(open_sockets() - self._sockets)]
        for pid in sorted(all_processes() - self._processes, key=int):
            if _left_to_another(pid):
                continue
            command = _read(pid, "cmdline").replace(b"\0", b" ").strip()
            if any(kept in command for kept in _KEPT) or not (_descends(pid) or _works_in(pid, self._folder)):
                continue
            found.append(f"process {pid}: {command.decode(errors='replace')[:200] or 'ended, but not waited for'}")
        return found


def _told(left: list[str]) -> str:
    return "the test left behind:" + "".join(f"\n  {line}" for line in left)


@pytest.fixture
async def no_leaks_in_the_loop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """The check for an async test, made in its loop after everything else there was cleaned up."""
    before, tasks_before = Before(tmp_path_factory.getbasetemp()), asyncio.all_tasks()
    yield

    def left() -> list[str]:
        current = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() - tasks_before if task is not current]
        return [*(f"task {task.get_name()}: {task.get_coro()}" for task in tasks), *before.left()]

    deadline = time.monotonic() + GRACE_S
    while left() and time.monotonic() < deadline:
        gc.collect()  # a transport that nobody holds any more says so, and closes
        await asyncio.sleep(LOOK_EVERY_S)  # pause: between two looks at what is still there
    remains = left()
    assert not remains, _told(remains)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that left tasks, sockets or processes behind.  See the module's text."""
    if request.node.get_closest_marker("asyncio") is not None:  # pytest-asyncio marks all that it runs in a loop
        request.getfixturevalue("no_leaks_in_the_loop")
        yield
        return
    before = Before(tmp_path_factory.getbasetemp())
    yield
    deadline = time.monotonic() + GRACE_S
    while before.left() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(LOOK_EVERY_S)  # pause: between two looks at what is still there
    remains = before.left()
    assert not remains, _told(remains)
