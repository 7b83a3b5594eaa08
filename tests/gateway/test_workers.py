"""Several nodes on one port: what kills one of them, or their parent, and what a deploy looks like from outside."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.gateway.conftest import Client, client_of, count_text
from tests.server import HOST, ServerProcess, clean_environment, free_port, running_server

from everstream.client import Client as Reconnecting
from everstream.gateway import lifeline, parent
from everstream.settings import Settings

WAIT_S = 30.0
QUICK = ("--goaway-spread-ms", "600", "--drain-ms", "1500", "--log-format", "json")
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with running_server(tmp_path / "data", "--workers", "2", *QUICK) as server:
        await until(lambda: "Everstream is ready" in server.log_text())
        yield server


def processes(server: ServerProcess) -> dict[str, int]:
    """Every node that was ever ready, and its process's id."""
    lines = (json.loads(line) for line in server.log_text().splitlines() if line.startswith("{"))
    return {line["node"]: line["pid"] for line in lines if line["event"] == "a node is ready"}


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def shown(pid: int) -> bytes:
    """What others on the machine can see of a process: its command line and, as the same user, its environment."""
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():
            await asyncio.sleep(0.02)  # pause: between two looks at other processes


@contextlib.asynccontextmanager
async def client_on(server: ServerProcess, node: str) -> AsyncIterator[Client]:
    """A client that the kernel has dealt to this node, which takes a few tries."""
    async with asyncio.timeout(WAIT_S):
        while True:
            async with client_of(server.ws_url, hello=False) as client:
                if (await client.ask("hello"))["node"] == node:
                    yield client
                    return


# --------------------------------------------------------------------------- living


async def test_nodes_share_the_port_and_say_once_that_they_are_ready(server: ServerProcess) -> None:
    met: Counter[str] = Counter()
    for _ in range(200):
        status, body = await asyncio.to_thread(server.get, "/healthz")
        assert status == 200
        met[json.loads(body)["node"]] += 1
    print(f"200 connections to {len(met)} nodes: {sorted(met.values())}")
    assert set(met) == set(processes(server))
    assert min(met.values()) > 50, "each gets its share"
    assert server.log_text().count("Everstream is ready") == 1
    assert await asyncio.to_thread(server.terminate) == 0


async def test_a_node_that_is_killed_takes_no_other_down_and_is_replaced(server: ServerProcess) -> None:
    before = processes(server)
    lost, kept = before
    async with client_on(server, kept) as there:
        async with client_on(server, lost) as here:
            stream = await here.generate(params={"tokens": 400, "rate": 100})
            await here.until(lambda frame: frame["type"] == "delta_text")
            os.kill(before[lost], signal.SIGKILL)
            assert await here.closed() == 1006
        await until(lambda: len(processes(server)) == 3)
        await there.send(type="subscribe", id="again", stream=stream)
        await there.ended(stream)
        assert there.streams[stream].text == count_text(400), "carried on where nobody died"
        (new,) = processes(server).keys() - before.keys()
        async with client_on(server, new) as client:
            assert (await client.ask("ping"))["type"] == "pong"
    assert await asyncio.to_thread(server.terminate) == 0


async def test_a_killed_parent_leaves_no_node_behind_and_the_port_free(server: ServerProcess) -> None:
    nodes = processes(server)
    async with client_on(server, next(iter(nodes))) as client:
        os.kill(server.pid, signal.SIGKILL)
        goaway = await client.until(lambda frame: frame["type"] == "goaway")
        assert goaway["after_ms"] <= 600
        assert await client.closed() == 4001
    await until(lambda: not any(map(alive, nodes.values())))
    await asyncio.to_thread(server.restart)
    assert server.get("/readyz")[0] == 200


async def test_a_node_that_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "HUNG_S", 4 * lifeline.BEAT_S)
    settings = Settings(workers=2, port=0, data_dir=tmp_path / "data", drain_ms=0, goaway_spread_ms=0)
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        family = parent.Parent(settings, listener)
        running = asyncio.create_task(family.run())
        await until(lambda: sum(child.ready for child in family.children) == 2)
        before = set(family.children)
        hung = next(iter(before))
        os.kill(hung.pid, signal.SIGSTOP)
        await until(lambda: hung not in family.children)
        await until(lambda: sum(child.ready for child in family.children) == 2)
        assert len(family.children & before) == 1, "the other one was left alone"
        family.told(lifeline.Word.STOP)
        assert await running == 0


