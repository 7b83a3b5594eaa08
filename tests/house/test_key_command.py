"""`everstream key`: what it makes, shows and takes back, beside a running server and alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.conftest import client_of
from tests.server import clean_environment, running_server
from tests.store.conftest import Seat, until
from tests.store.servers import StoreServer

from everstream import at_store
from everstream.cli import Exit, main
from everstream.gateway.keys import Keys
from everstream.key_command import ACTIONS, USAGE
from everstream.settings import Settings
from everstream.store import embedded
from everstream.store.base import Store
from everstream.store.folder import find_binary
from everstream.store.valkey import ValkeyStore

KEY = re.compile(r"es_([a-z2-7]{12})_([A-Za-z0-9]{43})\n")
ABSENT = "a" * 12
WAIT_S = 30.0

Said = tuple[int, str, str]


pytestmark = pytest.mark.usefixtures("quiet_surroundings")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command in this process: its exit code and what it wrote."""

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(["key", *arguments])
        return (code, *capsys.readouterr())

    return run


async def apart(*arguments: str) -> Said:
    """Runs the command as a process."""
    command = [sys.executable, "-m", "everstream", "key", *arguments]
    run = await asyncio.to_thread(
        subprocess.run, command, env=clean_environment(), capture_output=True, text=True, timeout=WAIT_S
    )
    return run.returncode, run.stdout, run.stderr


def bytes_under(folder: Path) -> bytes:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() + str(path).encode() for path in files)


# --------------------------------------------------------------------------- alone


def test_a_key_is_shown_once_and_alone_and_can_be_taken_back(say: Callable[..., Said], tmp_path: Path) -> None:
    code, out, err = say("create", "--user", "ada", "--name", "Ada Lovelace", "--days", "30")
    made = KEY.fullmatch(out)
    assert made is not None, "$(everstream key create …) is the key"
    assert (code, "not shown again" in err, "EVERSTREAM_AUTH=keys" in err) == (0, True, True)
    assert made[2] not in err
    code, out, err = say("list")
    assert code == 0
    assert out.splitlines()[1].split()[::3] == [made[1], "ada"]
    assert out.endswith("Ada Lovelace\n")
    assert made[2] not in out + err
    assert say("revoke", made[1]) == (0, f"{made[1]} is revoked; 0 servers told\n", "")
    assert say("revoke", made[1]) == (Exit.FAILED, "", f"there is no key {made[1]}; 0 servers told\n")
    assert say("list")[1].startswith("there are no keys: everstream key create")
    assert main(["store", "status"]) == Exit.STORE, "the store that it started is stopped"


def test_programs_are_told_the_same(say: Callable[..., Said]) -> None:
    code, out, _ = say("create", "--json", "--user", "ada", "--days", "0.5")
    made = json.loads(out)
    assert (code, made["user"], made["name"]) == (0, "ada", "ada")
    assert made["key"].startswith(f"es_{made['id']}_")
    (listed,) = json.loads(say("list", "--json")[1])
    assert (listed["id"], listed["expires_at"], listed["expired"]) == (made["id"], made["expires_at"], False)
    assert 43_100 < listed["expires_at"] - listed["created_at"] < 43_300
    assert not {"key", "hash"} & listed.keys()
    code, out, _ = say("revoke", "--json", made["id"], ABSENT, made["id"])
    assert code == Exit.FAILED, "one of them was none"
    rows = [{"id": made["id"], "revoked": True}, {"id": ABSENT, "revoked": False}]
    assert json.loads(out) == [row | {"servers": 0, "told": 0} for row in rows]


def test_a_whole_key_can_be_given_to_revoke_and_is_not_repeated(say: Callable[..., Said]) -> None:
    _, key, _ = say("create", "--user", "ada")
    code, out, err = say("revoke", key.strip())
    assert (code, key[-44:-1] in out + err) == (0, False)
    code, out, err = say("revoke", key.strip()[:-1])
    assert (code, "is no id of a key" in err) == (Exit.USAGE, True)
    assert key[16:24] not in out + err


def test_no_secret_is_on_the_disk(say: Callable[..., Said], tmp_path: Path) -> None:
    id, secret = KEY.fullmatch(say("create", "--user", "ada")[1]).groups()  # type: ignore[union-attr]
    held = bytes_under(tmp_path)
    assert id.encode() in held, "the store was looked for in the wrong place"
    assert not [part for part in (secret, secret[:20], secret[-20:]) if part.encode() in held]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "the following arguments are required: action"),
        (("burn",), "invalid choice: 'burn'"),
        (("create",), "create needs --user"),
        (("create", "--user"), "argument --user: expected one argument"),
        (("create", "--user", "ada", "--days", "x"), "'x' is no number of days: more than 0, and 3650 at most"),
        (("create", "--user", "ada", "--days", "0"), "'0' is no number of days"),
        (("create", "--user", "ada", "--days", "nan"), "'nan' is no number of days"),
        (("create", "--user", "ada", "--days", "3651"), "'3651' is no number of days"),
        (("create", "ada"), "create takes no ID"),
        (("list", "--user", "ada"), "list takes no --user"),
        (("revoke",), "revoke needs ID"),
        (("revoke", "x" * 12, "nonsense"), "nonsense… is no id of a key: everstream key list shows them"),
        (("list", "--prot", "1"), "there is no flag --prot; did you mean --port?"),
        (("list", "--port", "x"), "port = 'x' (flag --port): should be a whole number"),
        (("list", "--store", "memory://"), "memory:// is gone with its process"),
    ],
)
def test_wrong_usage_is_said_clearly_and_starts_no_store(
    given: tuple[str, ...], said: str, say: Callable[..., Said], tmp_path: Path
) -> None:
    code, out, err = say(*given)
    assert (code, out, said in err) == (Exit.USAGE, "", True), err
    assert err.startswith("everstream key: ")
    assert not (tmp_path / "data").exists()


