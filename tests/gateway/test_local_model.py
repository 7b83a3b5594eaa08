"""A local model's answer outlives its server: killed in mid-answer, a greedy one ends as if nothing had been."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.conftest import Held, client_of
from tests.local_model import MODEL, QUESTION, lay_out
from tests.server import ServerProcess
from websockets.exceptions import ConnectionClosed

PARAMS = {"temperature": 0, "max_tokens": 70}
SHOWN_CHARACTERS = 60
WAIT_S = 60.0
FLAGS = ("--local-context-tokens", "512", "--local-parallel", "2", "--goaway-spread-ms", "0", "--drain-ms", "0")
GONE = (ConnectionClosed, OSError, EOFError, TimeoutError)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    lay_out(tmp_path / "data")
    server = ServerProcess(tmp_path / "data", args=FLAGS)
    try:
        await asyncio.to_thread(server.start)
        yield server
    finally:
        await asyncio.to_thread(server.close)
        assert "Traceback" not in server.log_text(), server.log_text()[-4000:]


def models_processes(server: ServerProcess) -> list[int]:
    """The processes that run models for this server."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
            if b"local_server" in words and bytes(server.data_dir) in words:
                found.append(int(process.name))
    return found


async def undisturbed(server: ServerProcess) -> str:
    async with client_of(server.ws_url) as client:
        stream = await client.generate(MODEL, messages=[{"role": "user", "content": QUESTION}], params=PARAMS)
        end = await client.ended(stream)
        assert (end["reason"], end["usage"]["source"]) == ("complete", "provider")
        return client.streams[stream].text


async def begun(server: ServerProcess) -> tuple[str, int, Held]:
    """A stream of which a good part is shown, its epoch, and what is shown of it."""
    async with client_of(server.ws_url) as client:
        messages = [{"role": "user", "content": QUESTION}]
        reply = await client.ask("generate", model=MODEL, messages=messages, params=PARAMS)
        stream = str(reply["stream"])
        await client.until(lambda _: len(client.streams[stream].text) > SHOWN_CHARACTERS)
        held = client.streams[stream]
        assert held.end is None
        return stream, int(reply["epoch"]), held


async def followed(server: ServerProcess, stream: str, epoch: int, held: Held) -> list[dict[str, Any]]:
    """Read on to the end, wherever it is carried on; the seams."""
    async with asyncio.timeout(WAIT_S):
        while held.end is None:
            with contextlib.suppress(*GONE):
                async with client_of(server.ws_url, hello=False) as client:
                    client.streams = {stream: held}
                    place = {"stream": stream, "epoch": epoch, "offset": held.offset}
                    await client.send(type="hello", resume=[place])
                    while held.end is None:
                        frame = await client.next()
                        epoch = frame["epoch"] if frame["type"] == "seam" else epoch
            await asyncio.sleep(0.02)  # pause: between two tries to reach a server that may be dead
    return [frame for frame in held.frames if frame["type"] == "seam"]


async def test_killed_in_mid_answer_a_greedy_answer_ends_as_if_nothing_had_been(server: ServerProcess) -> None:
    stream, epoch, held = await begun(server)
    [model] = models_processes(server)
    os.kill(server.pid, signal.SIGKILL)  # it alone: the model's process has to notice by itself
    async with asyncio.timeout(WAIT_S):
        while model in models_processes(server):
            await asyncio.sleep(0.01)  # pause: between two looks at the process
    assert held.end is None
    await asyncio.to_thread(server.restart)
    seams = await followed(server, stream, epoch, held)
    assert [seam["continuation"] for seam in seams] == ["prefill"]
    assert held.end is not None
    assert (held.end["reason"], held.snapshots) == ("complete", 0)
    assert held.text == await undisturbed(server)


async def test_another_node_goes_on_with_the_same_words(server: ServerProcess) -> None:
    with ServerProcess(server.data_dir, args=FLAGS, owns_store=False) as heir:
        await asyncio.to_thread(heir.start)
        stream, epoch, held = await begun(server)
        await asyncio.to_thread(server.kill9)
        seams = await followed(heir, stream, epoch, held)
        assert held.end is not None
        assert held.end["reason"] == "complete"
        assert [seam["continuation"] for seam in seams] == ["prefill"]
        assert held.text == await undisturbed(heir)
        await asyncio.to_thread(heir.kill9)
