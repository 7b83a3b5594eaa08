"""The examples are run, and the documents show them as they are."""

from __future__ import annotations

import asyncio
import importlib
import re
from typing import Any

import aiohttp
import pytest
from tests.gateway.applications import under_uvicorn
from tests.gateway.conftest import Client, client_of
from tests.house.tree import ROOT, told

from everstream.core.events import Message, Request
from everstream.providers.base import Progress
from everstream.providers.function import FunctionProvider

INCLUDED = re.compile(r"^<!-- (docs/examples/\w+\.py) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STORE": "memory://", "DRAIN_MS": "0", "DISCOVER": "false"}.items():
        monkeypatch.setenv(f"EVERSTREAM_{name}", value)


def example(name: str, *needs: str) -> Any:
    for library in needs:
        pytest.importorskip(library)
    return importlib.import_module(f"docs.examples.{name}")


async def answer(client: Client, model: str, *questions: str) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": question} for n, question in enumerate(questions)]
    stream = await client.generate(model, messages=messages)
    end = await client.ended(stream)
    assert end["reason"] == "complete", end
    return client.streams[stream].text


async def test_plain_python_looks_something_up_and_says_it() -> None:
    async with under_uvicorn(example("plain").app) as place, client_of(f"ws://{place}/ws") as client:
        said = await answer(client, "app/librarian", "What does printing cost?")
        assert said == "Printing is ten cents a page, in colour or not.\n\n*From the note on printing.*"
        assert any(frame["type"] == "delta_thinking" for frame in client.frames)
        assert (await answer(client, "app/librarian", "Who?")).startswith("I have no note about that")


async def test_an_agent_of_pydantic_ai_is_a_model() -> None:
    async with (
        under_uvicorn(example("agent", "pydantic_ai").app) as place,
        client_of(f"ws://{place}/ws") as client,
    ):
        assert await answer(client, "app/agent", "one", "fine", "two or three") == "Question 2 was: two or three "
        assert client.frames[-1]["usage"]["source"] == "provider"


async def test_a_graph_of_langgraph_is_a_model_and_goes_on_from_its_facts() -> None:
    module = example("graph", "langgraph")
    whole = "It was asked: why? A graph has nodes. A graph has edges. "
    async with under_uvicorn(module.app) as place, client_of(f"ws://{place}/ws") as client:
        assert await answer(client, "app/graph", "why?") == whole
    cursor = {"model": "app/graph", "text_chars": 5, "data": ["It was asked: why?", "Facts are kept."]}
    request = Request("app/graph", [Message("user", "why?")])
    progress = Progress("It was asked: w", "Found 3 facts. ", cursor=cursor)
    batches = [batch async for batch in FunctionProvider(module.app.models).generate(request, progress)]
    rest = "".join(getattr(event, "text", "") for batch in batches for event in batch)
    assert rest == "hy? Facts are kept. ", "it did not look them up again"


async def test_a_mounted_application_has_its_users_and_its_answers() -> None:
    module = example("mounted", "fastapi")
    module.ANSWERS.clear()
    async with under_uvicorn(module.api) as place:
        cookie = {"Cookie": "token=t-bob"}
        async with client_of(f"ws://{place}/chat/ws", additional_headers=cookie) as client:
            assert client.frames[0]["user"] == {"id": "bob", "name": "Bob"}
            assert await answer(client, "app/parrot", "hear me") == "hear! me! "
        async with client_of(f"ws://{place}/chat/ws", hello=False) as client:
            assert (await client.ask("hello", token="t-eve"))["code"] == "auth.denied"
            await client.closed()
        async with aiohttp.ClientSession() as session, asyncio.timeout(10):
            while not (kept := await (await session.get(f"http://{place}/answers")).json()):
                await asyncio.sleep(0.01)  # pause: between two looks at what was kept
    assert kept == [{"user": "bob", "answer": "hear! me! ", "ended": "complete"}]


def test_the_documents_show_the_examples_as_they_are() -> None:
    shown = [(name, *found) for name, text in DOCUMENTS.items() for found in INCLUDED.findall(text)]
    wrong = [f"{name}: {path}" for name, path, code in shown if (ROOT / path).read_text(encoding="utf-8") != code]
    assert not wrong, told(wrong)
    assert {path for _, path, _ in shown} == {f"docs/examples/{path.name}" for path in EXAMPLES}