def test_a_user_that_cannot_be_shown_is_wrong_usage(say: Callable[..., Said]) -> None:
    code, out, err = say("create", "--user", "ada\nbob")
    assert (code, out) == (Exit.USAGE, "")
    assert err == "everstream key: a user is 1 to 256 characters that can be shown in one line\n"


def test_a_store_that_does_not_answer_is_exit_3(say: Callable[..., Said], tmp_path: Path) -> None:
    code, out, err = say("list", "--store", f"unix://{tmp_path}/no.sock")
    assert (code, out) == (Exit.STORE, "")
    assert "no answer from the store" in err.splitlines()[-1]
    assert "Traceback" not in err


async def test_whoever_ends_the_command_ends_the_store_that_it_started(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")

    async def told_to_stop(store: Store) -> int:
        assert (await embedded.status(settings.data_dir)).server is not None
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "it would end the tests"
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    try:
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(at_store._apart(settings, told_to_stop))
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert (await embedded.status(settings.data_dir)).server is None


# --------------------------------------------------------------------------- beside servers


@pytest.fixture
async def seats(tmp_path: Path) -> AsyncIterator[tuple[StoreServer, list[Seat]]]:
    """A store of one's own, and two nodes that live on it."""
    server = StoreServer(find_binary(None), tmp_path)
    seats = [Seat(ValkeyStore(server.unix_url), f"n_{number}") for number in range(2)]
    try:
        await server.start()
        for seat in seats:
            await seat.store.open(seat.node, seat.pushes.append, seat.messages.append)
            await seat.store.renew(60_000)
        yield server, seats
    finally:
        for seat in seats:
            await seat.store.close()
        server.kill()


async def test_every_server_of_a_shared_store_is_told(seats: tuple[StoreServer, list[Seat]]) -> None:
    server, (one, two) = seats
    code, out, _ = await apart("create", "--user", "ada", "--store", server.tcp_url)
    assert code == 0
    principal = await Keys(one.store).find(out.strip())
    assert principal is not None
    code, out, _ = await apart("revoke", "--store", server.tcp_url, principal.proof[4:], ABSENT)
    assert (code, out) == (Exit.FAILED, f"{principal.proof[4:]} is revoked; 2 servers told\n")
    messages = [f"revoked {principal.proof}".encode(), f"revoked key:{ABSENT}".encode()]
    await until(lambda: one.messages == two.messages == messages)
    assert not await Keys(two.store).holds(principal.proof)
    assert await one.store.nodes() == {"n_0", "n_1"}, "the command takes no part"


async def connected(url: str, key: str | None) -> Any:
    async with client_of(url, hello=False) as client:
        return await client.ask("hello", token=key)


async def test_beside_a_running_server_a_key_works_at_once_and_closes_what_it_opened(tmp_path: Path) -> None:
    data_dir = tmp_path / "served"
    given = ("--data-dir", str(data_dir))
    async with running_server(data_dir, "--auth", "keys") as server:
        before = (await embedded.status(data_dir)).server
        code, key, _ = await apart("create", "--user", "ada", "--name", "Ada", *given)
        assert (code, KEY.fullmatch(key) is not None) == (0, True)
        async with client_of(server.ws_url, hello=False) as client:
            welcome = await client.ask("hello", token=key.strip())
            assert (welcome["type"], welcome["user"]) == ("welcome", {"id": "ada", "name": "Ada"})
            for other in (None, key.strip()[:-1] + "!", f"es_{ABSENT}_{'x' * 43}"):
                assert (await connected(server.ws_url, other))["type"] == "error"
            code, out, _ = await apart("revoke", key[3:15], *given)
            assert (code, out) == (0, f"{key[3:15]} is revoked; 1 server told\n")
            async with asyncio.timeout(WAIT_S):
                assert 4500 <= await client.closed() <= 4999, "do not come back"
        assert (await connected(server.ws_url, key.strip()))["code"] == "auth.denied"
        after = await embedded.status(data_dir)
        assert before is not None
        assert after.server is not None
        assert (after.server.pid, after.in_use) == (before.pid, True), "the server's store is left alone"
        status, _ = await asyncio.to_thread(server.get, "/readyz")
        assert status == 200
        assert key[-44:-1] not in server.log_text()
    held = bytes_under(tmp_path)
    assert key[3:15].encode() in held, "the store was looked for in the wrong place"
    assert key[-44:-1].encode() not in held


def test_the_usage_of_key_names_every_action() -> None:
    assert all(action in USAGE for action in ACTIONS)
