"""`--workers N`: the process that holds the port and sees to it that N nodes serve it.

                         ┌─ node 0   a process each, started afresh: a whole node with its own id, lease and loop
    parent ── lifelines ─┼─ node 1
    (no node itself)     └─ node 2   …

The parent serves nobody, so there is little that could go wrong in it.  It keeps N *places*.  A place starts a node and
waits for what comes of it:

    it dies                 another one, after a pause that doubles while they keep dying young
    it hangs                nothing was heard of it for long: the connections dealt to it would wait for ever: killed
    it says `draining`      somebody sent SIGTERM to it alone: another one now; the old one leaves the port to the
                            others as soon as there are any, and goes in its own time
    it fails to start       the first time: the whole server ends with its exit code; later: like a death

SIGTERM and SIGINT to the parent go to all nodes as words on their lifelines, a second one as `force`.  A parent that is
killed takes its ends of the lifelines with it, upon which its nodes close the port, drain and end: nobody is left
behind, and the next server finds the port free.  Python starts each node from nothing, because a fork of a process
that has threads and an event loop inherits the state of both.

Nodes know nothing of each other but what the store tells them, as if they ran on different machines.  What is asked of
the port, `/healthz` and `/metrics` included, is answered by whichever node got the connection, for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import structlog

from everstream.gateway.lifeline import BEAT_S, LINE_BYTES_MAX, Word, packed
from everstream.gateway.startup import (
    EXIT_FAILED,
    EXIT_PORT,
    NOTIFY_ENV,
    announce,
    bind,
    configure_logs,
    sibling_of,
    tell_systemd,
)
from everstream.settings import Settings

logger = structlog.get_logger(__name__)

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
SOUND_S: Final = 30.0  # a node that lived this long was no failed start
SETTLE_S: Final = 0.25  # a service manager may signal nodes first: is it one that leaves, or all?
LOOK_EVERY_S: Final = 0.05
HUNG_S: Final = 15.0  # many leases: whatever it led is led by others by now
LAST_S: Final = 25.0  # after the drain: last commits, and an embedded store that is stopped
FORCED_S: Final = 10.0


class Child:
    """One process, from its start until it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.pid = process.pid
        self.ready = False
        self.leaving = False
        self.complaint = ""
        self._heard = False
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, settings: Settings, listener: socket.socket, app: str | None) -> Child:
        """`app` is `MODULE:APP`.  Raises OSError where there can be no further process or socket."""
        process, tie = _spawn(listener, app)
        reader, writer = await asyncio.open_unix_connection(sock=tie, limit=LINE_BYTES_MAX)
        writer.write(packed(settings))
        return cls(process, reader, writer)

    def tell(self, word: Word) -> None:
        self._writer.write(f"{word}\n".encode())

    def kill(self) -> None:
        self._process.kill()

    async def hear(self) -> tuple[str, str] | None:
        """The node's next word, and what it says with it; None: it has ended, or is about to.

        One that was heard once and then falls silent is killed.  (Before, it loads its modules.)
        """
        # Looked at twice: it may have been this process that slept, and what the node said meanwhile lies there.
        for patience_s in (HUNG_S, 2 * BEAT_S) if self._heard else (None,):
            try:
                async with asyncio.timeout(patience_s):
                    line = await self._reader.readline()
                    break
            except TimeoutError:
                continue
            except OSError:
                return None
        else:
            logger.error("a node hangs and is killed", pid=self.pid, silent_s=HUNG_S)
            self.kill()
            return None
        self._heard = True
        word, _, rest = line.decode(errors="replace").strip().partition(" ")
        return (word, rest) if word else None

    async def ended(self) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        while await self.hear():
            pass
        try:
            code = await asyncio.to_thread(self._process.wait, LAST_S)
        except subprocess.TimeoutExpired:  # it let go of the lifeline and did not get further
            self.kill()
            code = await asyncio.to_thread(self._process.wait)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        return code


