"""What happens to a page in the middle of an answer, told as it happens to people: nothing of it may be noticed but a
pause.  The network here is one of bytes (`Road`), the browser's own network code deals with it, and the servers are
real; what the page shows at the end is compared with what the server has kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page
from tests.server import ServerProcess
from tests.web.browser import Chat, counted, wait_until
from tests.web.road import Road

pytestmark = pytest.mark.browser

# How many characters of the last answer each frame of the screen showed, from the first frame with a composer on.
WATCH_FRAMES = """
    window.lengths = [];
    const look = () => {
        const length = [...document.querySelectorAll(".reply .answer")].at(-1)?.textContent.length ?? 0;
        if (document.querySelector("#composer") && lengths.at(-1) !== length) lengths.push(length);
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
"""
# A tab behind another one: it is told so, and gets no frames of the screen.  A headless browser shows all its tabs.
MAY_HIDE = """
    let held = null;
    const native = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (draw) => (held === null ? native(draw) : held.push(draw));
    Object.defineProperty(document, "visibilityState", { get: () => (held === null ? "visible" : "hidden") });
    Object.defineProperty(document, "hidden", { get: () => held !== null });
    window.setHidden = (hidden) => {
        const draws = held ?? [];
        held = hidden ? [] : null;
        draws.forEach((draw) => window.requestAnimationFrame(draw));
        document.dispatchEvent(new Event("visibilitychange"));
    };
"""


@pytest.fixture
def road(server: ServerProcess) -> Iterator[Road]:
    with Road(server.port) as road:
        yield road


def kept(server: ServerProcess, page: Page) -> list[dict[str, Any]]:
    """The messages of the page's session, as the server has them."""
    status, body = server.get(f"/v1/sessions/{page.url.partition('#')[2]}/messages")
    assert status == 200, body
    messages: list[dict[str, Any]] = json.loads(body)["messages"]
    return messages


def said(server: ServerProcess, page: Page, role: str) -> list[str]:
    return [message["content"] for message in kept(server, page) if message["role"] == role]


def begin(chat: Chat, tokens: int, characters: int = 60) -> str:
    """Ask for an answer that takes a while; what is shown of it when it has so many characters."""
    chat.choose("scripted/count", tokens=tokens, rate=40)
    chat.ask("Count, whatever happens.")
    return chat.wait_answer(characters)


# ------------------------------------------------------------------ the page goes and comes


def test_a_reload_shows_what_was_there_from_its_first_frame_on(page: Page, road: Road, server: ServerProcess) -> None:
    page.add_init_script(WATCH_FRAMES)
    chat = Chat(page, road.url)
    shown = begin(chat, tokens=120)
    page.reload()
    chat.wait_ready()
    assert chat.wait_ended() == "complete"
    assert [chat.answer()] == said(server, page, "assistant") == [counted(120)]
    lengths = page.evaluate("window.lengths")
    assert lengths[0] >= len(shown), "it began empty"
    assert lengths == sorted(lengths), "something went away again"


def test_a_tab_that_was_behind_others_shows_at_once_what_came_meanwhile(
    page: Page, road: Road, server: ServerProcess
) -> None:
    page.add_init_script(MAY_HIDE)
    chat = Chat(page, road.url)
    shown = begin(chat, tokens=100)
    page.evaluate("window.setHidden(true)")
    wait_until(page, lambda: said(server, page, "assistant") == [counted(100)])
    assert shown in chat.answer()
    page.evaluate("window.setHidden(false)")
    wait_until(page, lambda: chat.answer() == counted(100), within_s=2.0)
    assert chat.wait_ended() == "complete"
    assert road.websockets_asked == 1, "its connection was alive all the time"


@pytest.mark.parametrize("meanwhile", ["connected", "cut"])
def test_a_page_that_was_frozen_catches_up_when_it_wakes(
    page: Page, road: Road, server: ServerProcess, meanwhile: str
) -> None:
    """As on a telephone that lay in a pocket: no script runs, and nobody is told that the connection is gone."""
    chat = Chat(page, road.url)
    begin(chat, tokens=100)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Debugger.enable")
    devtools.send("Debugger.pause")
    if meanwhile == "cut":
        road.cut()
    address = page.url.partition("#")[2]
    wait_until(page, lambda: said(server, page, "assistant") == [counted(100)])
    devtools.send("Debugger.resume")
    devtools.send("Debugger.disable")
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(100)
    assert page.url.endswith(address)


# ------------------------------------------------------------------ the network goes and comes


def test_what_was_said_offline_goes_out_at_the_return_exactly_once(
    page: Page, road: Road, server: ServerProcess
) -> None:
    chat = Chat(page, road.url)
    shown = begin(chat, tokens=120)
    page.context.set_offline(True)
    road.broken = True
    road.cut()
    chat.wait_connection("waiting")
    assert chat.answer().startswith(shown)
    chat.choose("scripted/count", tokens=3, rate=0)
    chat.send("Said on a train.")
    chat.wait_texts(".pending .text", ["Said on a train."])
    page.fill("#prompt", "And begun on it")
    # The answer went on without the page, to its end.
    wait_until(page, lambda: said(server, page, "assistant") == [counted(120)])
    assert said(server, page, "user") == ["Count, whatever happens."]
    assert chat.answer() != counted(120)
    road.broken = False
    page.context.set_offline(False)
    wait_until(page, lambda: chat.turns == 2)
    assert chat.wait_ended() == "complete"
    assert page.input_value("#prompt") == "And begun on it"
    assert (chat.answer(0), chat.answer(1)) == (counted(120), counted(3))
    assert said(server, page, "user") == chat.texts(".said .text") == ["Count, whatever happens.", "Said on a train."]
    assert chat.texts(".pending, .queued") == []


def test_a_network_that_breaks_again_and_again_costs_no_word(page: Page, road: Road, server: ServerProcess) -> None:
    chat = Chat(page, road.url)
    begin(chat, tokens=200, characters=20)
    for characters in (100, 250, 400, 550):
        road.cut()
        chat.wait_answer(characters)
    assert chat.wait_ended() == "complete"
    assert [chat.answer()] == said(server, page, "assistant") == [counted(200)]
    assert road.websockets_asked >= 5


# ------------------------------------------------------------------ the server goes and comes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """Two servers on one store, which go at once when they are asked to."""
    args = ["--goaway-spread-ms", "0", "--drain-ms", "0"]
    second = ServerProcess(tmp_path / "data", args=args)
    with second, ServerProcess(tmp_path / "data", args=args, owns_store=False) as first, ThreadPoolExecutor() as starts:
        yield list(starts.map(ServerProcess.start, [first, second]))


def test_a_server_that_is_killed_in_mid_answer_leaves_a_mark_and_no_gap(page: Page, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        chat = Chat(page, server.start().url)
        shown = begin(chat, tokens=120)
        server.kill9()
        chat.wait_connection("waiting")
        assert chat.answer().startswith(shown)
        server.start()
        assert chat.wait_ended() == "complete"
        assert [chat.answer()] == said(server, page, "assistant") == [counted(120)]
        assert page.locator(".seam").count() == 1
        page.locator(".seam").scroll_into_view_if_needed()
        assert page.locator(".seam").is_visible()


def test_a_dead_server_is_replaced_by_another_in_mid_answer(page: Page, nodes: list[ServerProcess]) -> None:
    first, second = nodes
    with Road(first.port, second.port) as road:
        chat = Chat(page, road.url)
        shown = begin(chat, tokens=160)
        first.kill9()
        assert chat.wait_ended() == "complete"
        assert chat.answer().startswith(shown)
        assert [chat.answer()] == said(second, page, "assistant") == [counted(160)]
        assert page.locator(".seam").count() == 1
        chat.choose("scripted/count", tokens=3, rate=0)
        chat.ask("And the next one?")
        assert chat.wait_ended() == "complete"


def test_a_server_that_goes_hands_its_answer_over_and_the_page_moves_without_a_word(
    page: Page, nodes: list[ServerProcess]
) -> None:
    first, second = nodes
    with Road(first.port, second.port) as road:
        chat = Chat(page, road.url)
        shown = begin(chat, tokens=160)
        road.ports = [second.port]
        assert first.terminate() == 0
        assert chat.wait_ended() == "complete"
        assert chat.answer().startswith(shown)
        assert [chat.answer()] == said(second, page, "assistant") == [counted(160)]
        assert page.is_hidden("#notice")


def test_a_request_that_died_with_its_server_is_answered_once_by_the_next(
    page: Page, nodes: list[ServerProcess]
) -> None:
    first, second = nodes
    with Road(first.port, second.port) as road:
        chat = Chat(page, road.url)
        chat.choose("scripted/count", tokens=30, rate=40)
        first.suspend()
        chat.send("Is anybody there?")
        chat.wait_texts(".said .text, .pending .text", ["Is anybody there?"])
        first.kill9()
        wait_until(page, lambda: chat.turns == 1)
        assert chat.wait_ended() == "complete"
        assert said(second, page, "user") == ["Is anybody there?"]
        assert [chat.answer()] == said(second, page, "assistant") == [counted(30)]


# ------------------------------------------------------------------ no WebSockets


def over_http(page: Page, road: Road, how: Literal["refused", "silent"]) -> Chat:
    """The page where WebSockets are not let through, once it has found its way."""
    road.websockets = how
    chat = Chat(page, road.url)
    chat.wait_connection("open")
    assert page.get_attribute("#connection", "data-transport") == "http"
    assert page.inner_text("#connection") == "connected over HTTP"
    return chat


def test_where_websockets_are_refused_the_page_works_over_http_and_says_so(
    page: Page, road: Road, server: ServerProcess
) -> None:
    chat = over_http(page, road, "refused")
    shown = begin(chat, tokens=160)
    road.cut()
    chat.wait_answer(len(shown) + 100)
    page.reload()
    chat.wait_ready()
    assert chat.wait_ended() == "complete"
    assert [chat.answer()] == said(server, page, "assistant") == [counted(160)]
    assert page.locator(".seam").count() == 0
    begin(chat, tokens=400)
    page.click("#stop")
    assert chat.wait_ended() == "cancelled"
    assert [counted(160), chat.answer()] == said(server, page, "assistant")


def test_where_websockets_are_swallowed_the_page_does_not_wait_for_ever(
    page: Page, road: Road, server: ServerProcess
) -> None:
    chat = over_http(page, road, "silent")
    chat.choose("scripted/count", tokens=5, rate=0)
    chat.ask("Is anybody there?")
    assert chat.wait_ended() == "complete"
    assert [chat.answer()] == said(server, page, "assistant") == [counted(5)]


def test_two_browsers_see_one_answer_whatever_way_each_of_them_has(
    page: Page, browser: Browser, road: Road, server: ServerProcess
) -> None:
    chat = over_http(page, road, "refused")
    shown = begin(chat, tokens=400)
    context = browser.new_context()
    try:
        other = Chat(context.new_page(), f"{server.url}/#{page.url.partition('#')[2]}")
        wait_until(other.page, lambda: other.answer().startswith(shown))
        assert other.page.get_attribute("#connection", "data-transport") == "websocket"
        other.page.click("#stop")
        assert chat.wait_ended() == other.wait_ended() == "cancelled"
        wait_until(page, lambda: chat.answer() == other.answer())
        assert [chat.answer()] == said(server, page, "assistant")
    finally:
        context.close()
