"""Functions as models in real servers that are killed in mid-answer: nothing is lost or doubled, and seams are true."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.server import ServerProcess, clean_environment, running_server

from everstream.client import Client

WAIT_S = 40.0
WORDS, BEFORE = 300, 40
WHOLE = "".join(f"w{n} " for n in range(WORDS))
MESSAGES = [{"role": "user", "content": "hello"}]

MODULE = """
import asyncio
import everstream

WORDS = [f"w{n} " for n in range(300)]
app = everstream.create_app()


@app.model("prefill", continuation="prefill")
async def prefill(request, stream):
    said = len(stream.resume_from.text) if stream.resume_from else 0
    for word in WORDS:
        rest, said = word[said:], max(said - len(word), 0)
        if rest:
            yield rest
            await asyncio.sleep(0.005)


@app.model("checkpoints", continuation="exact")
async def checkpoints(request, stream):
    at, said = 0, 0
    if stream.resume_from:
        at, said = stream.resume_from.checkpoint, len(stream.resume_from.text_since)
        stream.thinking(f"from {at}")
    for n in range(at, len(WORDS)):
        rest, said = WORDS[n][said:], max(said - len(WORDS[n]), 0)
        if rest:
            yield rest
            if n % 7 == 0:
                stream.checkpoint(n + 1)
            await asyncio.sleep(0.005)


@app.model("replay", continuation="replay")
def replay(request, stream):
    import time

    for word in WORDS:
        yield word
        time.sleep(0.005)


@app.model("restart")
async def restart(request, stream):
    for word in WORDS:
        yield word
        await asyncio.sleep(0.005)


@app.model("thinks")
async def thinks(request, stream):
    for word in WORDS:
        stream.thinking(word)
        await asyncio.sleep(0.005)
    yield "thought"
"""
SEAMS = {
    "prefill": ("prefill", "unverified"),
    "checkpoints": ("exact", "unverified"),
    "replay": ("exact", "verified"),
    "thinks": ("restart", None),
    "restart": (None, None),
}


@asynccontextmanager
async def serving_module(tmp_path: Path, *args: str) -> AsyncIterator[ServerProcess]:
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    quick = ("--goaway-spread-ms", "0", "--drain-ms", "0", "--log-format", "json")
    async with running_server(tmp_path / "data", "mine:app", *quick, *args) as server:
        yield server


class Watched:
    """A stream as a client sees it that comes back by itself."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.under_way = asyncio.Event()
        self.frames: list[dict[str, Any]] = []

    async def watch(self, client: Client) -> None:
        stream = await client.generate(model=f"app/{self.model}", messages=MESSAGES)
        async for frame in stream:
            self.frames.append(frame)
            if len(self.frames) > BEFORE:
                self.under_way.set()

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]

    def judge(self) -> None:
        (seam,), (end,) = self.of("seam"), self.of("stream_end")
        text = "".join(frame["text"] for frame in self.of("delta_text"))
        assert not self.of("snapshot")
        assert (seam["reason"], seam["continuation"], seam["check"]) == ("node_lost", *SEAMS[self.model]), self.model
        if self.model == "restart":
            assert end["reason"] == "interrupted"
            assert WHOLE.startswith(text)
            assert len(text) > BEFORE
        elif self.model == "thinks":
            after = self.frames[self.frames.index(seam) :]
            assert (end["reason"], text) == ("complete", "thought")
            assert "".join(frame["text"] for frame in after if frame["type"] == "delta_thinking") == WHOLE
        else:
            assert (end["reason"], text) == ("complete", WHOLE), self.model
        if self.model == "checkpoints":
            (thought,) = self.of("delta_thinking")
            assert int(thought["text"].removeprefix("from ")) > BEFORE - 7 - len("ahf"), "from the last checkpoint"


async def test_a_function_in_a_killed_server_is_carried_on_as_was_declared(tmp_path: Path) -> None:
    async with serving_module(tmp_path) as server, Client(server.ws_url) as client, asyncio.timeout(WAIT_S):
        watched = [Watched(model) for model in SEAMS]
        watching = [asyncio.create_task(each.watch(client)) for each in watched]
        await asyncio.gather(*(each.under_way.wait() for each in watched))
        await asyncio.to_thread(server.restart)
        await asyncio.gather(*watching)
        for each in watched:
            each.judge()


async def test_a_function_in_one_of_two_killed_nodes_is_carried_on_by_the_other(tmp_path: Path) -> None:
    async with (
        serving_module(tmp_path, "--workers", "2") as server,
        Client(server.ws_url) as client,
        asyncio.timeout(WAIT_S),
    ):
        while "Everstream is ready" not in server.log_text():
            await asyncio.sleep(0.02)  # pause: until both nodes are there
        lines = [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]
        nodes = {line["node"]: line["pid"] for line in lines if line["event"] == "a node is ready"}
        watched = [Watched(model) for model in SEAMS]
        watching = [asyncio.create_task(each.watch(client)) for each in watched]
        await asyncio.gather(*(each.under_way.wait() for each in watched))
        lost = str(client.welcome["node"])
        os.kill(nodes[lost], signal.SIGKILL)
        await asyncio.gather(*watching)
        for each in watched:
            each.judge()
            (seam,) = each.of("seam")
            assert seam["node"] != lost
        assert await asyncio.to_thread(server.terminate) == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent:app", "there is no module `absent`"),
        ("mine:other", "mine has no other; there is mine:app"),
        ("mine:prefill", "mine:prefill is no application of everstream.create_app(), but a function"),
        ("mine.py", "mine.py is a file: name the module, as in mine:app"),
    ],
)
async def test_a_name_that_leads_to_no_application_is_one_clear_line(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "everstream", "serve", name),
        cwd=tmp_path,
        env=clean_environment(),
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 2
    assert stderr.decode().startswith(f"everstream serve: {said}")
    assert stderr.count(b"\n") == 1
