"""Pictures of the page, to be looked at by people: `python -m tests.web.screenshots http://127.0.0.1:8000 DIRECTORY`.

Not a test.  It drives the page of a running server through its states (empty, thinking, streaming, stopped, failed)
in light and dark and at a phone's width, and writes one PNG for each.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from tests.web.browser import chromium_path, launch_options, wait_until

WIDE = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 760}
LOOKS = {
    "light": {"viewport": WIDE, "color_scheme": "light"},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light", "device_scale_factor": 2, "has_touch": True},
    "phone-dark": {"viewport": PHONE, "color_scheme": "dark", "device_scale_factor": 2, "has_touch": True},
}


def main(url: str, directory: Path) -> None:
    """Write the pictures of the page at `url` into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options(chromium_path() or "chromium"))
        for look, options in LOOKS.items():
            context = browser.new_context(**options)
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("#model:not([disabled])")
            for state in ("empty", "options", "streaming", "stopped", "long", "failed"):
                STATES[state](page)
                page.screenshot(path=directory / f"{look}-{state}.png", animations="disabled")
            context.close()
        browser.close()


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
    page.fill("#prompt", "What makes an answer outlive its connection?")
    page.press("#prompt", "Enter")
    answer = page.locator(".answer")
    wait_until(page, lambda: answer.count() > 0 and len(answer.text_content() or "") > 200)


def _stopped(page: Page) -> None:
    page.click("#stop")
    page.wait_for_selector(".reply[data-state=cancelled]")


def _long(page: Page) -> None:
    _set(page, "#rate", "0")
    _set(page, "#tokens", "600")
    page.fill("#prompt", "And at length?\nPlease take your time.")
    page.press("#prompt", "Enter")
    page.wait_for_selector(".reply:last-child[data-state=complete]")
    page.evaluate("document.querySelector('#scroller').scrollTop -= 400")
    page.wait_for_selector("#to-latest:not([hidden])")


def _failed(page: Page) -> None:
    # A rate beyond what a script takes: the server refuses the request.
    _set(page, "#rate", "10000000000")
    page.fill("#prompt", "Too fast, please.")
    page.press("#prompt", "Enter")
    page.wait_for_selector(".pending .failure:not([hidden])")


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
    "failed": _failed,
}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