async def test_a_parent_that_slept_takes_no_node_for_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "HUNG_S", 3 * lifeline.BEAT_S)
    settings = Settings(workers=2, port=0, data_dir=tmp_path / "data", drain_ms=0, goaway_spread_ms=0)
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        family = parent.Parent(settings, listener)
        running = asyncio.create_task(family.run())
        await until(lambda: sum(child.ready for child in family.children) == 2)
        before = set(family.children)
        asyncio.get_running_loop().call_soon(time.sleep, 4 * lifeline.BEAT_S)  # pause: the process sleeps, loop and all
        await asyncio.sleep(2 * lifeline.BEAT_S)  # pause: for it to draw the wrong conclusion
        assert family.children == before
        family.told(lifeline.Word.STOP)
        assert await running == 0


async def test_settings_reach_every_node_once_read_and_not_by_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "everstream.toml"
    file.write_text('heartbeat_ms = 4321\nopenai_api_key = "sk-secret"\n')
    args = ("--workers", "2", "--config", str(file), "--frame-bytes", "54321", *QUICK)
    async with running_server(tmp_path / "data", *args) as server:
        await until(lambda: len(processes(server)) == 2)
        file.write_text("heartbeat_ms = 1000\n")
        before = processes(server)
        assert not any(b"secret" in shown(pid) for pid in before.values())
        os.kill(next(iter(before.values())), signal.SIGKILL)
        await until(lambda: len(processes(server)) == 3)
        for node in list(processes(server))[1:]:
            async with client_on(server, node) as client:
                welcome = client.frames[0]
                assert (welcome["heartbeat_ms"], welcome["limits"]["frame_bytes"]) == (4321, 54321)
        assert await asyncio.to_thread(server.terminate) == 0


# --------------------------------------------------------------------------- not living


def serve(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "everstream",
        "serve",
        "--workers",
        "3",
        "--data-dir",
        str(tmp_path / "data"),
        *args,
    ]
    return subprocess.run(
        command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False
    )


def test_nodes_without_a_store_end_the_server_with_exit_code_3_and_say_so_once(tmp_path: Path) -> None:
    done = serve(tmp_path, "--port", "0", "--store", f"redis://:secret@{HOST}:{free_port()}/0")
    assert done.returncode == 3
    assert done.stderr.count("running") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
    assert "ready" not in done.stdout


def test_a_port_that_is_taken_is_refused_with_exit_code_4(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0), reuse_port=True) as taken:
        done = serve(tmp_path, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 4
    assert "another program listens there" in done.stderr


def test_a_store_in_memory_cannot_be_shared(tmp_path: Path) -> None:
    done = serve(tmp_path, "--port", "0", "--store", "memory://")
    assert done.returncode == 2
    assert "use embedded://" in done.stderr


# --------------------------------------------------------------------------- leaving


async def test_a_server_that_goes_still_accepts_and_keeps_its_promises(server: ServerProcess) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_on(server, node)) for node in processes(server)]
        signalled_at = loop.time()
        leaving = asyncio.create_task(asyncio.to_thread(server.terminate))

        async def stay(client: Client) -> None:
            goaway = await client.until(lambda frame: frame["type"] == "goaway")
            assert (await client.ask("ping"))["type"] == "pong"
            assert await client.closed() == 4001
            assert loop.time() >= signalled_at + goaway["after_ms"] / 1000

        staying = asyncio.gather(*map(stay, clients))
        await until(lambda: server.log_text().count('"draining"') == 2)
        status, _ = await asyncio.to_thread(server.get, "/readyz")
        assert status == 503, "it accepts, and says that it is going"
        await staying
        assert await leaving == 0


