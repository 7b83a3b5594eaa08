"""Pictures of the page, to be looked at by people:

    python -m tests.web.screenshots http://127.0.0.1:8000 DIRECTORY [TOKEN OTHER_TOKEN OTHER_USER]

Not a test.  It drives the page of a running server through its states (empty, thinking, streaming, stopped, long, a
queue, branches, failed) in light and dark and at a phone's width, and writes one PNG for each.  With the tokens of two
people, for a server that asks for them, there is one of both in one chat.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from tests.web.browser import chromium_path, launch_options, wait_until

WIDE = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 760}
LOOKS = {
    "light": {"viewport": WIDE, "color_scheme": "light"},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 2, "has_touch": True},
    "phone-dark": {"viewport": PHONE, "color_scheme": "dark", "device_scale_factor": 2, "has_touch": True},
}


def main(url: str, directory: Path, people: Sequence[str] = ()) -> None:
    """Write the pictures of the page at `url` into `directory`.  `people`: two tokens, and the second one's user."""
    directory.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options(chromium_path() or "chromium"))
        for look, options in LOOKS.items():
            context = browser.new_context(**options)
            page = _come(context.new_page(), url, people[0] if people else "")
            for state, enter in STATES.items():
                enter(page)
                page.screenshot(path=directory / f"{look}-{state}.png", animations="disabled")
            if people:
                _two_people(page, browser, *people[1:])
                page.screenshot(path=directory / f"{look}-two-people.png", animations="disabled")
            context.close()
        browser.close()


def _come(page: Page, url: str, token: str) -> Page:
    page.goto(url)
    if token:
        page.fill("#token", token)
        page.press("#token", "Enter")
    page.wait_for_selector("#model:not([disabled])")
    return page


def _empty(page: Page) -> None:
    page.wait_for_selector("#connection[data-state=open]")


def _options(page: Page) -> None:
    page.click("#options summary")
    page.fill("#tokens", "120")
    page.fill("#rate", "40")
    page.check("#thinking")
    if page.is_visible("#more-models summary"):
        page.click("#more-models summary")


def _streaming(page: Page) -> None:
    if page.is_visible("#more-models summary"):
        page.click("#more-models summary")
    page.click("#options summary")
    page.select_option("#model", "scripted/lorem")
    _ask(page, "What makes an answer outlive its connection?")
    _wait_written(page, 200)


def _stopped(page: Page) -> None:
    page.click("#stop")
    page.wait_for_selector(".reply[data-state=cancelled]")


def _long(page: Page) -> None:
    _set(page, "#rate", "0")
    _set(page, "#tokens", "600")
    _ask(page, "And at length?\nPlease take your time.")
    page.wait_for_selector(".reply:last-child[data-state=complete]")
    page.evaluate("document.querySelector('#scroller').scrollTop -= 400")
    page.wait_for_selector("#to-latest:not([hidden])")


def _queued(page: Page) -> None:
    _new_chat(page)
    _set(page, "#rate", "20")
    _set(page, "#tokens", "400")
    _ask(page, "What does a lighthouse keeper do all night?")
    _wait_written(page, 150)
    _ask(page, "And by day?")
    page.wait_for_selector(".queued")
    _ask(page, "What did they do before there was oil?")
    wait_until(page, lambda: page.locator(".queued").count() == 2)


def _branches(page: Page) -> None:
    for _ in range(2):
        page.locator(".queued .remove").first.click()
        page.wait_for_timeout(200)  # pause: the list moves up
    page.click("#stop")
    page.wait_for_selector(".reply[data-state=cancelled]")
    _set(page, "#rate", "0")
    _set(page, "#tokens", "40")
    page.click(".reply .again")
    page.wait_for_selector(".reply[data-state=complete]")
    page.click(".said .edit")
    page.fill(".editing textarea", "What does a lighthouse keeper do in a storm?")
    page.click(".editing button:not(.plain)")
    page.wait_for_selector(".said .branches:not([hidden])")
    page.wait_for_selector(".reply[data-state=complete]")


def _failed(page: Page) -> None:
    # A rate beyond what a script takes: the server refuses the request.
    _set(page, "#rate", "10000000000")
    _ask(page, "Too fast, please.")
    page.wait_for_selector(".pending .failure")


def _two_people(page: Page, browser: Browser, token: str, user: str) -> None:
    page.click(".pending .remove")
    page.click("#show-about")
    page.fill("#member-id", user)
    page.click("#add-member button")
    page.wait_for_selector(f"#members li[data-user={user}]")
    page.click("#about-close")
    other = _come(browser.new_context(viewport=WIDE).new_page(), page.url, token)
    other.select_option("#model", "scripted/lorem")
    _set(other, "#rate", "30")
    _ask(other, "May I ask something, too?")
    _wait_written(page, 100)
    other.locator("#prompt").press_sequentially("And then")
    page.wait_for_selector("#typing:not(:empty)")
    wait_until(page, lambda: page.locator("#presence li").count() == 2)


def _ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def _wait_written(page: Page, characters: int) -> None:
    live = page.locator(".reply[data-state=live] .answer")
    wait_until(page, lambda: live.count() > 0 and len(live.last.text_content() or "") > characters)


def _new_chat(page: Page) -> None:
    if page.is_visible("#show-drawer"):
        page.click("#show-drawer")
    page.click("#new-chat")


def _set(page: Page, field: str, value: str) -> None:
    """Fill a field of the folded options."""
    page.click("#options summary")
    page.fill(field, value)
    page.click("#options summary")


STATES = {
    "empty": _empty,
    "options": _options,
    "streaming": _streaming,
    "stopped": _stopped,
    "long": _long,
    "queued": _queued,
    "branches": _branches,
    "failed": _failed,
}


if __name__ == "__main__":
    if len(sys.argv) not in (3, 6):
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
