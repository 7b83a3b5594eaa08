"""Which model the page chooses where nobody has chosen: a real one that can be asked, and never against a choice."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page
from tests.server import ServerProcess
from tests.web.browser import Chat, Line, wait_until

from everstream.providers.local_models import has_engine

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not has_engine(), reason="what runs local models is not installed"),
]


def put(server: ServerProcess) -> None:
    """A model to choose; nobody asks it anything here."""
    path_in(server).parent.mkdir(exist_ok=True)
    path_in(server).write_bytes(b"GGUF")


def path_in(server: ServerProcess) -> Path:
    return server.data_dir / "models" / "smollm2.gguf"


@pytest.fixture
def without(server: ServerProcess) -> ServerProcess:
    """The server, and no model."""
    path_in(server).unlink(missing_ok=True)
    return server


def chosen(page: Page) -> str:
    return page.input_value("#model")


def test_the_words_that_bring_a_model_are_shown_until_it_is_there_and_then_it_is_chosen(
    page: Page, without: ServerProcess
) -> None:
    line = Line(page)
    chat = Chat(page, without.url)
    assert chosen(page) == "scripted/lorem"
    assert "everstream local install" in (page.text_content("#more-models-list") or "")
    put(without)
    line.cut()
    wait_until(page, lambda: chosen(page) == "local/smollm2")
    assert chat.errors == []


def test_a_model_that_somebody_chose_stays_chosen(page: Page, server: ServerProcess) -> None:
    put(server)
    chat = Chat(page, server.url)
    assert chosen(page) == "local/smollm2"
    chat.choose("scripted/count", tokens=5)
    page.reload()
    chat.wait_ready()
    assert chosen(page) == "scripted/count"
    assert chat.errors == []
