"""Servers killed in mid-answer, and ten thousand cancels: nothing that anybody saw is lost, doubled or changed.

Clients keep every entry that they were shown, by offset.  After a kill they come back with one `hello` each and go on;
what they then hold must be what they had held, continued.  A scripted answer is carried on exactly, so its text at the
end equals that of an answer nobody disturbed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.gateway.conftest import Client, Held, client_of, count_text
from tests.server import ServerProcess, running_server
from websockets.exceptions import ConnectionClosed

TOKENS, RATE = 700, 350.0
LONG_TOKENS = 2_100  # six seconds: time to die, be adopted, and die again
COUNTED = count_text(10_000)
CONNECTIONS, STREAMS_EACH = 5, 10
GONE = (ConnectionClosed, OSError, EOFError, TimeoutError)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with running_server(tmp_path / "data", "--goaway-spread-ms", "0", "--drain-ms", "0") as server:
        yield server


class Witness:
    """A client that comes back, and remembers all that it was ever shown."""

    def __init__(self, server: ServerProcess, tokens: int) -> None:
        self._server = server
        self._tokens = tokens
        self.streams: dict[str, Held] = {}
        self.epochs: dict[str, int] = {}
        self.returns = 0
        self.seams = 0

    async def begin(self) -> None:
        async with client_of(self._server.ws_url) as client:
            for _ in range(STREAMS_EACH):
                reply = await client.ask(
                    "generate", model="scripted/count", messages=[{"role": "user", "content": "x"}],
                    params={"tokens": self._tokens, "rate": RATE},
                )  # fmt: skip
                self.epochs[reply["stream"]] = reply["epoch"]
            self._keep(client)

    def _keep(self, client: Client) -> None:
        for stream, held in client.streams.items():
            self.streams[stream] = held

    async def watch(self) -> None:
        """Until every stream has ended, through however many deaths."""
        while not all(stream in self.streams and self.streams[stream].end for stream in self.epochs):
            with contextlib.suppress(*GONE):
                async with client_of(self._server.ws_url, hello=False) as client:
                    await self._go_on(client)
            await asyncio.sleep(0.02)  # pause: between two tries to reach a server that may be dead

    async def _go_on(self, client: Client) -> None:
        client.streams = self.streams
        places = [
            {"stream": stream, "epoch": self.epochs[stream], "offset": held.offset}
            for stream, held in self.streams.items()
            if held.end is None
        ]
        places += [{"stream": stream} for stream in self.epochs if stream not in self.streams]
        self.returns += 1
        await client.send(type="hello", resume=places)
        while not all(stream in self.streams and self.streams[stream].end for stream in self.epochs):
            frame = await client.next()
            assert frame["type"] not in ("snapshot", "error") or frame.get("retryable"), frame
            if frame["type"] == "seam":
                self.epochs[frame["stream"]] = frame["epoch"]
                self.seams += 1

    def judge(self) -> None:
        for stream in self.epochs:
            held = self.streams[stream]
            assert held.end is not None
            assert held.end["reason"] == "complete"
            assert held.text == count_text(self._tokens)
            assert held.snapshots == 0


async def rounds(
    server: ServerProcess, kills: int, chance: random.Random, tokens: int = TOKENS, longest_s: float = 0.7
) -> tuple[list[Witness], list[float]]:
    witnesses = [Witness(server, tokens) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(witness.begin() for witness in witnesses))
    watching = [asyncio.create_task(witness.watch()) for witness in witnesses]
    outages = []
    try:
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.1, longest_s))  # pause: a moment that nobody chose
            began = time.monotonic()
            await asyncio.to_thread(server.restart)
            outages.append(time.monotonic() - began)
        await asyncio.wait_for(asyncio.gather(*watching), 60)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    for witness in witnesses:
        witness.judge()
    return witnesses, outages


async def test_killed_in_mid_answer_fifty_streams_come_back_whole(server: ServerProcess) -> None:
    witnesses, _ = await rounds(server, 1, random.Random(1))
    assert all(witness.returns >= 2 for witness in witnesses)
    assert sum(witness.seams for witness in witnesses) >= CONNECTIONS * STREAMS_EACH


@pytest.mark.chaos
async def test_killed_again_and_again_nothing_is_lost(server: ServerProcess) -> None:
    seed = random.randrange(1_000_000)
    chance, outages, seams, returns = random.Random(seed), [], 0, 0
    for _ in range(10):
        witnesses, lasted = await rounds(server, 2, chance, LONG_TOKENS, 2.5)
        outages += lasted
        seams += sum(witness.seams for witness in witnesses)
        returns += sum(witness.returns for witness in witnesses)
    print(
        f"\nseed {seed}: 20 kills, {CONNECTIONS * STREAMS_EACH * 10} streams of {LONG_TOKENS} tokens, {seams} seams, "
        f"{returns} returns; back after {min(outages):.2f} to {max(outages):.2f} s; 0 lost, 0 doubled, 0 changed"
    )


# --------------------------------------------------------------------------- cancels


async def cancel_many(server: ServerProcess, cancels: int, chance: random.Random) -> list[float]:
    """Streams are begun and cancelled at random moments; the latency of each cancel in seconds."""
    connections, each = 20, 25
    latencies: list[float] = []

    async def run(client: Client, count: int) -> None:
        sent: dict[str, float] = {}
        fences: dict[str, int] = {}
        for n in range(count):
            await client.send(
                type="generate", id=f"g{n}", model="scripted/count", messages=[{"role": "user", "content": "x"}],
                params={"tokens": 1_000_000, "rate": chance.choice([5, 20, 50])},
            )  # fmt: skip
        while len(fences) < count:
            frame = await client.next()
            if frame["type"] == "accepted" or (frame["type"] == "delta_text" and chance.random() < 0.3):
                stream = frame["stream"]
                if stream not in sent and (frame["type"] != "accepted" or chance.random() < 0.3):
                    sent[stream] = time.monotonic()
                    await client.send(type="cancel", id=f"c {stream}", stream=stream)
            elif frame["type"] == "cancelled":
                (fence,) = frame["streams"]
                latencies.append(time.monotonic() - sent[fence["stream"]])
                fences[fence["stream"]] = fence["offset"]
            assert frame["type"] != "error", frame
        for stream, offset in fences.items():
            end = await client.ended(stream)
            assert (end["reason"], end["upto"]) == ("cancelled", offset)
        await client.ask("ping")  # whatever came after a fence would have come before this
        for stream, offset in fences.items():
            assert client.streams[stream].offset == offset
            assert COUNTED.startswith(client.streams[stream].text)
        client.streams.clear()
        client.frames.clear()

    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server.ws_url)) for _ in range(connections)]
        while len(latencies) < cancels:
            await asyncio.gather(*(run(client, each) for client in clients))
    return latencies


async def test_nothing_ever_comes_after_the_fence_of_a_cancel(server: ServerProcess) -> None:
    assert len(await cancel_many(server, 1_000, random.Random(3))) >= 1_000


@pytest.mark.chaos
async def test_nothing_ever_comes_after_ten_thousand_fences(server: ServerProcess) -> None:
    began = time.monotonic()
    latencies = sorted(await cancel_many(server, 10_000, random.Random(4)))
    p50, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
    print(
        f"\n{len(latencies)} cancels in {time.monotonic() - began:.1f} s, 500 streams at once: 0 entries after a "
        f"fence; the fence came after {p50 * 1000:.1f} ms (half) and {p99 * 1000:.1f} ms (99 in 100)"
    )
