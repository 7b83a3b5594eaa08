"""The page that shows what can be asked: all of it, without a word to anybody else."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page
from tests.server import ServerProcess
from tests.web.browser import wait_until

from everstream.core.commands import COMMANDS
from everstream.core.errors import FAULTS
from everstream.gateway.openapi import ROWS

pytestmark = pytest.mark.browser


def test_the_page_shows_every_route_command_and_error(page: Page, server: ServerProcess) -> None:
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/docs")
    wait_until(page, lambda: (page.text_content("#state") or "").startswith("Everstream "))
    for row in ROWS:
        assert f"{row.method}{row.path} {row.what}" in (page.text_content(f"#operation-{row.name} summary") or "")
    for name in COMMANDS:
        assert page.locator(f"[id='command-{name}']").count() == 1, name
    codes = page.locator("#errors tbody tr td:first-child").all_text_contents()
    assert codes == list(FAULTS)
    assert said == []
    assert all(url.startswith(server.url) for url in asked), asked


def test_a_link_to_a_type_opens_it(page: Page, server: ServerProcess) -> None:
    page.goto(f"{server.url}/docs#operation-send_message")
    wait_until(page, lambda: page.locator("#operation-send_message[open]").count() == 1)
    inside = page.locator("#operation-send_message")
    assert "on_busy" in inside.inner_text()
    inside.get_by_role("link", name="TurnAccepted").click()
    wait_until(page, lambda: page.locator("#type-TurnAccepted[open]").count() == 1)
    assert "epoch" in page.locator("#type-TurnAccepted").inner_text()
