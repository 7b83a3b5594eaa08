"""What a parent process and its nodes say to each other: lines of text over a pair of sockets.

    parent ──▶ node    the settings (JSON, once), then `stop`, `interrupt`, `force` or `aside`
    node ──▶ parent    `ready NODE`, `draining`, `failed CODE WHY`, and `alive` every second

The settings go this way and not by flags or environment, which others on the machine can see, and which a file changed
meanwhile could contradict.  Each side learns from the end of the line that the other one is gone, however it went.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from everstream.settings import Settings

LINE_BYTES_MAX: Final = 1_048_576
BEAT_S: Final = 1.0


class Word(StrEnum):
    STOP = "stop"  # the whole server goes: say goodbye, but go on accepting
    INTERRUPT = "interrupt"  # the same, and somebody waits at a terminal
    FORCE = "force"  # at once
    ASIDE = "aside"  # only you go, and others serve: leave the port to them
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    ALIVE = "alive"


def packed(settings: Settings) -> bytes:
    """The settings as one line, secrets included."""
    values = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        values[name] = str(value) if isinstance(value, Path) else value
    return json.dumps(values).encode() + b"\n"


def unpacked(line: bytes) -> Settings:
    return Settings(**json.loads(line))


class Lifeline:
    """The node's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._tasks: list[asyncio.Task[None]] = []
        self.on_word: Callable[[Word | None], None] = lambda word: None

    @classmethod
    async def take(cls, tie: socket.socket) -> Lifeline:
        return cls(*await asyncio.open_unix_connection(sock=tie, limit=LINE_BYTES_MAX))

    async def settings(self) -> Settings:
        """The first line.  Raises EOFError where the parent went before it was said."""
        return unpacked(await self._reader.readuntil(b"\n"))

    def listen(self) -> None:
        """From now on `on_word` gets each word, and at last None: the parent is gone.

        And the parent hears that this loop turns.
        """
        self._tasks = [asyncio.create_task(work, name="lifeline") for work in (self._hear(), self._beat())]

    def tell(self, word: Word, *rest: object) -> None:
        line = " ".join([word, *map(str, rest)])
        self._writer.write(line.replace("\n", " ").encode() + b"\n")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):  # the parent may be gone
            await self._writer.wait_closed()

    async def _beat(self) -> None:
        while not self._writer.is_closing():
            if not self._writer.transport.get_write_buffer_size():  # a parent that is asleep need not hear it twice
                self.tell(Word.ALIVE)
            await asyncio.sleep(BEAT_S)

    async def _hear(self) -> None:
        with contextlib.suppress(OSError):
            while line := await self._reader.readline():
                self.on_word(Word(line.decode().strip()))
        self.on_word(None)
