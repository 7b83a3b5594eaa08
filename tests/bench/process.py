"""A process of the bench: started, waited for, its CPU read, ended in any case.

CPU is what the kernel has counted for the whole process, threads that are gone included, in nanoseconds:
`clock_gettime` on the clock of the pid (see clock_getcpuclockid(3): Linux makes the id from the pid).  What `stat`
says in /proc is the same figure, but in steps of 10 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1  # linux/prctl.h
READY_LIMIT_S = 30.0
STOP_LIMIT_S = 5.0
LOOK_EVERY_S = 0.05
QUIET_LIMIT_S = 5.0
QUIET_SHARE = 0.05  # of one core: less than this over one look counts as quiet


_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """Runs in the child before it becomes its program: a bench that is killed leaves nothing behind."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def allow_files(wanted: int) -> None:
    """Raise the limit of open files, for us and our children.  Raises RuntimeError where that cannot be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(f"{wanted} files must be open at once, and the limit is {hard} (ulimit -Hn)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Process:
    """One child process.  Its output goes to a file, shown when it dies before it is ready."""

    def __init__(self, name: str, words: Sequence[str | Path], output: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._output = output
        self._file: IO[bytes] = output.open("wb")
        self._child = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    def text(self) -> str:
        return self._output.read_text(errors="replace")

    def resident_bytes(self) -> int:
        return _memory_bytes(self.pid, "VmRSS")

    def peak_bytes(self) -> int:
        """The most that was resident since `forget_peak`, or ever."""
        return _memory_bytes(self.pid, "VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_ns(self) -> int:
        """CPU nanoseconds used so far, by it and by the children it has now.  Raises RuntimeError if it has died."""
        if self._child.poll() is not None:
            raise RuntimeError(f"{self.name} has ended with {self._child.returncode}:\n{self.text()[-2000:]}")
        return sum(_cpu_ns(pid) for pid in _family(self.pid))

    def wait_ready(self, is_ready: Callable[[], bool]) -> None:
        """Waits for `is_ready`.  Raises RuntimeError if the process ends first, or takes over READY_LIMIT_S."""
        until = time.monotonic() + READY_LIMIT_S
        while not is_ready():
            if self._child.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self.name} did not become ready:\n{self.text()[-2000:]}")
            time.sleep(LOOK_EVERY_S)  # pause: between two looks at a process that starts

    def wait_port(self) -> int:
        """Waits for the line `ready PORT` and returns the port."""
        self.wait_ready(lambda: self.text().startswith("ready ") and self.text().endswith("\n"))
        return int(self.text().split()[1])

    def wait_end(self, limit_s: float) -> str:
        """Waits until it has ended by itself; its output.  Raises RuntimeError if it fails, or takes over `limit_s`."""
        try:
            code = self._child.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self.name} took over {limit_s:.0f} s:\n{self.text()[-2000:]}") from None
        if code:
            raise RuntimeError(f"{self.name} has ended with {code}:\n{self.text()[-2000:]}")
        return self.text()

    def wait_quiet(self) -> None:
        """Waits until it uses less than QUIET_SHARE of a core, at most QUIET_LIMIT_S."""
        until = time.monotonic() + QUIET_LIMIT_S
        before = self.cpu_ns()
        while time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)  # pause: the time over which CPU is counted
            now = self.cpu_ns()
            if now - before < QUIET_SHARE * LOOK_EVERY_S * 1e9:
                return
            before = now

    def stop(self) -> None:
        """Ends it: asked first, then killed with everything it started.  Idempotent."""
        if self._child.poll() is None:
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_LIMIT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait(STOP_LIMIT_S)
        self._file.close()


def _memory_bytes(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024


def _cpu_ns(pid: int) -> int:
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)
    except OSError:
        return 0  # a child that has just ended


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                yield from _family(int(child))
