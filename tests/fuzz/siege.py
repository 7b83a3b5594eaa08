"""A real server under a fuzz, with a neighbour who streams at the same time: what became of all three."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from websockets.sync.client import connect

from tests.server import ServerProcess

RATE_PER_S = 200
QUIET_S = 2.0
WAIT_S = 30.0
SETTINGS = {
    "EVERSTREAM_STORE": "memory://",
    "EVERSTREAM_DISCOVER": "false",
    "EVERSTREAM_COMMANDS_PER_S": "1000000",
    "EVERSTREAM_DEFAULT_MODEL": "scripted/echo",
    "EVERSTREAM_HEAD_TIMEOUT_S": "2",
    "EVERSTREAM_BODY_TIMEOUT_S": "2",
    "EVERSTREAM_LINGER_S": "2",
    "EVERSTREAM_SESSION_REST_S": "2",
    "EVERSTREAM_DRAIN_MS": "0",
    "EVERSTREAM_GOAWAY_SPREAD_MS": "0",
}

Attack = Callable[[int, int, int], Counter[str]]


@dataclass(frozen=True)
class Outcome:
    said: Counter[str]
    seconds: float
    rss_mib: tuple[float, float, float]  # before, at most, after
    p99_ms: tuple[float, float]  # of the neighbour's gaps: alone, under the fuzz
    faults: list[str]

    def told(self, what: str) -> str:
        alone, beside = self.p99_ms
        before, most, after = self.rss_mib
        shown = {name: n for name, n in sorted(self.said.items()) if ": " not in name}
        return (
            f"{what}: {shown} in {self.seconds:.1f} s\n"
            f"  server's memory {before:.0f} MiB before, {most:.0f} at most, {after:.0f} after\n"
            f"  neighbour's gaps, p99: {alone:.1f} ms alone, {beside:.1f} ms beside it, {beside / alone:.2f} times\n"
            f"  faults: {self.faults or 'none'}"
        )


def p99_ms(arrivals: list[float]) -> float:
    gaps = sorted(after - before for before, after in itertools.pairwise(arrivals))
    return gaps[int(len(gaps) * 0.99)] * 1000


def neighbour(url: str, stop: Event) -> float:
    """Read a stream of 200 tokens a second until told to stop; p99 of the gaps between its frames, in ms."""
    asked = {"type": "generate", "id": 1, "model": "scripted/count", "messages": [{"role": "user", "content": "x"}],
             "params": {"rate": RATE_PER_S, "tokens": 1_000_000}}  # fmt: skip
    arrivals: list[float] = []
    with connect(url, proxy=None) as socket:
        socket.send(json.dumps({"type": "hello"}))
        socket.send(json.dumps(asked))
        while not stop.is_set():
            frame = json.loads(socket.recv(timeout=WAIT_S))
            if frame["type"] == "delta_text":
                arrivals.append(time.monotonic())
    return p99_ms(arrivals)


def memory_mib(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def besiege(attack: Attack, count: int, seed: int, processes: int = 2) -> Outcome:
    """Send `count` mutated inputs to a server, from so many processes."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder) / "data", env=SETTINGS) as server,
        context.Manager() as shared,
        ProcessPoolExecutor(processes + 1, mp_context=context) as pool,
    ):
        server.start()
        before = memory_mib(server.pid, "VmRSS")
        stop = shared.Event()
        alone = pool.submit(neighbour, server.ws_url, stop)
        time.sleep(QUIET_S)  # pause: so long the neighbour is alone
        stop.set()
        alone_ms = alone.result(WAIT_S)
        stop.clear()
        beside = pool.submit(neighbour, server.ws_url, stop)
        began = time.monotonic()
        shares = [count // processes + (n < count % processes) for n in range(processes)]
        runs = [pool.submit(attack, server.port, share, seed * 1000 + n) for n, share in enumerate(shares)]
        said = sum((run.result() for run in runs), Counter())
        seconds = time.monotonic() - began
        stop.set()
        beside_ms = beside.result(WAIT_S)
        faults = [name for name in said if name.startswith(("hang", "500"))]
        status, _ = server.get("/healthz")
        log = server.log_text()
        faults += ["the server is not well"] * (status != 200)
        faults += [f"the log: {log[log.index('Traceback') - 300 :][:3000]}"] if "Traceback" in log else []
        rss = (before, memory_mib(server.pid, "VmHWM"), memory_mib(server.pid, "VmRSS"))
        return Outcome(said, seconds, rss, (alone_ms, beside_ms), faults)
