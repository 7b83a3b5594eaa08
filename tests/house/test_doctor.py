"""The doctor: what it finds, and that it says what to do."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from everstream import doctor
from everstream.cli import main
from everstream.config import load
from everstream.doctor import Finding, Verdict, as_json, as_text, examine, healthy
from everstream.providers.discovery import USUAL
from everstream.providers.presets import PRESETS
from everstream.settings import Settings
from everstream.store.embedded import attach, status

SOUND = {"valkey_version": "9.1.2", "role": "master", "aof_enabled": "1", "maxmemory_policy": "noeviction"}


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    keys = {variable for row in PRESETS.values() for variable in (*row.key_envs, row.address_env, "OLLAMA_API_KEY")}
    for variable in [name for name in os.environ if name.upper().startswith("EVERSTREAM_") or name in keys]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(doctor, "USUAL", ())  # whatever runs on this machine
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERSTREAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("EVERSTREAM_PORT", "0")
    yield
    structlog.reset_defaults()


@asynccontextmanager
async def answering(reply: bytes, *, close: bool = False) -> AsyncIterator[int]:
    """A server that gives the same reply to whatever it is told, for ever or once; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4_096):
            writer.write(reply)
            if close:
                break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def info_reply(fields: dict[str, str]) -> bytes:
    text = "# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in fields.items())
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


async def named(check: str, **flags: str) -> Finding:
    (finding,) = [finding for finding in await examine(flags) if finding.check == check]
    return finding


async def test_a_sound_machine_has_no_problem_and_keeps_nothing_running(tmp_path: Path) -> None:
    findings = await examine()
    assert healthy(findings), as_text(findings)
    assert [finding.check for finding in findings] == [
        "python", "open files", "settings", "host", "auth", "port", "data dir", "store", "nodes", "providers",
    ]  # fmt: skip
    assert (await status(tmp_path / "data")).server is None


async def test_every_finding_that_is_not_good_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    monkeypatch.setattr(doctor, "GOOD_OPEN_FILES", 10**9)
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 10**18)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("everstream.store.folder._packaged_binary", lambda: None)
    findings = await examine({"host": "203.0.113.7", "port": "9", "lead": "false"})
    bad = {finding.check for finding in findings if finding.verdict is not Verdict.OK}
    assert bad == {finding.check for finding in findings} - {"settings", "auth"}
    assert all(finding.advice for finding in findings if finding.verdict is not Verdict.OK)


async def test_wrong_settings_are_told_and_what_depends_on_them_is_left_out() -> None:
    findings = await examine({"port": "x", "linger_s": "y"})
    assert [finding.check for finding in findings] == ["python", "open files", "settings"]
    assert findings[-1].verdict is Verdict.PROBLEM
    assert "port = 'x' (flag --port)" in findings[-1].found
    assert "linger_s = 'y' (flag --linger-s)" in findings[-1].found


async def test_a_taken_port_is_a_problem() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        finding = await named("port", port=port)
    assert finding.verdict is Verdict.PROBLEM
    assert finding.advice.startswith("Another server listens there")
    assert (await named("port", port=port)).verdict is Verdict.OK


async def test_a_host_that_is_no_address_is_a_problem() -> None:
    finding = await named("port", host="no such host", port="1234")
    assert (finding.verdict, finding.advice) == (Verdict.PROBLEM, "Correct host.")


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        ({}, Verdict.OK),
        ({"host": "0.0.0.0"}, Verdict.PROBLEM),
        ({"host": "0.0.0.0", "insecure": "true"}, Verdict.WARNING),
        ({"host": "0.0.0.0", "auth": "keys"}, Verdict.OK),
        ({"host": "0.0.0.0", "auth": "jwt", "jwt_secret": "x" * 32}, Verdict.OK),
    ],
)
async def test_an_open_server_is_a_problem_unless_it_is_meant(flags: dict[str, str], verdict: Verdict) -> None:
    finding = await named("host", **flags)
    assert (finding.verdict, "this machine only" in finding.found) == (verdict, not flags)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({}, "nobody has to prove who they are"),
        ({"auth": "keys", "jwt_jwks_url": "http://127.0.0.1:9/"}, "API keys"),
        ({"auth": "keys,jwt", "jwt_secret": "hidden" * 6}, "API keys and tokens signed with jwt_secret"),
    ],
)
async def test_it_is_said_by_what_clients_prove_who_they_are(flags: dict[str, str], found: str) -> None:
    assert await named("auth", **flags) == Finding("auth", Verdict.OK, found)


