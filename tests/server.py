"""A real server process, for the tests that need one that can die.

Browser and chaos tests drive `python -m everstream serve` as an operator would: start it, wait for `/readyz`, kill it
without a word, start it again on the same port and the same data.  The process gets a clean environment (no setting,
no provider key and no proxy of the machine the tests run on) and writes both its outputs to one file, which every
failure quotes.

The embedded store of a data directory is meant to outlive its server, as it would a crash.  So it is stopped by
`close()` and not before: after `kill9()` and `start()` the new server finds the same store.  Where several servers
share a data directory, give `owns_store=True` to the one that is closed last only.

A `ServerProcess` needs no event loop, so that both sync and async tests can use it; in async ones call the methods that
wait (`start`, `kill9`, `terminate`, `restart`, `close`) through `asyncio.to_thread`.  `running_server` does so.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
POLL_S = 0.05
LOG_TAIL_BYTES = 6_000

# What the machine's own environment must not bring into a test.
_FOREIGN_PREFIXES = ("EVERSTREAM_",)
_FOREIGN_SUFFIXES = ("_API_KEY", "_API_BASE", "_BASE_URL", "_PROXY")
_FOREIGN_NAMES = frozenset({"HF_TOKEN", "OLLAMA_HOST", "PORT", "HOST", "REDIS_URL", "VALKEY_URL"})


class ServerFailed(Exception):
    """The server process did not do in time what it was asked to; the message ends with its last output."""


def free_port() -> int:
    """A port nobody listens on.

    Below the range that the kernel hands out to outgoing connections (32768 and up), so that no connection takes the
    port between a kill and the restart on it.
    """
    for _ in range(200):
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ServerFailed("no free port between 20000 and 32000")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what is foreign to a test, plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(_FOREIGN_PREFIXES)
        and not name.upper().endswith(_FOREIGN_SUFFIXES)
        and name.upper() not in _FOREIGN_NAMES
    }
    return {**kept, "PYTHONPATH": str(ROOT / "backend"), "PYTHONUNBUFFERED": "1", **(extra or {})}


@asynccontextmanager
async def running_server(data_dir: Path, *args: str) -> AsyncIterator[ServerProcess]:
    """A server that is ready.  Afterwards it is closed, and must not have logged a traceback, however often it died."""
    server = ServerProcess(data_dir, args=args)
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        await asyncio.to_thread(server.close)
        assert "Traceback" not in server.log_text(), server.log_text()[-LOG_TAIL_BYTES:]


class ServerProcess:
    """One `everstream serve` and what belongs to it.

    `args` are added to the command line, `env` to the environment, at this and every later start.  Use as a context
    manager, or call `close()` in a `finally`: it leaves no process behind, whatever happened before.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        owns_store: bool = True,
        group: int | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = port if port is not None else free_port()
        self.args = tuple(args)
        self.env = clean_environment(env)
        self.owns_store = owns_store
        self.group = group  # the process's group id, by which a firewall tells its packets; None: ours
        self.log_path = data_dir.parent / f"{data_dir.name}-server-{self.port}.log"
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------------ where it is

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{HOST}:{self.port}/ws"

    @property
    def pid(self) -> int:
        """The running process's id.  Raises ServerFailed when there is none."""
        if self._process is None or self._process.poll() is not None:
            raise ServerFailed(f"no server is running on port {self.port}{self._quoted_log()}")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_text(self) -> str:
        """Everything the server has written so far, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def get(self, path: str, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
        """Status and body of a GET.  Raises OSError or http.client.HTTPException when nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    # ------------------------------------------------------------------ what happens to it

    def start(self, *, ready_within_s: float = 30.0) -> ServerProcess:
        """Start it and wait until `/readyz` says 200.  Raises ServerFailed when it ends or is not ready in time."""
        if self.running:
            raise ServerFailed(f"a server is running on port {self.port} already")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "everstream", "serve"]
        command += ["--port", str(self.port), "--data-dir", str(self.data_dir), *self.args]
        # Run from where no settings file lies.
        with self.log_path.open("ab") as log:
            log.write(f"--- start {self.starts + 1}: {' '.join(command)}\n".encode())
            log.flush()
            # A session of its own: a Ctrl-C in the terminal goes to the tests alone, and they close the server.
            self._process = subprocess.Popen(
                command,
                cwd=self.data_dir.parent,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                group=self.group,
            )
        self.starts += 1
        try:
            self.wait_ready(within_s=ready_within_s)
        except ServerFailed:
            self.kill9()
            raise
        return self

    def wait_ready(self, *, within_s: float = 30.0) -> None:
        """Wait until `/readyz` says 200.  Raises ServerFailed when the process ends or time runs out."""
        deadline = time.monotonic() + within_s
        said = "no answer"
        while time.monotonic() < deadline:
            if not self.running:
                code = self._process.returncode if self._process else None
                raise ServerFailed(f"the server ended with exit code {code} before it was ready{self._quoted_log()}")
            try:
                status, _ = self.get("/readyz", timeout_s=2.0)
            except (OSError, http.client.HTTPException) as error:
                said = repr(error)
            else:
                if status == 200:
                    return
                said = f"HTTP {status}"
            time.sleep(POLL_S)  # pause: between two looks at the process
        raise ServerFailed(f"the server was not ready within {within_s} s ({said}){self._quoted_log()}")

    def kill9(self) -> None:
        """End it and the nodes it runs without a word, as a power cut would.  Its store, in another session, stays.

        Fine to call when it is not running.
        """
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reap(within_s=10.0)

    def suspend(self) -> None:
        """Stop the clock for it: it looks dead, and wakes up later with everything it believed."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Undo `suspend`."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self, *, within_s: float = 30.0) -> int:
        """Ask it to go (SIGTERM) and return its exit code.  Raises ServerFailed, after a kill, when it does not."""
        if self._process is None:
            raise ServerFailed("the server was never started")
        self._signal(signal.SIGTERM)
        return self._reap(within_s=within_s)

    def restart(self, *, ready_within_s: float = 30.0) -> ServerProcess:
        """Start it again on the same port and data.  A running one is killed first."""
        self.kill9()
        return self.start(ready_within_s=ready_within_s)

    def close(self) -> None:
        """Leave nothing running: the server, then the store of its data directory.  Idempotent."""
        self.kill9()
        if self.owns_store and self.starts:
            self.starts = 0
            self._stop_store()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ how

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _reap(self, *, within_s: float) -> int:
        if self._process is None:
            return 0
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10.0)
            raise ServerFailed(f"the server had not ended {within_s} s after the signal{self._quoted_log()}") from None

    def _stop_store(self) -> None:
        command = [sys.executable, "-m", "everstream", "store", "stop", "--data-dir", str(self.data_dir)]
        done = subprocess.run(
            command,
            cwd=self.data_dir.parent,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30.0,
            check=False,
        )
        with self.log_path.open("ab") as log:
            log.write(b"--- store stop\n" + done.stdout + done.stderr)
        if done.returncode != 0:
            raise ServerFailed(f"`everstream store stop` ended with exit code {done.returncode}{self._quoted_log()}")

    def _quoted_log(self) -> str:
        tail = self.log_text()[-LOG_TAIL_BYTES:]
        return f"\n--- the last of {self.log_path.name}:\n{tail}" if tail else ""