async def test_a_node_that_goes_alone_hands_its_clients_to_the_others(server: ServerProcess) -> None:
    nodes = processes(server)
    states: list[str] = []
    async with Reconnecting(server.ws_url, on_state=lambda state, detail: states.append(detail)) as client:
        stream = await client.generate(model="scripted/count", messages=MESSAGES, params={"tokens": 300, "rate": 100})
        leaver = str(client.welcome["node"])
        os.kill(nodes[leaver], signal.SIGTERM)
        text = "".join([frame.get("text", "") async for frame in stream if frame["type"] == "delta_text"])
        assert text == count_text(300)
        assert client.welcome["node"] != leaver
        await until(lambda: not alive(nodes[leaver]))
        await until(lambda: len(processes(server)) == 3)
    met = {json.loads((await asyncio.to_thread(server.get, "/readyz"))[1])["node"] for _ in range(50)}
    assert met == processes(server).keys() - {leaver}
    assert "a node leaves; another takes its place" in server.log_text()
    assert "died" not in server.log_text()
    assert await asyncio.to_thread(server.terminate) == 0


async def test_nodes_that_all_go_alone_leave_the_port_to_none_before_there_is_another(server: ServerProcess) -> None:
    before = processes(server)
    for pid in before.values():
        os.kill(pid, signal.SIGTERM)
    answered = 0
    async with asyncio.timeout(WAIT_S):
        while len(processes(server)) < 4 or any(map(alive, before.values())):
            # What was accepted and is lost with a listener that closes is the kernel's doing; to be refused is ours.
            with contextlib.suppress(ConnectionResetError, http.client.HTTPException):
                await asyncio.to_thread(server.get, "/healthz")
                answered += 1
    assert answered
    assert await asyncio.to_thread(server.terminate) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("nodes", ["1", "2"])
async def test_a_second_signal_forces(tmp_path: Path, number: signal.Signals, nodes: str) -> None:
    args = ("--workers", nodes, "--drain-ms", "600000", "--goaway-spread-ms", "600000")
    async with running_server(tmp_path / "data", *args) as server, client_of(server.ws_url) as client:
        await client.generate(params={"tokens": 100_000, "rate": 10})
        pid = server.pid
        os.kill(pid, number)
        await client.until(lambda frame: frame["type"] == "goaway")
        os.kill(pid, number)
        await client.closed()
        assert await asyncio.to_thread(server.terminate, within_s=20) == 0


async def test_five_hundred_sockets_are_closed_a_few_at_a_time(tmp_path: Path) -> None:
    spread_ms, sockets = 2_000, 500
    loop = asyncio.get_running_loop()
    args = ("--goaway-spread-ms", str(spread_ms), "--drain-ms", "3000")
    async with running_server(tmp_path / "data", *args) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(server.ws_url)) for _ in range(sockets)]
        signalled_at = loop.time()
        leaving = asyncio.create_task(asyncio.to_thread(server.terminate))

        async def stay(client: Client) -> tuple[float, float]:
            """Do not obey: what was promised, and what came, in ms after the signal."""
            goaway = await client.until(lambda frame: frame["type"] == "goaway")
            assert await client.closed() == 4001
            return goaway["after_ms"], (loop.time() - signalled_at) * 1000

        times = await asyncio.gather(*map(stay, clients))
        assert await leaving == 0
    tenth_ms = spread_ms / 10
    for name, moments in (("planned", [promised for promised, _ in times]), ("closed", [came for _, came in times])):
        tenths = Counter(int(moment / tenth_ms) for moment in moments)
        print(f"{name}, in steps of {tenth_ms:.0f} ms: {[tenths[step] for step in range(max(tenths) + 1)]}")
    early = [(promised, came) for promised, came in times if came < promised]
    assert not early, "nobody is closed before its time is over"
    tenths = Counter(int(promised / tenth_ms) for promised, _ in times)
    assert all(50 <= tenths[step] <= 160 for step in range(5, 10)), "each has a time of its own"
    assert max(promised for promised, _ in times) <= spread_ms


async def test_a_service_manager_is_told_of_coming_and_going(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_S)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        for nodes in ("1", "2"):
            server = ServerProcess(tmp_path / "data", args=("--workers", nodes, *QUICK), env=env)
            try:
                await asyncio.to_thread(server.start)
                assert await asyncio.to_thread(manager.recv, 100) == b"READY=1"
                assert await asyncio.to_thread(server.terminate) == 0
                assert await asyncio.to_thread(manager.recv, 100) == b"STOPPING=1"
            finally:
                await asyncio.to_thread(server.close)