async def test_keys_that_cannot_be_fetched_are_missed_before_the_first_client_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(doctor, "KEYS_WAIT_S", 0.5)
    key = '{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
    bodies = {f'{{"keys": [{key}]}}': "tokens signed with one of 1 keys at", "{}": "keys", "[": "Expecting value"}
    for body, said in bodies.items():
        reply = f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        async with answering(reply.encode(), close=True) as port:
            finding = await named("auth", auth="jwt", jwt_jwks_url=f"http://127.0.0.1:{port}/")
        assert (finding.verdict is Verdict.OK, said in finding.found) == (key in body, True), finding
    async with answering(b"") as port:
        finding = await named("auth", auth="keys,jwt", jwt_jwks_url=f"http://127.0.0.1:{port}/?key=hidden")
    assert finding.verdict is Verdict.WARNING
    assert finding.found.startswith(f"API keys; http://127.0.0.1:{port}/?key=********: ")
    assert "EVERSTREAM_JWT_JWKS_URL" in finding.advice


async def test_a_data_directory_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings = await examine({"data_dir": str(tmp_path / "file" / "data")})
    verdicts = {finding.check: finding.verdict for finding in findings}
    assert (verdicts["data dir"], verdicts["store"]) == (Verdict.PROBLEM, Verdict.PROBLEM)


@pytest.mark.parametrize(
    ("free_bytes", "verdict"), [(10_000_000, Verdict.PROBLEM), (10**9, Verdict.WARNING), (10**10, Verdict.OK)]
)
def test_a_full_disk_is_seen_before_it_is_full(
    free_bytes: int, verdict: Verdict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(free_bytes))
    assert doctor.check_data_dir(Settings(data_dir=tmp_path / "not" / "made")).verdict is verdict


async def test_a_store_that_runs_is_looked_at_and_left_alone(tmp_path: Path) -> None:
    share = await attach(tmp_path / "data")
    finding = await named("store")
    assert finding == Finding("store", Verdict.OK, f"embedded, valkey 9.1.2 runs as process {share.pid}")
    found = await status(tmp_path / "data")
    assert found.server is not None
    await share.detach()


async def test_an_embedded_store_that_does_not_start_is_a_problem_with_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "odd"
    program.write_text("#!/bin/sh\necho wrong machine; exit 1\n")
    program.chmod(0o755)
    finding = await named("store", valkey_bin=str(program))
    assert finding.verdict is Verdict.PROBLEM
    assert "refused to start (exit code 1): wrong machine" in finding.found


async def test_a_real_server_behind_an_url_is_asked(tmp_path: Path) -> None:
    share = await attach(tmp_path / "other")
    finding = await named("store", store=share.url)
    await share.detach()
    assert (finding.verdict, finding.advice) == (Verdict.OK, "")
    assert finding.found.endswith("store.sock: valkey 9.1.2")


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({}, Verdict.OK, ""),
        ({"valkey_version": "7.2.0"}, Verdict.OK, ""),
        ({"valkey_version": "7.1.9"}, Verdict.PROBLEM, "Upgrade it"),
        ({"role": "slave"}, Verdict.PROBLEM, "Name the primary"),
        ({"aof_enabled": "0"}, Verdict.WARNING, "set its appendonly to yes"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": "1000"}, Verdict.WARNING, "noeviction"),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": "0"}, Verdict.OK, ""),
    ],
)
async def test_a_server_that_would_lose_streams_is_told_apart(
    changed: dict[str, str], verdict: Verdict, said: str
) -> None:
    async with answering(info_reply(SOUND | changed)) as port:
        finding = await named("store", store=f"redis://127.0.0.1:{port}")
    assert finding.verdict is verdict
    assert said in finding.advice


@pytest.mark.parametrize(("version", "verdict"), [("6.2.14", Verdict.PROBLEM), ("7.0.15", Verdict.OK)])
async def test_the_oldest_redis_is_7_0(version: str, verdict: Verdict) -> None:
    fields = {name: value for name, value in SOUND.items() if name != "valkey_version"}
    async with answering(info_reply(fields | {"redis_version": version})) as port:
        finding = await named("store", store=f"redis://127.0.0.1:{port}")
    assert finding.verdict is verdict


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"-NOAUTH Authentication required.\r\n", "refuses: NOAUTH Authentication required."),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer: this is not a Redis or Valkey server"),
        (b"$999999999\r\n", "does not answer: this is not a Redis or Valkey server"),
    ],
)
async def test_a_server_that_refuses_or_is_another_kind_is_said_clearly(reply: bytes, said: str) -> None:
    async with answering(reply) as port:
        finding = await named("store", store=f"redis://127.0.0.1:{port}")
    assert finding.verdict is Verdict.PROBLEM
    assert said in finding.found


async def test_a_silent_server_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "STORE_WAIT_S", 0.05)
    async with answering(b"") as port:
        finding = await named("store", store=f"redis://127.0.0.1:{port}")
    assert "does not answer: no answer within" in finding.found


