"""`everstream chat` as a real process: on a pseudo-terminal with a person in front of it, or between pipes."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest
from tests.house.fake_server import FakeServer, until

BACKEND = Path(__file__).resolve().parents[2] / "backend"
RUN = "import sys; from everstream.cli import main; sys.exit(main(['chat', *sys.argv[1:]]))"
ESCAPES = re.compile(r"\x1b\[\d*m")


class Terminal:
    """The person's side of a pseudo-terminal."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.raw = ""
        self._master = master
        self._typed_at = 0
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65_536)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self.raw += data.decode()

    @property
    def seen(self) -> str:
        return ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    @property
    def since(self) -> str:
        """What was seen after the last thing typed."""
        return self.seen[self._typed_at :]

    def type(self, keys: str) -> None:
        self._typed_at = len(self.seen)
        os.write(self._master, keys.encode())

    async def sees(self, what: str) -> None:
        try:
            await until(lambda: what in self.since)
        except TimeoutError:
            pytest.fail(f"{what!r} did not appear in {self.seen!r}")

    async def prompt(self) -> None:
        await until(lambda: self.since.endswith("> "))

    async def left(self) -> int:
        async with asyncio.timeout(10):
            return await self.process.wait()


@asynccontextmanager
async def chat(server: FakeServer, *flags: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, "--url", server.url, *flags),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(slave)
    terminal = Terminal(master, process)
    try:
        yield terminal
    finally:
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)
        if process.returncode is None:
            process.kill()
            await process.wait()


def _own_terminal() -> None:
    """Make the pseudo-terminal the session's own, so that Ctrl-C typed there is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def started(
    server: FakeServer, *flags: str, given: IO[bytes] | int = asyncio.subprocess.PIPE, **environment: str
) -> asyncio.subprocess.Process:
    """The chat between pipes."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, "--url", server.url, *flags),
        stdin=given,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(BACKEND), **environment},
    )


async def piped(server: FakeServer, given: bytes | Path, *flags: str, **environment: str) -> tuple[int, str, str]:
    """Its exit code, and what it wrote to standard output and standard error."""
    if isinstance(given, Path):
        with given.open("rb") as source:
            process = await started(server, *flags, given=source, **environment)
    else:
        process = await started(server, *flags, **environment)
    async with asyncio.timeout(20):
        out, aside = await process.communicate(None if isinstance(given, Path) else given)
    assert process.returncode is not None
    return process.returncode, out.decode(), aside.decode()
