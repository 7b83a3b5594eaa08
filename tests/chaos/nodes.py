"""Several real servers on one real store, and what can happen to them.

`Nodes` starts N `everstream serve` on one store, each with its own port, folder and log file.  Any of them can be
killed, stopped in its tracks, asked to go, and started again on the same port, as an operator's supervisor would do.
Whatever happened, `close` leaves no process behind, and a node that ever logged a traceback fails the test then.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.chaos.viewer import Address
from tests.server import HOST, LOG_TAIL_BYTES, POLL_S, ServerFailed, ServerProcess

from everstream.settings import Settings
from everstream.store.base import Store
from everstream.store.urls import store_of

START_S = 40.0
_SAMPLE = re.compile(r"^(\w+?)(?:_total)?(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)

# What every node gets unless the test says otherwise: a node that goes, goes at once.
SETTINGS: dict[str, object] = {"goaway_spread_ms": 0, "drain_ms": 0, "heartbeat_ms": 1000}


def flags(settings: Mapping[str, object]) -> list[str]:
    """Settings as a command line has them: `--name value`, and `--no-name` for what is False."""
    made: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        made += [f"--no-{flag}"] if value is False else [f"--{flag}", str(value)]
    return made


class Nodes:
    """`urls` are the stores' addresses: one for all, or one each.  `settings` go to every node, `each` to one of them.

    `groups` are the process groups (in the sense of `chgrp`) by which a `Cage` knows the nodes' packets.
    """

    def __init__(
        self,
        folder: Path,
        urls: str | Sequence[str],
        count: int = 3,
        *,
        each: Mapping[int, Mapping[str, object]] | None = None,
        groups: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        stores = [urls] * count if isinstance(urls, str) else list(urls)
        self.servers = [
            ServerProcess(
                folder / f"node{n}",
                args=flags({"store": stores[n], **SETTINGS, **settings, **(each or {}).get(n, {})}),
                owns_store=False,
                group=groups[n] if groups else None,
            )
            for n in range(count)
        ]

    def __getitem__(self, n: int) -> ServerProcess:
        return self.servers[n]

    def __len__(self) -> int:
        return len(self.servers)

    async def start(self) -> Nodes:
        started = await asyncio.gather(
            *(asyncio.to_thread(server.start, ready_within_s=START_S) for server in self.servers),
            return_exceptions=True,
        )
        failed = [each for each in started if isinstance(each, BaseException)]
        if failed:
            await self.close()
            raise failed[0]
        return self

    async def kill(self, n: int) -> None:
        await asyncio.to_thread(self.servers[n].kill9)

    async def kill_child(self, n: int, chance: random.Random, children: int) -> None:
        """One of the nodes behind this one's port, once all of them are there."""
        pid = self.servers[n].pid
        async with asyncio.timeout(START_S):
            while len(pids := _children(pid)) < children:
                await asyncio.sleep(POLL_S)  # pause: between two looks at the processes
        os.kill(chance.choice(pids), signal.SIGKILL)

    async def again(self, n: int) -> None:
        """Start a node that has ended, on the same port."""
        await asyncio.to_thread(self.servers[n].start, ready_within_s=START_S)

    async def terminate(self, n: int, *, within_s: float = 30.0) -> int:
        return await asyncio.to_thread(self.servers[n].terminate, within_s=within_s)

    async def close(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(server.close) for server in self.servers))

    def addresses(self, first: int = 0) -> list[Address]:
        """All nodes, beginning with one of them."""
        order = [*range(first, len(self)), *range(first)]
        return [(HOST, self.servers[n].port) for n in order]

    async def metric(self, n: int, name: str) -> float:
        """The sum of a metric's samples at a node."""
        _, body = await asyncio.to_thread(self.servers[n].get, "/metrics")
        samples = [float(value) for found, value in _SAMPLE.findall(body.decode()) if found == name]
        if not samples:
            raise ServerFailed(f"there is no metric {name}")
        return sum(samples)

    async def metric_of_all(self, name: str) -> float:
        """The sum over the nodes that are running."""
        return sum([await self.metric(n, name) for n in range(len(self)) if self.servers[n].running])

    def tracebacks(self) -> str:
        """What every traceback in the logs ended with, how often, and the first one; empty where there is none."""
        texts = [server.log_text() for server in self.servers]
        ends = Counter(line for text in texts for line in _last_lines(text))
        first = next((text[text.index("Traceback") :][:LOG_TAIL_BYTES] for text in texts if "Traceback" in text), "")
        return "\n".join(f"{count} x {line}" for line, count in ends.most_common()) + ("\n" + first if first else "")

    def quoted(self) -> str:
        """The ends of all logs, for a failure to quote."""
        return "".join(f"\n--- node {n}\n{server.log_text()[-3_000:]}" for n, server in enumerate(self.servers))


def _last_lines(log: str) -> list[str]:
    """The line that each traceback in a log ends with: the first that is not indented."""
    ends, inside = [], False
    for line in log.splitlines():
        if line.startswith("Traceback"):
            inside = True
        elif inside and line and not line[0].isspace():
            ends.append(line[:200])
            inside = False
    return ends


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@asynccontextmanager
async def running_nodes(nodes: Nodes) -> AsyncIterator[Nodes]:
    """Started; closed afterwards; none of them may have logged a traceback, and a failure quotes their logs."""
    await nodes.start()
    try:
        yield nodes
    except BaseException as error:
        error.add_note(nodes.quoted())
        raise
    finally:
        await nodes.close()
    assert not nodes.tracebacks(), nodes.tracebacks()


@asynccontextmanager
async def reading_store(url: str, folder: Path) -> AsyncIterator[Store]:
    """The store itself, through the class that the servers use.  It takes no lease, so nobody takes it for a node."""
    store = store_of(Settings(store=url, data_dir=folder))
    await store.open("n_oracle", lambda _: None, lambda _: None)
    try:
        yield store
    finally:
        await store.close()