async def test_the_password_is_sent_and_never_shown(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await reader.read(4_096):
            heard.append(words)
            writer.write(b"-WRONGPASS invalid username-password pair\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        findings = await examine({"store": f"redis://me:s%40cret@127.0.0.1:{port}"})
    assert b"AUTH\r\n$2\r\nme\r\n$6\r\ns@cret\r\n" in b"".join(heard)
    shown = as_text(findings) + as_json(findings)
    assert "WRONGPASS" in shown
    assert "cret" not in shown


async def test_a_store_that_forgets_is_a_warning() -> None:
    finding = await named("store", store="memory://")
    assert (finding.verdict, finding.found) == (Verdict.WARNING, "memory: every stream is gone with the server")


async def test_an_url_of_no_store_is_a_problem() -> None:
    finding = await named("store", store="mysql://h")
    assert finding.verdict is Verdict.PROBLEM
    assert "redis://host:port/db" in finding.advice


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("EVERSTREAM_OPENAI_API_KEY", "openai (key from the settings)"),
        ("EVERSTREAM_ENDPOINTS__GROQ__API_KEY", "groq (key from the settings)"),
        ("OPENAI_API_KEY", "openai (key from OPENAI_API_KEY)"),
        ("GOOGLE_API_KEY", "gemini (key from GOOGLE_API_KEY)"),
        ("MISTRAL_API_KEY", "mistral (key from MISTRAL_API_KEY)"),
    ],
)
async def test_one_key_is_enough(variable: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await named("providers")).verdict is Verdict.WARNING
    monkeypatch.setenv(variable, "sk-hidden")
    finding = await named("providers")
    assert (finding.verdict, finding.found.splitlines()[0]) == (Verdict.OK, said)
    assert "sk-hidden" not in finding.found


async def test_every_service_that_wants_something_says_what() -> None:
    found = (await named("providers")).found
    assert found.startswith("none has a key\non this machine: no server of models found\nnot usable: local: run")
    assert all(
        f"{name}: set {row.key_envs[0]}" in found for name, row in PRESETS.items() if row.key_envs[:1] and row.base_url
    )
    assert "azure: set AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY" in found
    assert "on this machine: servers of models are not looked for" in (await named("providers", discover="false")).found


async def test_a_local_model_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "has_engine", lambda: True)
    (tmp_path / "data" / "models").mkdir(parents=True)
    (tmp_path / "data" / "models" / "tiny.gguf").write_bytes(b"")
    finding = await named("providers")
    assert (finding.verdict, "on this machine: local/tiny" in finding.found) == (Verdict.OK, True)
    assert "local: run" not in finding.found


async def test_a_server_of_this_machine_is_found_and_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(b'HTTP/1.0 200 OK\r\n\r\n{"data": [{"id": "m", "owned_by": "vllm"}]}', close=True) as port:
        place = next(place for place in USUAL if place.name == "vllm")
        monkeypatch.setattr(doctor, "USUAL", [replace(place, base_url=f"http://127.0.0.1:{port}/v1")])
        finding = await named("providers")
    assert finding.verdict is Verdict.OK
    assert f"on this machine: vllm (http://127.0.0.1:{port}/v1)" in finding.found


async def test_a_service_of_ones_own_needs_no_key() -> None:
    finding = await named("providers", openai_base_url="http://me:hidden@127.0.0.1:1/v1")
    assert finding.verdict is Verdict.OK
    assert finding.found.startswith("openai (http://me:********@127.0.0.1:1/v1, no key)\n")


@pytest.mark.parametrize(
    ("limits", "verdict", "said"),
    [
        ((256, 10_000), Verdict.WARNING, "ulimit -n 10000"),
        ((1_024, resource.RLIM_INFINITY), Verdict.WARNING, "ulimit -n 65536"),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), Verdict.OK, ""),
        ((65_536, 65_536), Verdict.OK, ""),
    ],
)
def test_few_open_files_are_a_warning(
    limits: tuple[int, int], verdict: Verdict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    finding = doctor.check_open_files()
    assert finding.verdict is verdict
    assert said in finding.advice


@pytest.mark.parametrize(
    ("flags", "verdict", "said"),
    [
        ({"workers": "2"}, Verdict.OK, "2 nodes"),
        ({"workers": "99"}, Verdict.WARNING, "only take turns: 8 are enough"),
        ({"workers": "2", "store": "memory://"}, Verdict.PROBLEM, "use embedded://"),
        ({"lead": "false"}, Verdict.WARNING, "EVERSTREAM_LEAD=true"),
        ({"lead": "false", "store": "memory://"}, Verdict.WARNING, "EVERSTREAM_LEAD=true"),
        ({"lead": "false", "store": "redis://127.0.0.1:9/0"}, Verdict.OK, "models run on others"),
    ],
)
def test_nodes_are_of_use_to_somebody(
    flags: dict[str, str], verdict: Verdict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    finding = doctor.check_nodes(load(flags).settings)
    assert finding.verdict is verdict
    assert said in finding.found + finding.advice


def test_the_command_exits_0_when_a_server_would_work_and_1_when_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "A server works here." in capsys.readouterr().out
    assert main(["doctor", "--host", "0.0.0.0"]) == 1
    assert "A server would not work. Problems: 1" in capsys.readouterr().out


def test_the_json_is_json_and_agrees_with_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--port", "x"]) == 1
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert said["findings"][-1]["verdict"] == "problem"
