"""Canaries: words that occur nowhere else are put into all that a client, a provider or a tool may say, and are looked
for wherever an operator, or another client, can look.

What must be nowhere: keys and tokens, also those of providers, and what people and models say.  What may be in the log:
the ids of users, and the origin of a page that was refused, which is how the search is shown to find anything at all.
Each canary is first found in what reached the application, or the provider behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import msgpack
import pytest
from redis.asyncio import Redis
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.server import HOST, ServerProcess
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from everstream.gateway.openapi import ROWS
from everstream.store import embedded

HERE = Path(__file__).resolve()
MARK = f"cnry{secrets.token_hex(4)}"  # what all canaries begin with
SECRET = f"{MARK}jwtsecret" + "x" * 32
WAIT_S = 15.0
MSGPACK = "everstream.v1.msgpack"
ANSWER_BYTES = 65_536


def canary(kind: str) -> str:
    return MARK + kind


def found(text: str | bytes, words: list[str]) -> list[str]:
    """Which canaries, and which of the given secrets, are somewhere in a text, with a little of what is around."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    return [text[max(0, at.start() - 80) : at.end() + 40] for word in (MARK, *words) for at in re.finditer(word, text)]


def answer_of(asked: Asked) -> Reply:
    """What the provider says: words, a call of a tool, or an error that repeats all it was sent."""
    said = asked.body.decode()
    if "refuse" in said:
        text = f"{canary('providererror')} {asked.headers.get('authorization')} {said}"
        return Reply(json.dumps({"error": {"message": text, "code": text}}).encode(), 400, framing="length")
    delta: dict[str, Any] = {"content": f"{canary('answer')} "}
    if '"tool"' not in said and "use a tool" in said:
        calls = [
            {"index": n, "id": f"call_{n}", "type": "function",
             "function": {"name": name, "arguments": json.dumps({"text": canary("toolargument")})}}
            for n, name in enumerate(("failing", "odd", canary("toolname")))
        ]  # fmt: skip
        delta = {"tool_calls": calls}
    end = "" if "break" in said else 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    if "garble" in said:
        end = f'data: {{"error": {{"message": "{canary("streamerror")}"}}}}\n\ndata: {{{canary("garbled")}\n\n'
    return Reply(f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n{end}".encode())


class Town:
    """A server with everybody around it: who sends canaries, and one who sends none."""

    def __init__(self, server: ServerProcess, provider: WireServer, seen: Path) -> None:
        self.server = server
        self.provider = provider
        self.seen = seen
        self.key = ""
        expiry = int(time.time()) + 3600
        self.token = jwt.encode({"sub": "ann", "name": canary("username"), "exp": expiry}, SECRET, "HS256")
        self.wrong_token = jwt.encode({"sub": canary("wrongsub"), "exp": expiry}, SECRET + "wrong", "HS256")
        self.bystander = jwt.encode({"sub": "bob", "name": "Bob", "exp": expiry}, SECRET, "HS256")
        self.names: set[str] = set()  # of streams and sessions that there are

    @property
    def words(self) -> list[str]:
        """What is secret, and cannot begin as the canaries do."""
        tokens = (self.token, self.wrong_token, self.bystander)
        return [self.key[-43:], *(part for token in tokens for part in token.split(".")[1:])]

    async def make_key(self) -> None:
        command = [sys.executable, "-m", "everstream", "key", "create", "--user", "ann", "--data-dir"]
        making = await asyncio.create_subprocess_exec(
            *command, str(self.server.data_dir), env=self.server.env, cwd=self.server.data_dir.parent,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(making.communicate(), WAIT_S)
        self.key = out.decode().strip()

    async def talk(self, frames: list[Any], token: str, subprotocol: str | None = None, **headers: str) -> list[Any]:
        """Say these frames after `hello`; all that is answered until each has had its reply."""
        packed = subprotocol == MSGPACK
        said: list[Any] = []
        offered: Any = [subprotocol] if subprotocol else None
        with contextlib.suppress(ConnectionClosed):
            async with connect(self.server.ws_url, subprotocols=offered, additional_headers=headers) as socket:
                for frame in [{"type": "hello", "token": token, "client": canary("client")}, *frames]:
                    if isinstance(frame, dict):
                        frame = msgpack.packb(frame) if packed else json.dumps(frame)
                    await socket.send(frame)
                    async with asyncio.timeout(WAIT_S):
                        while True:
                            data = await socket.recv()
                            said.append(msgpack.unpackb(data) if isinstance(data, bytes) else json.loads(data))
                            if said[-1]["type"] in ("welcome", "error", "ok", "accepted", "cancelled", "pong"):
                                break
                    if said[-1].get("stream") and said[-1]["type"] == "accepted":
                        said += await self._until_ended(socket, said[-1]["stream"], packed)
        self.names.update(str(frame[name]) for frame in said for name in ("stream", "session") if frame.get(name))
        return said

    async def _until_ended(self, socket: Any, stream: str, packed: bool) -> list[Any]:
        frames: list[Any] = []
        async with asyncio.timeout(WAIT_S):
            while not frames or frames[-1].get("stream") != stream or frames[-1]["type"] != "stream_end":
                data = await socket.recv()
                frames.append(msgpack.unpackb(data) if packed else json.loads(data))
        return frames

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """One request on a connection of its own: the status and what comes of the answer within a while."""
        names = {"host": f"{HOST}:{self.server.port}", "content-type": "application/json", "connection": "close"}
        names |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in names.items())]
        reader, writer = await asyncio.open_connection(HOST, self.server.port)
        try:
            writer.write("\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode("latin-1") + body)
            answer = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3 if path.startswith("/v1/events") else WAIT_S):
                    while len(answer) < ANSWER_BYTES and (piece := await reader.read(ANSWER_BYTES)):
                        answer += piece
        finally:
            writer.close()
        return int(answer.split(b" ", 2)[1]), answer


