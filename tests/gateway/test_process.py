"""The server as a process: signals, exit codes, and a store that is killed under it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.gateway.conftest import client_of, count_text
from tests.server import HOST, ROOT, ServerProcess, clean_environment, free_port, running_server

from everstream.store import embedded


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with running_server(tmp_path / "data", "--goaway-spread-ms", "300", "--drain-ms", "1000") as server:
        yield server


async def test_a_terminated_server_says_goodbye_and_leaves_with_zero(server: ServerProcess) -> None:
    async with client_of(server.ws_url) as client:
        stream = await client.generate(params={"tokens": 10_000, "rate": 100})
        await client.until(lambda frame: frame["type"] == "delta_text")
        leaving = asyncio.create_task(asyncio.to_thread(server.terminate, within_s=15))
        goaway = await client.until(lambda frame: frame["type"] == "goaway")
        assert 150 <= goaway["after_ms"] <= 300
        assert goaway["reason"] == "draining"
        status, _ = await asyncio.to_thread(server.get, "/readyz")
        assert status == 503
        reply = await client.ask("ping")
        assert reply["type"] == "pong", "the connection works until its time is over"
        assert await client.closed() == 4001
        assert await leaving == 0
        assert client.streams[stream].end is None, "what was not over goes on elsewhere"
    with pytest.raises(OSError):
        await asyncio.to_thread(server.get, "/healthz")


async def test_a_terminated_server_with_nothing_to_do_leaves_at_once(server: ServerProcess) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await asyncio.to_thread(server.terminate, within_s=10) == 0
    assert loop.time() - began < 3


async def test_a_stream_stalls_while_its_store_is_killed_and_goes_on_whole(server: ServerProcess) -> None:
    async with client_of(server.ws_url) as client:
        streams = [await client.generate(params={"tokens": 900, "rate": 300}) for _ in range(5)]
        await client.until(lambda _: all(s in client.streams and client.streams[s].offset > 100 for s in streams))
        store = (await embedded.status(server.data_dir)).server
        assert store is not None
        os.kill(store.pid, signal.SIGKILL)
        for stream in streams:
            await client.ended(stream)
            assert client.streams[stream].text == count_text(900)
            assert client.streams[stream].snapshots == 0
        again = (await embedded.status(server.data_dir)).server
        assert again is not None
        assert again.pid != store.pid


def serve(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "everstream", "serve", "--data-dir", str(tmp_path / "data"), *args]
    return subprocess.run(
        command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )


def test_a_store_that_is_not_there_is_said_so_with_exit_code_3(tmp_path: Path) -> None:
    done = serve(tmp_path, "--port", str(free_port()), "--store", f"redis://:secret@{HOST}:{free_port()}/0")
    assert done.returncode == 3
    assert "store" in done.stderr
    assert "running" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_port_that_is_taken_is_said_so_with_exit_code_4(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(tmp_path, "--port", str(port))
    assert done.returncode == 4
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "store" / "store.sock").exists(), "a store was started for nobody"
    assert ROOT.is_dir()


async def test_a_signal_during_the_start_leaves_no_store_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "everstream", "serve", "--port", str(free_port()), "--data-dir", str(tmp_path)]
    pidfile, pid = tmp_path / "store" / "store.pid", ""
    process = await asyncio.create_subprocess_exec(
        *command, env=clean_environment(), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(20):
        while not pid:
            await asyncio.sleep(0.001)  # pause: between two looks for the store's process
            pid = pidfile.read_text().strip() if pidfile.exists() else ""
        process.terminate()
        assert await process.wait() == 0
    assert (await embedded.status(tmp_path)).server is None


CPU_S_MAX = 1.5
MEMORY_MIB_MAX = 120


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has used is read from /proc")
async def test_a_server_without_keys_starts_light_and_imports_no_package_of_a_vendor(tmp_path: Path) -> None:
    async with running_server(tmp_path / "data") as server, client_of(server.ws_url) as client:
        models = (await client.ask("models"))["models"]
        assert {model["id"] for model in models if model["usable"]} >= {"scripted/count"}
        process = Path(f"/proc/{server.pid}")
        user, system = process.joinpath("stat").read_text().rpartition(")")[2].split()[11:13]
        pages = int(process.joinpath("statm").read_text().split()[1])
        loaded = process.joinpath("maps").read_text()
    cpu_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    print(f"\nstarted with {cpu_s:.2f} s of processor time and {mib:.0f} MiB")
    assert cpu_s < CPU_S_MAX
    assert mib < MEMORY_MIB_MAX
    # What the vendors' packages, the local model and the vocabulary bring along in machine code.
    assert not re.findall(r"/(?:jiter|aiohttp|xllamacpp|bpe_openai|torch)/", loaded)
