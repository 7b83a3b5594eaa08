"""One local model in a process of its own (`local_server`), from the first question until nobody has asked for long.

    ask, stream ──▶ ready(): start it, once, whoever comes first ──▶ HTTP on loopback, with a key nobody else knows
    last one out ──▶ idle clock ──▶ end it

A process that dies is started again for the next call; whoever was reading gets `provider.connection`.

The few requests that are made are written here by hand: the vendors' packages take 60 MiB and a second to import, which
is most of what the whole model needs.  Each has a connection of its own (loopback: 0.1 ms), and ending that is how an
answer is cancelled: the server looks at it before each token.

Only as many answers are asked for as the server works on at a time (`place`): the others wait here, where that can be
seen, and do not take up the server's threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from everstream.providers.base import ProviderError
from everstream.providers.http_errors import status_error
from everstream.providers.local_models import LocalModel

logger = structlog.get_logger(__name__)

LOAD_S: Final = 300.0  # a large file from a slow disk
ASK_S: Final = 30.0
END_S: Final = 2.0
LAST_S: Final = 1.0  # from the end of a connection to the end of its process
WORDS_LINES: Final = 12
REPLY_BYTES_MAX: Final = 16_777_216
HEAD_BYTES_MAX: Final = 65_536
_KEPT: Final = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True, slots=True)
class Shape:
    """How models are run.  `context_tokens` are each answer's; `idle_s` 0 keeps a model for ever."""

    threads: int = 1
    parallel: int = 4
    context_tokens: int = 4096
    idle_s: float = 600.0


class Child:
    """A model, and the process that runs it whenever somebody asks."""

    def __init__(self, model: LocalModel, shape: Shape) -> None:
        self.model = model
        self.context_tokens = shape.context_tokens  # the model may have been trained for less
        self.pid: int | None = None
        self._shape = shape
        self._places = asyncio.Semaphore(shape.parallel)
        self._starting = asyncio.Lock()
        self._users = 0
        self._idle: asyncio.TimerHandle | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._words: deque[str] = deque(maxlen=WORDS_LINES)
        self._listening: asyncio.Task[None] | None = None
        self._unloading: asyncio.Task[None] | None = None
        self._key = ""
        self._port = 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    # ------------------------------------------------------------------ whoever needs it

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """As long as this lasts it is not idle."""
        self._users += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self.running and self._shape.idle_s:
                self._idle = asyncio.get_running_loop().call_later(self._shape.idle_s, self._unload)

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncGenerator[asyncio.Future[Any]]:
        """A place among the answers that are worked on at a time: yours once the future is done."""
        waiting = asyncio.ensure_future(self._places.acquire())
        try:
            yield waiting
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait((waiting,))
            if not waiting.cancelled():
                self._places.release()

    async def ready(self) -> None:
        """Start it if need be.  Raises ProviderError where it cannot be loaded."""
        async with self._starting:
            if self._unloading is not None:
                await self._unloading
            if not self.running:
                await self._end()
                await self._start()

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON that it answers; a GET where there is no body.  Raises ProviderError."""
        try:
            async with asyncio.timeout(ASK_S), self._asked(path, body) as (reader, length):
                if length is None:
                    return json.loads(b"".join([piece async for piece in _chunks(reader)]))
                return json.loads(await reader.readexactly(min(length, REPLY_BYTES_MAX)))
        except TimeoutError:
            raise ProviderError("provider.timeout", f"the local model {self.model.name} did not answer") from None
        except (OSError, EOFError, ValueError):
            raise await self._lost() from None

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes]:
        """The bytes of its answer as they come.  Closing this ends the connection, and with it the computing."""
        try:
            async with self._asked(path, body) as (reader, _):
                async for piece in _chunks(reader):
                    yield piece
        except (OSError, EOFError, ValueError):
            raise await self._lost() from None

    async def aclose(self) -> None:
        """End it.  Idempotent; a later question starts it again."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._unloading is not None:
            await self._unloading
        await self._end()

    # ------------------------------------------------------------------ the process

    async def _start(self) -> None:
        self._key = secrets.token_urlsafe(24)
        self._words.clear()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "everstream.providers.local_server", str(self.model.path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._listening = asyncio.create_task(self._listen(process.stderr), name=f"words of {self.model.name}")
        shape = self._shape
        asked = {"threads": shape.threads, "parallel": shape.parallel, "context_tokens": shape.context_tokens}
        try:
            process.stdin.write(json.dumps({"key": self._key, **asked}).encode() + b"\n")
            async with asyncio.timeout(LOAD_S):
                line = await process.stdout.readline()
            self._port = json.loads(line)["port"]
            self.pid = process.pid
            told = await self.ask("/props")
            self.context_tokens = told["default_generation_settings"]["n_ctx"]
        except (OSError, TimeoutError, ValueError, KeyError):
            await self._end()
            last = self._words[-1] if self._words else "it did not say why"
            logger.warning("a local model could not be loaded", model=self.model.name, said=list(self._words))
            message = f"the local model {self.model.name} cannot be loaded: {last[:200]}"
            raise ProviderError("provider.unknown", message, retryable=False) from None
        except BaseException:
            await self._end()
            raise
        logger.info("a local model is loaded", model=self.model.name, pid=process.pid)

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await stderr.readline():
                if said := line.decode("utf-8", "replace").strip():
                    self._words.append(said)

    def _unload(self) -> None:
        self._idle = None
        if not self._users:
            logger.info("a local model is unloaded", model=self.model.name)
            self._unloading = asyncio.create_task(self._unloaded(), name=f"unload {self.model.name}")

    async def _unloaded(self) -> None:
        try:
            await self._end()
        finally:
            self._unloading = None

    async def _end(self) -> None:
        """Close its input, which it takes for an order; kill it where it does not obey."""
        process, self._process, self.pid = self._process, None, None
        listening, self._listening = self._listening, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(END_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if listening is not None:
            await listening

    async def _lost(self) -> ProviderError:
        """A connection broke, as a rule because the process died: then that is known before anybody asks again."""
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self._process.wait()
        return ProviderError("provider.connection", f"the process of the local model {self.model.name} ended")

    # ------------------------------------------------------------------ HTTP

    @contextlib.asynccontextmanager
    async def _asked(
        self, path: str, body: dict[str, Any] | None
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, int | None]]:
        """An accepted request: what reads its answer, and how long that is, None where it comes in chunks."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=REPLY_BYTES_MAX)
        try:
            sent = b"" if body is None else msgspec.json.encode(body)
            writer.write(
                f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                f"Authorization: Bearer {self._key}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(sent)}\r\n\r\n".encode()
            )
            writer.write(sent)
            status, length = _head(await reader.readuntil(b"\r\n\r\n"))
            if status != 200:
                said = await reader.read(HEAD_BYTES_MAX)
                raise status_error("the local model", status, {}, _json_of(said))
            yield reader, length
        finally:
            writer.transport.abort()


def _head(data: bytes) -> tuple[int, int | None]:
    """Status and length of an answer, None where it comes in chunks.  Raises ValueError."""
    first, *lines = data.decode("latin-1").split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = fields.get("content-length")
    return int(first.split(" ", 2)[1]), None if length is None else int(length)


async def _chunks(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """RFC 9112, section 7.1; raises EOFError where the last chunk does not come, ValueError where it is none."""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


def _json_of(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")