class Parent:
    """Keeps `workers` nodes on one port until it is told to stop."""

    def __init__(self, settings: Settings, listener: socket.socket, app: str | None = None) -> None:
        """`app`: the application that each node imports, as `MODULE:APP`."""
        self._settings = settings
        self._app = app
        self._listener = listener
        self.children: set[Child] = set()
        self._farewells: set[asyncio.Task[None]] = set()
        self._stopping: Word | None = None
        self._stopped = asyncio.Event()
        self._announced = False
        self._code = 0

    async def run(self) -> int:
        """Until every node has ended; the exit code."""
        loop = asyncio.get_running_loop()
        for number, word in ((signal.SIGTERM, Word.STOP), (signal.SIGINT, Word.INTERRUPT)):
            loop.add_signal_handler(number, self.told, word)
        try:
            await asyncio.gather(*(self._keep(place) for place in range(self._settings.workers)))
            await asyncio.gather(*self._farewells)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            for child in self.children:  # only where something unforeseen went wrong here
                child.kill()
        return self._code

    # ------------------------------------------------------------------ a place

    async def _keep(self, place: int) -> None:
        """See to it that there is always a node, until all are to go."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while not self._stopped.is_set():
            born = loop.time()
            try:
                child = await Child.start(self._settings, self._listener, self._app)
            except OSError as error:
                logger.error("a node cannot be started", place=place, reason=error.strerror, again_in_s=pause_s)
            else:
                if await self._accompany(child, place):
                    pause_s = FIRST_PAUSE_S
                    continue
                if self._stopped.is_set():
                    return
                if loop.time() - born > SOUND_S:
                    pause_s = FIRST_PAUSE_S
                logger.error("a node died; another takes its place", place=place, pid=child.pid, in_s=pause_s)
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _accompany(self, child: Child, place: int) -> bool:
        """Until the place is free: True when the node leaves as it should, False when it has died."""
        self.children.add(child)
        if self._stopping is not None:
            child.tell(self._stopping)
        while (heard := await child.hear()) is not None:
            word, rest = heard
            if word == Word.READY:
                child.ready = True
                logger.info("a node is ready", place=place, pid=child.pid, node=rest)
                self._perhaps_announce()
            elif word == Word.FAILED:
                child.complaint = rest
            elif word == Word.DRAINING:
                child.leaving = True
                await self._pause(SETTLE_S)
                if not self._stopped.is_set():
                    logger.info("a node leaves; another takes its place", place=place, pid=child.pid)
                    farewell = asyncio.create_task(self._replace(child), name=f"see off {child.pid}")
                    self._farewells.add(farewell)
                    farewell.add_done_callback(self._farewells.discard)
                    return True
        await self._see_off(child)
        return False

    async def _replace(self, child: Child) -> None:
        """Let a node go, but let it accept until somebody else does."""
        while not self._stopped.is_set() and not any(other.ready and not other.leaving for other in self.children):
            await self._pause(LOOK_EVERY_S)
        if not self._stopped.is_set():
            child.tell(Word.ASIDE)
        await self._see_off(child)

    async def _see_off(self, child: Child) -> None:
        """Wait for a node's end and judge it."""
        code = await child.ended()
        self.children.discard(child)
        why = child.complaint.partition(" ")[2]
        if self._stopped.is_set():
            if code not in (0, -signal.SIGTERM):  # by the signal itself: before it had anything to lose
                logger.error("a node ended badly", pid=child.pid, exit_code=code)
                self._code = self._code or EXIT_FAILED
        elif not self._announced:
            print(f"everstream: {why or f'a node ended with exit code {code} before it was ready'}", file=sys.stderr)
            self._code = code if code > 0 else EXIT_FAILED
            self.told(Word.STOP)
        elif code:
            logger.error("a node ended by itself", pid=child.pid, exit_code=code, reason=why or None)

    async def _pause(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopped.wait()

    def _perhaps_announce(self) -> None:
        nodes = self._settings.workers
        if not self._announced and sum(child.ready for child in self.children) == nodes:
            self._announced = True
            announce(self._listener, nodes)

    # ------------------------------------------------------------------ going

    def told(self, word: Word) -> None:
        """Let all nodes go, with `stop` or `interrupt`; told again, at once."""
        settings = self._settings
        if self._stopping is None:
            tell_systemd("STOPPING=1")
            patience_s = max(settings.drain_ms, settings.goaway_spread_ms) / 1000 + LAST_S
        else:
            word, patience_s = Word.FORCE, FORCED_S
        self._stopping = word
        self._stopped.set()
        for child in self.children:
            child.tell(word)
        asyncio.get_running_loop().call_later(patience_s, self._kill)

    def _kill(self) -> None:
        for child in self.children:
            logger.error("a node did not end in time and is killed", pid=child.pid)
            child.kill()


def serve_many(settings: Settings, app: str | None = None) -> int:
    """Run `workers` nodes of `app` (as `MODULE:APP`) on one port until a signal stops them; the exit code."""
    configure_logs(settings)
    listener = bind(settings)
    if listener is None:
        return EXIT_PORT

    async def run() -> int:
        return await Parent(settings, listener, app).run()

    with listener, asyncio.Runner() as runner:
        return runner.run(run())


def _spawn(listener: socket.socket, app: str | None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process with the port and one end of a lifeline, and the other end."""
    ours, theirs = socket.socketpair()
    try:
        with theirs, sibling_of(listener) as port, _interrupts_held():
            files = (port.fileno(), theirs.fileno())
            # -P, and the path as it is here: what lies in the working directory is none of our modules.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "everstream.gateway.child", *map(str, files), *([app] if app else [])],
                pass_fds=files,
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
    except OSError:
        ours.close()
        raise
    ours.setblocking(False)
    return process, ours


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A terminal's Ctrl-C reaches every process at once.  Children inherit this mask: they hear of it from us."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment() -> dict[str, str]:
    """Ours, with the module path as it is here; and what is said to the service manager is said by the parent."""
    kept = {name: value for name, value in os.environ.items() if name != NOTIFY_ENV}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
