"""The page before a server that asks who is there: keys and tokens as they really are, in a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.server import ServerProcess
from tests.web.browser import Line, counted, wait_until
from tests.web.people import DIALOG, Visitor, signed

pytestmark = pytest.mark.browser

EXPIRES_S = 4.0  # for a page to connect, and to be in the middle of an answer that takes as long


def everstream_key(server: ServerProcess, *arguments: str) -> Any:
    """What `everstream key … --json` says, for the server's store."""
    command = [sys.executable, "-m", "everstream", "key", *arguments, "--json", "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, env=server.env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def key(guarded: ServerProcess) -> str:
    made: str = everstream_key(guarded, "create", "--user", "ann")["key"]
    return made


def test_a_key_is_asked_for_and_lets_in_and_stays_in_the_tab_alone(
    page: Page, guarded: ServerProcess, key: str
) -> None:
    chat = Visitor(page, guarded.url, key)
    chat.wait_connection("open")
    assert not chat.asked
    chat.choose("scripted/count", tokens=5, rate=0)
    chat.ask("Count.")
    assert chat.wait_ended() == "complete"
    page.reload()
    chat.wait_ready()
    chat.ask("Count again.")
    assert chat.wait_ended() == "complete"
    assert (chat.answer(0), chat.answer(1)) == (counted(5), counted(5))
    places = page.evaluate("() => [location.href, document.cookie, JSON.stringify(localStorage), document.title]")
    assert key not in "".join([*places, *chat.console, guarded.log_text(), page.content()])
    assert page.evaluate("() => Object.values(sessionStorage)").count(key) == 1
    other = page.context.new_page()
    other.goto(guarded.url)
    other.wait_for_selector(DIALOG)
    assert chat.errors == []


def test_a_wrong_token_is_refused_and_asked_for_again(page: Page, guarded: ServerProcess, key: str) -> None:
    page.goto(guarded.url)
    page.wait_for_selector(DIALOG)
    assert "wants to know" in page.inner_text("#token-why")
    page.fill("#token", "es_nobody")
    page.click("#token-connect")
    wait_until(page, lambda: "does not accept" in page.inner_text("#token-why"))
    assert page.input_value("#token") == "", "what was wrong is not left lying about"
    assert page.evaluate("() => Object.values(sessionStorage)").count("es_nobody") == 0
    page.fill("#token", f"  {key}\n")
    page.press("#token", "Enter")
    page.wait_for_selector("#model:not([disabled])")


def test_an_expired_token_is_asked_for_again_and_the_answer_goes_on(
    page: Page, guarded: ServerProcess, key: str
) -> None:
    line = Line(page)
    chat = Visitor(page, guarded.url, signed("ann", EXPIRES_S))
    chat.choose("scripted/count", tokens=240, rate=40)
    chat.ask("Count through an expiry.")
    chat.wait_answer(40)
    page.wait_for_selector(DIALOG)
    assert "expired" in chat.why
    assert chat.state() == "live"
    shown = chat.answer()
    page.keyboard.press("Escape")
    wait_until(page, lambda: not chat.asked)
    assert chat.state() == "live", "Escape has left the dialog, and not stopped the answer"
    page.click("#notice-action")
    chat.enter(key)
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(240)
    assert chat.answer().startswith(shown)
    session, stream = line.commands("hello")[-1]["resume"]
    assert session["offset"] > 0
    assert stream["offset"] > 0
    assert chat.errors == []


def test_a_token_is_renewed_without_leaving_where_there_is_time(page: Page, guarded: ServerProcess, key: str) -> None:
    line = Line(page)
    chat = Visitor(page, guarded.url, signed("ann", 3600))
    before = len(line.sent)
    line.inject({"type": "error", "code": "auth.required", "message": "soon", "retryable": True})
    wait_until(page, lambda: "expires soon" in page.inner_text("#notice"))
    page.click("#notice-action")
    chat.enter(signed("bob", 3600))
    wait_until(page, lambda: "somebody else" in chat.why)
    chat.enter(key)
    wait_until(page, lambda: not chat.asked)
    assert not page.is_visible("#notice")
    assert [command["token"] for command in line.commands("auth")][-1] == key
    assert len(line.sent) == before, "it is the same connection"
    page.reload()
    chat.wait_ready()
    assert line.commands("hello")[-1]["token"] == key


def test_a_revoked_key_ends_the_connection_and_is_forgotten(page: Page, guarded: ServerProcess) -> None:
    made = everstream_key(guarded, "create", "--user", "carl")
    chat = Visitor(page, guarded.url, made["key"])
    everstream_key(guarded, "revoke", made["id"])
    page.wait_for_selector(DIALOG)
    assert "not any more" in chat.why
    assert made["key"] not in page.evaluate("() => Object.values(sessionStorage)")


def test_a_token_can_be_forgotten(page: Page, guarded: ServerProcess, key: str) -> None:
    line = Line(page)
    chat = Visitor(page, guarded.url, key)
    page.click("#forget-token")
    chat.wait_connection("closed")
    assert not page.is_visible("#forget-token")
    assert key not in page.evaluate("() => Object.values(sessionStorage)")
    page.click("#notice-action")
    page.wait_for_selector(DIALOG)
    assert "token" not in line.commands("hello")[-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dialog_fits_a_phone_and_is_worked_by_keys(browser: Browser, guarded: ServerProcess, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 568}, color_scheme=scheme)
    try:
        page = context.new_page()
        page.goto(guarded.url)
        page.wait_for_selector(DIALOG)
        box = page.locator(DIALOG).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
        assert box["y"] + box["height"] <= 568
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 320
        assert page.get_by_label("Token or API key").get_attribute("id") == "token"
        assert page.get_by_role("dialog", name="Who is there?").count() == 1
        focused = "() => document.activeElement.id"
        seen = []
        for _ in range(3):
            seen.append(page.evaluate(focused))
            page.keyboard.press("Tab")
        assert seen == ["token", "token-later", "token-connect"]
        style = (
            "() => { const s = getComputedStyle(document.getElementById('token-dialog')); return s.backgroundColor }"
        )
        light = {"light": "rgb(255, 255, 255)", "dark": "rgb(30, 31, 29)"}
        assert page.evaluate(style) == light[scheme]
        page.keyboard.press("Escape")
        wait_until(page, lambda: page.locator(DIALOG).count() == 0)
        page.click("#notice-action")
        page.wait_for_selector(DIALOG)
    finally:
        context.close()