@contextlib.asynccontextmanager
async def town_of(tmp_path: Path, log_format: str) -> AsyncIterator[Town]:
    seen = tmp_path / "seen"
    async with WireServer() as provider:
        provider.reply = answer_of
        section = {"base_url": f"{provider.url}/v1", "api": "chat", "api_key": canary("providerkey"), "models": ["m"]}
        env = {
            "CANARY_SEEN": str(seen),
            "EVERSTREAM_AUTH": "keys,jwt",
            "EVERSTREAM_JWT_SECRET": SECRET,
            "EVERSTREAM_ENDPOINTS": json.dumps({"paid": section}),
            "EVERSTREAM_DISCOVER": "false",
            "EVERSTREAM_DRAIN_MS": "0",
            "EVERSTREAM_GOAWAY_SPREAD_MS": "0",
            "EVERSTREAM_LOG_LEVEL": "debug",
            "EVERSTREAM_LOG_FORMAT": log_format,
            "EVERSTREAM_BODY_TIMEOUT_S": "0.5",
            "EVERSTREAM_PROVIDER_MAX_RETRIES": "0",
            "EVERSTREAM_CARRY_ON_ATTEMPTS": "1",
        }
        server = ServerProcess(tmp_path / "data", args=["tests.gateway.canary_app:app"], env=env)
        server.env["PYTHONPATH"] += os.pathsep + str(HERE.parents[2])
        town = Town(server, provider, seen)
        try:
            await asyncio.to_thread(server.start)
            await town.make_key()
            yield town
        finally:
            await asyncio.to_thread(server.close)


# --------------------------------------------------------------------------- what is said


def generations() -> list[dict[str, Any]]:
    """The same words to each model: those that fail and those that answer."""
    prompt = [
        {"role": "system", "content": canary("system")},
        {"role": "user", "content": canary("prompt")},
    ]
    models = ("paid/m", "app/fails", "app/breaks", "app/blocks", "scripted/echo", f"paid/{canary('model')}",
              f"nobody/{canary('nomodel')}")  # fmt: skip
    params = {"system": canary("paramsystem"), "metadata": {"note": canary("metadata")}, "stop": [canary("stop")]}
    asked = [
        {"type": "generate", "model": model, "messages": prompt, "request_id": f"{canary('requestid')}{n}",
         "params": params if "/m" in model or model.startswith("app/") else {"rate": 0}}
        for n, model in enumerate(models)
    ]  # fmt: skip
    provoked = [
        {"type": "generate", "model": "paid/m", "messages": [{"role": "user", "content": f"{what} {canary('prompt')}"}]}
        for what in ("refuse", "break", "garble")
    ]
    return [*asked, *provoked]


def conversation() -> list[dict[str, Any]]:
    asked = {"content": f"use a tool {canary('content')}", "model": "paid/m"}
    return [
        {"type": "session.create", "title": canary("title"), "system": canary("sessionsystem"),
         "members": [{"user": "eve", "role": "viewer"}]},
        {"type": "generate", **asked, "request_id": canary("sessionrequest")},
        {"type": "typing", "session": "s_none" + canary("session"), "typing": True},
    ]  # fmt: skip


def nonsense() -> list[Any]:
    return [
        {"type": canary("command")},
        {"type": "generate", "model": [canary("wrongtype")]},
        {"type": "generate", "model": "paid/m", "messages": [{"role": canary("role"), "content": 5}]},
        {"type": "subscribe", "stream": "r_" + canary("stream")},
        {"type": "session.open", "session": canary("session"), canary("field"): 1},
        {"type": "tool_result", "session": canary("s"), "stream": canary("r"),
         "results": [{"call_id": canary("callid"), "content": canary("toolresult")}]},
        {"type": "auth", "token": canary("authtoken")},
        {"type": "ping", canary("ping"): canary("ping")},
    ]  # fmt: skip


async def over_the_websocket(town: Town) -> None:
    for subprotocol, token in ((None, town.token), (MSGPACK, town.key)):
        answered = await town.talk([*generations(), *conversation(), *nonsense()], token, subprotocol)
        kinds = {frame["type"] for frame in answered}
        assert {"welcome", "accepted", "error", "pong", "stream_end"} <= kinds
    await town.talk(['{"type": "' + canary("brokenjson")], town.token)
    await town.talk([b"\x81\xa4type\xc1" + canary("brokenpack").encode()], town.key, MSGPACK)
    with contextlib.suppress(TimeoutError):
        await town.talk(["x" * 1_100_000 + canary("toolarge")], town.token)
    for token in (town.wrong_token, canary("wrongtoken"), f"es_{'a' * 12}_{canary('wrongkey')}"):
        assert (await town.talk([], token))[-1]["code"] == "auth.denied"
    await town.talk([], town.token, **{"User-Agent": canary("agent"), "Cookie": f"a={canary('cookie')}"})
    for sent in ({"Authorization": f"Bearer {canary('upgradetoken')}"}, {"Origin": "https://origin.example"}):
        with contextlib.suppress(InvalidStatus):
            await town.talk([], "", **sent)


async def over_http(town: Town) -> None:
    """Every route, with canaries wherever there is room: allowed and not, well formed and not."""
    body = {
        "model": "paid/m", "messages": [{"role": "user", "content": canary("httpprompt")}],
        "title": canary("httptitle"), "content": canary("httpcontent"),
        canary("httpfield"): canary("httpvalue"), "user": canary("httpuser"),
        "metadata": {"a": canary("httpmetadata")}, "role": "viewer", "id": canary("chat"),
    }  # fmt: skip
    bodies = [json.dumps(body).encode(), b'{"model": "' + canary("httpbroken").encode(), b'{"messages": "%b"}' %
              canary("httpwrongtype").encode()]  # fmt: skip
    shown = [{"authorization": f"Bearer {town.token}"}, {"x_api_key": town.key}, {"x_api_key": town.key},
             {"x_api_key": canary("xapikey")},
             {"authorization": f"Basic {canary('basic')}"}]  # fmt: skip
    more = {
        "cookie": f"c={canary('httpcookie')}", "user_agent": canary("httpagent"),
        "idempotency_key": canary("idempotent"), "last_event_id": f"r_{canary('lasteventid')}:4",
        "x_request_id": canary("xrequestid"),
    }  # fmt: skip
    statuses = set()
    for row in ROWS:
        path = re.sub(r"\{(\w+)\}", lambda name: canary("path" + name[1]), row.path)
        query = f"?token={canary('querytoken')}&prompt={canary('queryprompt')}&model=paid/m&offset=1&at={canary('at')}"
        for n, who in enumerate(shown):
            sent = bodies[n % len(bodies)] if row.method != "GET" else b""
            status, _ = await town.ask(row.method, path + query, sent, **who, **(more if n < 3 else {}))
            statuses.add(status)
    assert {200, 400, 401, 404} <= statuses
    refusing = b'{"model":"paid/m","messages":[{"role":"user","content":"refuse %b"}]}' % canary("refused").encode()
    for path in ("/v1/chat/completions", "/api/chat"):
        await town.ask("POST", path, refusing, **shown[0])
    await town.ask("GET", f"/{canary('nopath')}?q={'x' * 70_000}")
    await town.ask("GET", "/healthz", x_long=canary("longhead") + "x" * 20_000)
    await town.ask("GET", "/v1/models", origin=f"https://refused-{MARK[4:]}.example", **shown[0])


async def without_a_store(town: Town) -> None:
    """The store is killed while somebody speaks; the server puts another in its place."""
    status = await embedded.status(town.server.data_dir)
    assert status.server is not None
    os.kill(status.server.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await town.talk([{"type": "generate", "model": "paid/m", "request_id": canary("lostrequest"),
                          "messages": [{"role": "user", "content": canary("lostprompt")}]}], town.token)  # fmt: skip
    await asyncio.to_thread(town.server.wait_ready)


# --------------------------------------------------------------------------- where it is looked for


async def overheard(town: Town) -> str:
    """What somebody else is told who asks for all that there is."""
    commands: list[Any] = []
    for name in sorted(town.names):
        kind = "stream" if name.startswith("r_") else "session"
        verbs = ("subscribe", "cancel") if kind == "stream" else ("session.open", "session.history", "session.delete")
        commands += [{"type": verb, kind: name} for verb in verbs]
    said = await town.talk([*commands, {"type": "session.list"}, {"type": "models"}], town.bystander)
    own = [frame for frame in said if frame["type"] not in ("welcome", "pong")]
    assert sum(frame["type"] == "error" for frame in own) >= len(town.names)
    pages = [await town.ask("GET", path) for path in ("/metrics", "/healthz", "/readyz")]
    assert [status for status, _ in pages] == [200] * 3
    return json.dumps(own) + "".join(page.decode() for _, page in pages)


async def kept_names(town: Town) -> tuple[bytes, bytes]:
    """All names of keys in the store; and the rows of its tables."""
    status = await embedded.status(town.server.data_dir)
    async with Redis(unix_socket_path=str(status.socket_path)) as redis:
        names = [name async for name in redis.scan_iter(count=1000)]
        tables = [await redis.hgetall(name) for name in names if b":t:" in name]
    assert len(names) > 20
    assert tables
    return b"\n".join(names), repr(tables).encode()


def arguments_of_processes(town: Town) -> str:
    """The command lines of the server and of the store."""
    folder = str(town.server.data_dir)
    said = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            said.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    ours = [line for line in said if folder in line]
    assert ours, "the server is not among the processes"
    return "\n".join(ours)


async def reached(town: Town) -> None:
    """Every canary that was made has reached the application, or the provider behind it, or came from there."""
    seen = town.seen.read_bytes() + b"".join(repr(asked).encode() for asked in town.provider.requests)
    made = set(re.findall(r"canary\(.(\w+).\)", HERE.read_text(encoding="utf-8")))
    of_the_provider = {"answer", "providererror", "streamerror", "garbled", "toolargument", "toolname"}
    refused_at_the_door = {"nopath", "longhead", "toolarge"}  # the heads and frames that are too large
    in_a_token = {"username", "wrongsub"}
    missing = {kind for kind in made - refused_at_the_door - of_the_provider - in_a_token if
               (MARK + kind).encode() not in seen}  # fmt: skip
    assert not missing
    bodies = b"".join(asked.body for asked in town.provider.requests)
    assert b"refuse " in bodies
    assert b"garble " in bodies
    assert canary("toolargument").encode() in bodies, "the call came back to the provider with its result"
    assert all(token.encode() in seen for token in (town.token, town.wrong_token, town.key))


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_no_key_no_token_and_no_word_is_where_others_can_look(tmp_path: Path, log_format: str) -> None:
    async with town_of(tmp_path, log_format) as town:
        await over_the_websocket(town)
        await over_http(town)
        await without_a_store(town)
        await reached(town)
        places = {"what others are told": await overheard(town), "arguments": arguments_of_processes(town)}
        places["names of keys"], places["tables"] = await kept_names(town)
        await asyncio.to_thread(town.server.terminate)
        data = b"".join(path.read_bytes() for path in town.server.data_dir.rglob("*") if path.is_file())
        assert canary("prompt").encode() in data, "what is kept was looked at"
        kept = {word for word in (*town.words, SECRET, canary("providerkey")) if word.encode() in data}
        assert not kept
        places["log"] = town.server.log_text()
        assert "a request failed" not in places["log"]
        assert "a generation failed" in places["log"], "models have failed"
        assert "a tool failed" in places["log"]
        assert f"refused-{MARK[4:]}.example" in places["log"], "what may be logged is found"
        leaks = {where: found(text, town.words) for where, text in places.items()}
        assert not {where: list(dict.fromkeys(leak))[:30] for where, leak in leaks.items() if leak}


def test_the_search_finds_what_is_put_in_a_log() -> None:
    line = f'{{"event": "a turn cannot begin", "error": "no {canary("prompt")}"}}'
    assert len(found(line, [])) == 1
    assert len(found(line.encode(), [])) == 1
    assert len(found(f"token={'s' * 43}", ["s" * 43])) == 1
    assert not found("a quiet line", ["s" * 43])
