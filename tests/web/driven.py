"""The TypeScript client under Node.js, driven by a test: `client/drive.mjs` is the other end.

What it tells is a line each, kept in `told`; `wait` gives the next of a kind, and looks at each once.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.server import ROOT
from tests.web.node import node_environment

PROGRAM = ROOT / "tests" / "web" / "client" / "drive.mjs"
WITHIN_S = 30.0

Told = dict[str, Any]


class Driven:
    """One client.  A context manager, which ends it."""

    def __init__(self, dist: Path, url: str, **options: object) -> None:
        self.told: list[Told] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        arguments = json.dumps({"url": f"{url}/ws", **options})
        self._process = subprocess.Popen(
            ["node", str(PROGRAM), dist.as_uri(), arguments],
            env=node_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="driven")
        self._reader.start()

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        finally:
            self._process.kill()
            self._process.wait(10.0)
            self._reader.join(10.0)
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def order(self, order: str, **fields: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"order": order, **fields}) + "\n")
        self._process.stdin.flush()

    def next(self, within_s: float = WITHIN_S) -> Told:
        """What it tells next.  Fails with all it has told where nothing comes, or something that is no event."""
        try:
            line = self._lines.get(timeout=within_s)
        except queue.Empty:
            line = None
        if line is None or not line.startswith("{"):
            rest = []
            while line is not None and not self._lines.empty():
                rest.append(self._lines.get())
            raise AssertionError(f"the client says no more but {line!r} {rest}\n{self.told[-20:]}")
        told: Told = json.loads(line)
        self.told.append(told)
        return told

    def wait(self, event: str, within_s: float = WITHIN_S, **fields: object) -> Told:
        """The next event of this kind, with these fields."""
        deadline = time.monotonic() + within_s
        while True:
            told = self.next(max(deadline - time.monotonic(), 0.01))
            if told["event"] == event and all(told.get(name) == value for name, value in fields.items()):
                return told

    def wait_grown(self, name: str, length: int) -> Told:
        while True:
            told = self.wait("grown", name=name)
            if told["length"] >= length:
                return told
