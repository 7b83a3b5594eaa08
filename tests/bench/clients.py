"""One server that is measured, and processes of clients (`crowd`) that are told what to do, a line at a time."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.bench.process import Process, allow_files, die_with_parent
from tests.bench.targets import Bench, Target, answers, environment, free_port

SPARE_FILES = 600
ASK_LIMIT_S = 120.0


class Besieged(Bench):
    """A server with settings of its own, and no other."""

    def __init__(self, connections: int, **settings: str) -> None:
        """Raises RuntimeError where so many files may not be open."""
        allow_files(connections + SPARE_FILES)
        self._settings = settings
        self._files = connections + SPARE_FILES
        super().__init__(("server",))

    @property
    def server(self) -> Target:
        return self.targets["server"]

    def clients(self) -> Clients:
        return Clients(self.server.port, self._files, self.place)

    def _target(self, name: str) -> Target:
        store, path = self._store(name)
        port = free_port()
        words = [sys.executable, "-m", "everstream", "serve", "--port", str(port), "--store", f"unix://{path}"]
        quiet = {"DRAIN_MS": "0", "GOAWAY_SPREAD_MS": "0", "DISCOVER": "false", "LOG_LEVEL": "error"}
        env = {f"EVERSTREAM_{key}": value for key, value in (quiet | self._settings).items()}
        process: Process = self._start(name, words, **env)
        process.wait_ready(lambda: answers(port, "/readyz", 200))
        return Target(name, port, process, store)


class Clients:
    """A process of clients, as a context manager.  It can be doing one thing at a time."""

    def __init__(self, port: int, files: int, place: Path) -> None:
        self._words = [sys.executable, "-m", "tests.bench.crowd", str(port), str(files)]
        self._place = place

    def __enter__(self) -> Clients:
        self._errors = (self._place / "clients.err").open("ab")
        self._child = subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._child.kill()
        self._child.communicate()
        self._errors.close()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Have something done, and wait for the answer.  Raises RuntimeError."""
        self.tell(do, **fields)
        return self.hear()

    def tell(self, do: str, **fields: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        self._child.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The answer to what it was told.  Raises RuntimeError."""
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], ASK_LIMIT_S)
        line = self._child.stdout.readline() if ready else b""
        if not line:
            said = (self._place / "clients.err").read_text(errors="replace")
            raise RuntimeError(f"the clients failed, or took over {ASK_LIMIT_S:.0f} s:\n{said[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer
