"""An application inside others, under a server that is not ours: start, stop, prefixes, and what is served there."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.gateway.applications import QUICK, under_ours, under_uvicorn
from tests.gateway.conftest import client_of, count_text
from tests.server import free_port
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import everstream
from everstream import App, ModelStream, Request, Settings, create_app
from everstream.cli import main
from everstream.config import ConfigError
from everstream.gateway import server as gateway_server


async def says(request: Request, stream: ModelStream) -> AsyncIterator[str]:
    yield "You said "
    yield str(request.messages[-1].content)


def app_of(**more: Any) -> App:
    return create_app(QUICK, {"says": says}, **more)


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def asked(address: str) -> str:
    """What the model says at a WebSocket's address."""
    async with client_of(address) as client:
        stream = await client.generate("app/says")
        assert (await client.ended(stream))["reason"] == "complete"
        return client.streams[stream].text


async def served(place: str) -> None:
    """Everything that is served at `host:port/prefix` is."""
    assert await asked(f"ws://{place}/ws") == "You said hello"
    status, page = await get(f"http://{place}/")
    assert (status, "<title>Everstream</title>" in page) == (200, True)
    named = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(named) >= 3
    assert all(name.startswith("./") for name in named), "what the page names lies beside it, whatever stands before"
    for path in ("healthz", "readyz", "metrics", *named):
        assert (await get(f"http://{place}/{path}"))[0] == 200, path


async def test_any_asgi_server_runs_it_by_its_lifespan(capsys: pytest.CaptureFixture[str]) -> None:
    async with under_uvicorn(app_of()) as place:
        await served(place)
    assert "everstream starts with its first connection" not in "".join(capsys.readouterr())


async def test_our_own_server_runs_it_too() -> None:
    async with under_ours(app_of()) as place:
        await served(place)


@pytest.mark.parametrize("framework", [FastAPI, Starlette])
async def test_it_lives_inside_another_application_under_a_prefix(framework: Any) -> None:
    app = app_of()
    outer = framework(lifespan=app.lifespan)
    outer.mount("/chat", app)
    async with under_uvicorn(outer) as place:
        await served(f"{place}/chat")
        assert (await get(f"http://{place}/chat"))[0] == 200, "sent on to /chat/"
        assert (await get(f"http://{place}/healthz"))[0] == 404


async def test_it_lives_beside_another_in_a_lifespan_of_the_outer_application() -> None:
    told: list[str] = []
    one, two = app_of(), app_of()

    @contextlib.asynccontextmanager
    async def lifespan(outer: Starlette) -> AsyncIterator[None]:
        async with one.lifespan(outer), two.lifespan(outer):
            told.append("up")
            yield
        told.append("down")

    outer = Starlette(routes=[Mount("/one", one), Mount("/a/b", two)], lifespan=lifespan)
    async with under_uvicorn(outer) as place:
        await served(f"{place}/one")
        await served(f"{place}/a/b")
    assert told == ["up", "down"]


async def test_without_a_lifespan_it_starts_with_its_first_connection_and_says_so_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = app_of()
    outer = Starlette(routes=[Mount("/chat", app)])
    async with under_uvicorn(outer) as place, app_stopped(app):
        await asyncio.gather(*(asked(f"ws://{place}/chat/ws") for _ in range(5)))
        await served(f"{place}/chat")
    assert "".join(capsys.readouterr()).count("everstream starts with its first connection") == 1


@contextlib.asynccontextmanager
async def app_stopped(app: App) -> AsyncIterator[None]:
    """What nobody stops: a test must."""
    try:
        yield
    finally:
        async with app.lifespan():
            """It runs already, and ends here."""


async def test_a_store_that_is_away_refuses_and_says_why() -> None:
    app = App({"store": f"redis://127.0.0.1:{free_port()}/0"})
    async with under_uvicorn(Starlette(routes=[Mount("/chat", app)])) as place:
        status, body = await get(f"http://{place}/chat/healthz")
        assert (status, "store.unavailable" in body) == (503, True)
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{place}/chat/ws", proxy=None)
        assert refused.value.response.status_code == 503


async def test_what_was_stopped_starts_again_by_a_lifespan_and_not_by_itself() -> None:
    app = app_of()
    outer = Starlette(routes=[Mount("/chat", app)])
    async with under_uvicorn(outer) as place:
        for _ in range(2):
            async with app.lifespan():
                assert await asked(f"ws://{place}/chat/ws") == "You said hello"
            assert (await get(f"http://{place}/chat/healthz"))[0] == 503


async def test_a_stopping_application_lets_its_answers_end() -> None:
    app = create_app(QUICK | {"drain_ms": 5_000})
    ended: list[str] = []

    @app.model("slow")
    async def slow(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        for n in range(1, 51):
            yield f"{n} " if n < 50 else "50"
            await asyncio.sleep(0.005)  # pause: so that it is stopped in the middle
        ended.append("whole")

    async with under_uvicorn(app) as place, client_of(f"ws://{place}/ws") as client:
        await client.generate("app/slow")
        await client.until(lambda frame: frame["type"] == "delta_text")
    assert ended == ["whole"]
    assert count_text(50).startswith(client.streams.popitem()[1].text)


# --------------------------------------------------------------------------- what it is made of


def test_settings_are_given_as_such_or_as_a_mapping_or_read_when_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert App({"port": 1234}).settings == App(Settings(port=1234)).settings
    assert App().settings is None
    with pytest.raises(ValueError, match="port"):
        App({"port": "x"})
    monkeypatch.setenv("EVERSTREAM_PORT", "x")
    with pytest.raises(ConfigError, match="EVERSTREAM_PORT"):
        asyncio.run(started(App()))


async def started(app: App) -> None:
    async with app.lifespan():
        """It has started."""


def test_models_are_registered_once_by_either_way() -> None:
    app = create_app(models={"says": says})
    assert app.model("other")(says) is says
    with pytest.raises(ValueError, match="already"):
        app.model("says")(says)
    assert list(app.models) == ["says", "other"]
    assert {"App", "create_app", "ModelStream", "ProviderError", "Principal", "Turn"} <= set(dir(everstream))


def test_flags_change_what_the_program_wrote_and_the_environment_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "written.py").write_text(
        "import everstream\n"
        "app = everstream.create_app({'port': 1111, 'heartbeat_ms': 2222, 'host': '0.0.0.0'}, authenticate=print)\n"
        "open_to_all = everstream.create_app({'host': '0.0.0.0'})\n"
    )
    calls: list[tuple[Settings, App]] = []
    monkeypatch.setattr(gateway_server, "serve", lambda settings, app: calls.append((settings, app)) or 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERSTREAM_HEARTBEAT_MS", "4444")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["serve", "--port", "3333", "written:app"]) == 0
    ((settings, app),) = calls
    assert (settings.port, settings.heartbeat_ms, settings.host) == (3333, 2222, "0.0.0.0")
    assert app.authenticate is print
    assert main(["serve", "written:open_to_all"]) == 2, "nobody is asked who he is"


async def test_the_models_of_the_settings_are_there_too() -> None:
    async with under_ours(app_of()) as place, client_of(f"ws://{place}/ws") as client:
        stream = await client.generate("scripted/count", params={"tokens": 3, "rate": 0})
        await client.ended(stream)
        assert client.streams[stream].text == "1 2 3"
