"""What a reader chooses and takes along, with a mouse, with keys alone, and on a small screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from tests.server import ServerProcess
from tests.web.browser import Chat, counted, wait_until

pytestmark = pytest.mark.browser

BACKGROUND = "() => getComputedStyle(document.body).backgroundColor"
FOCUSED = "() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
TAGS = "(elements) => elements.map((element) => element.tagName)"
FOCUSABLE = "a[href], button, input, select, textarea, summary >> nth=0"
# Whatever reaches beyond the screen on either side, unless something scrolls it or cuts it off on purpose.
BEYOND = """() => {
    const width = document.documentElement.clientWidth;
    const clipped = (element) => {
        for (let above = element; above; above = above.parentElement) {
            const { overflowX, position } = getComputedStyle(above);
            if (overflowX !== "visible" && above.id !== "scroller") return true;
            if (position === "fixed") return false;
        }
        return false;
    };
    return [...document.body.querySelectorAll("*")]
        .filter((element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
        .filter((element) => !element.closest("svg, .unseen, .skip, #drawer:not(.open)"))
        .filter((element) => {
            const { left, right, width: wide } = element.getBoundingClientRect();
            return wide > 0 && (right > width + 1 || left < -1) && !clipped(element.parentElement);
        })
        .map((element) => `${element.tagName}.${element.className}#${element.id}`);
}"""


def set_choice(page: Page, name: str, value: str) -> None:
    """Make a choice in the dialog of settings."""
    page.click("#show-menu")
    page.click("#open-settings")
    page.check(f"#settings input[name={name}][value={value}]")
    page.click("#settings-close")


@pytest.fixture
def narrow(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 320, "height": 600}, has_touch=True)
    yield context
    context.close()


# ------------------------------------------------------------------ looks


def test_a_theme_is_chosen_for_all_tabs_and_the_next_visit(chat: Chat, page: Page) -> None:
    page.emulate_media(color_scheme="light")
    light = page.evaluate(BACKGROUND)
    other = Chat(page.context.new_page(), page.url)
    other.page.emulate_media(color_scheme="light")
    page.bring_to_front()
    set_choice(page, "theme", "dark")
    assert page.get_attribute("html", "data-theme") == "dark"
    wait_until(page, lambda: page.evaluate(BACKGROUND) != light)
    dark = page.evaluate(BACKGROUND)
    wait_until(other.page, lambda: other.page.evaluate(BACKGROUND) == dark)
    page.reload()
    chat.wait_ready()
    wait_until(page, lambda: page.evaluate(BACKGROUND) == dark)
    page.emulate_media(color_scheme="dark")
    set_choice(page, "theme", "light")
    wait_until(page, lambda: page.evaluate(BACKGROUND) == light)
    set_choice(page, "theme", "system")
    wait_until(page, lambda: page.evaluate(BACKGROUND) == dark)


def test_a_smooth_answer_and_a_raw_one_end_with_the_same_text(chat: Chat, page: Page) -> None:
    chat.choose("scripted/lorem", tokens=400, rate=300)
    shown = []
    for display in ("smooth", "raw"):
        set_choice(page, "display", display)
        chat.ask("The same, please.")
        chat.wait_answer(30)
        assert chat.wait_ended() == "complete"
        wait_until(page, lambda: chat.figure("total") != "")
        shown.append((chat.answer(), page.locator(".reply").last.locator(".answer *").evaluate_all(TAGS)))
    smooth, raw = shown
    assert smooth == raw
    assert len(chat.answer()) > 1_500


def test_the_send_key_is_a_choice(chat: Chat, page: Page) -> None:
    set_choice(page, "send-key", "mod-enter")
    chat.choose("scripted/echo", rate=0)
    page.focus("#prompt")
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    page.keyboard.type("two")
    assert chat.turns == 0
    page.keyboard.press("Control+Enter")
    wait_until(page, lambda: chat.turns == 1)
    assert chat.wait_ended() == "complete"
    assert chat.texts(".said .text") == ["one\ntwo"]


# ------------------------------------------------------------------ models


def test_only_models_that_can_be_asked_are_offered_and_the_rest_says_what_it_wants(chat: Chat, page: Page) -> None:
    offered = page.locator("#model option").evaluate_all("(options) => options.map((option) => option.value)")
    assert {"scripted/count", "scripted/echo", "scripted/lorem"} <= set(offered)
    assert [model for model in offered if not model.startswith(("scripted/", "local/"))] == []
    page.click("#more-models summary")
    wanted = page.inner_text("#more-models-list")
    assert "ANTHROPIC_API_KEY" in wanted
    assert "OPENAI_API_KEY" in wanted


# ------------------------------------------------------------------ taking along


def test_a_chat_is_shared_as_markdown_and_as_a_link(chat: Chat, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.choose("scripted/count", tokens=3, rate=0)
    chat.ask("How many?")
    assert chat.wait_ended() == "complete"
    copied = "() => navigator.clipboard.readText()"
    page.click("#show-menu")
    page.click("#copy-markdown")
    wait_until(page, lambda: "How many?" in page.evaluate(copied))
    whole = page.evaluate(copied)
    assert counted(3) in whole
    page.click("#show-menu")
    with page.expect_download() as download:
        page.click("#download-markdown")
    assert download.value.suggested_filename == "How-many.md"
    assert Path(download.value.path()).read_text("utf-8") == whole
    page.click("#show-menu")
    page.click("#copy-link")
    wait_until(page, lambda: page.evaluate(copied) == page.url)


# ------------------------------------------------------------------ keys alone


def test_a_whole_visit_is_done_with_keys_alone(chat: Chat, page: Page) -> None:
    chat.choose("scripted/count", tokens=400, rate=40)
    page.reload()
    chat.wait_ready()
    keys = page.keyboard
    # The first thing there is leads past the list of chats.
    page.focus(FOCUSABLE)
    assert page.inner_text("*:focus") == "Skip to the prompt"
    keys.press("Enter")
    wait_until(page, lambda: page.evaluate(FOCUSED) == "prompt")
    keys.type("Count far.")
    keys.press("Enter")
    chat.wait_answer(20)
    assert page.evaluate(FOCUSED) == "prompt"
    keys.press("Escape")
    assert chat.wait_ended() == "cancelled"
    # The menu and its dialogs: arrows inside, Escape gives the focus back.
    page.focus("#show-menu")
    keys.press("Enter")
    wait_until(page, lambda: page.evaluate(FOCUSED) == "copy-markdown")
    keys.press("End")
    assert page.evaluate(FOCUSED) == "open-help"
    keys.press("Enter")
    page.wait_for_selector("#help[open]")
    keys.press("Escape")
    page.wait_for_selector("#help[open]", state="hidden")
    page.focus("#show-menu")
    keys.press("Enter")
    page.wait_for_selector("#menu:popover-open")
    keys.press("Escape")
    page.wait_for_selector("#menu:popover-open", state="hidden")
    wait_until(page, lambda: page.evaluate(FOCUSED) == "show-menu")
    # A new chat, and back by the list.
    keys.press("Control+Shift+O")
    wait_until(page, lambda: chat.turns == 0)
    assert page.evaluate(FOCUSED) == "prompt"
    keys.press("Control+k")
    wait_until(page, lambda: page.evaluate(FOCUSED) == "search")
    keys.type("Count far")
    wait_until(page, lambda: page.locator("#sessions li").count() >= 1)
    keys.press("Tab")
    assert "Count far." in page.inner_text("*:focus")
    keys.press("Enter")
    chat.wait_texts(".said .text", ["Count far."])


def test_tab_goes_through_everything_that_can_be_done_and_shows_where_it_is(chat: Chat, page: Page) -> None:
    chat.choose("scripted/count", tokens=3, rate=0)
    chat.ask("Three.")
    assert chat.wait_ended() == "complete"
    page.evaluate("() => { document.activeElement.blur(); getSelection().removeAllRanges(); }")
    page.mouse.click(2, 2)
    reached, unseen = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => {
                const at = document.activeElement;
                const { outlineStyle, outlineWidth, boxShadow, borderColor } = getComputedStyle(at);
                const marked = (outlineStyle !== "none" && outlineWidth !== "0px") || boxShadow !== "none"
                    || at.matches("#prompt") || at === document.body;
                return { name: at.id || at.className || at.tagName, marked };
            }"""
        )
        if reached and at["name"] in ("BODY", reached[0]):
            break
        reached.append(at["name"])
        unseen += [] if at["marked"] else [at["name"]]
    for control in ("new-chat", "show-about", "show-menu", "prompt", "model"):
        assert control in reached
    assert reached.index("new-chat") < reached.index("show-menu") < reached.index("prompt") < reached.index("model")
    assert any("again" in name for name in reached), "an answer can be asked for again"
    assert unseen == []


# ------------------------------------------------------------------ a small screen


def test_nothing_reaches_beyond_a_small_screen(narrow: BrowserContext, server: ServerProcess) -> None:
    page = narrow.new_page()
    chat = Chat(page, server.url)
    beyond = {"empty": page.evaluate(BEYOND)}
    chat.choose("scripted/lorem", tokens=900, rate=0)
    chat.ask("Headings, tables and code, and https://example.org/" + "a-word-that-never-ends" * 10)
    assert chat.wait_ended() == "complete"
    beyond["answer"] = page.evaluate(BEYOND)
    page.click("#options summary")
    beyond["options"] = page.evaluate(BEYOND)
    page.click("#options summary")
    page.click("#show-menu")
    beyond["menu"] = page.evaluate(BEYOND)
    page.click("#open-settings")
    beyond["settings"] = page.evaluate(BEYOND)
    page.click("#settings-close")
    page.click("#show-about")
    beyond["about"] = page.evaluate(BEYOND)
    page.click("#about-close")
    page.click("#show-drawer")
    page.wait_for_selector("#new-chat", state="visible")
    wait_until(page, lambda: page.evaluate(BEYOND) == [])  # it slides in
    assert {name: found for name, found in beyond.items() if found} == {}
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320
