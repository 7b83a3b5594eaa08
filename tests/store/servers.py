"""Real servers for the tests of the store: the packaged valkey-server, and Debian's redis-server where there is one.

Each runs in the foreground as a child of the tests, with its append-only file on, and can be killed and started again
on its data.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from tests.server import HOST, free_port

from everstream.store.resp import Address, ServerError, ask

READY_S = 20.0


class StoreServer:
    """One server, on a unix socket and on a port."""

    def __init__(self, binary: Path, folder: Path, *, password: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.socket = folder / "s.sock"
        self._command = [str(binary), "--port", str(self.port), "--bind", HOST, "--unixsocket", str(self.socket)]
        self._command += ["--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        self._password = password
        if password:
            self._command += ["--requirepass", password]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    async def start(self) -> StoreServer:
        self._launch()
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    await self.ask("PING")
                    return self
                except (OSError, EOFError, ServerError):
                    assert self.running, (self.folder / "server.log").read_text()[-2000:]
                    await asyncio.sleep(0.01)  # pause: between two looks at a server that starts

    def _launch(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def ask(self, *commands: str) -> list[str]:
        """Replies to plain commands."""
        return await ask(Address(host=HOST, port=self.port, password=self._password), *commands, timeout_s=5)

    def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
