"""The pictures of the page that the documents show: `make screenshots`, or

    python -m tests.web.screenshots [DIRECTORY]

Not a test.  It starts a server with models that answer like real ones (`showcase.py`), drives its page, and writes one
WebP for each picture into `docs/images`.  Whoever changes the page looks at them before they are committed.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from tests.server import ROOT, ServerProcess
from tests.web.browser import chromium_path, launch_options, wait_until

IMAGES = ROOT / "docs" / "images"
QUALITY = 82
PICTURE_BYTES_MAX = 150_000
WIDE = {"width": 1280, "height": 800}
TALL = {"width": 1280, "height": 1420}
PHONE = {"width": 390, "height": 780}
QUESTION = "What happens to an answer when my connection is lost?"


@dataclass(frozen=True, slots=True)
class Picture:
    name: str
    enter: Callable[[Page], None]
    scheme: str = "light"
    size: Mapping[str, int] = field(default_factory=lambda: WIDE)

    @property
    def options(self) -> dict[str, Any]:
        """The options of a browser's context."""
        fine = {"device_scale_factor": 2, "has_touch": True} if self.size is PHONE else {}
        return {"viewport": self.size, "color_scheme": self.scheme, **fine}


def main(directory: Path) -> None:
    """Write the pictures into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = f"{ROOT / 'backend'}:{ROOT}"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options(chromium_path() or "chromium"))
        for picture in PICTURES:
            data = Path(folder) / picture.name
            with ServerProcess(data, args=["tests.web.showcase:app"], env={"PYTHONPATH": paths}) as server:
                server.start()
                context = browser.new_context(**picture.options)
                page = context.new_page()
                page.goto(server.url)
                page.wait_for_selector("#model:not([disabled])", state="attached")
                picture.enter(page)
                written = _take(page, directory / f"{picture.name}.webp")
                print(f"{picture.name}: {written} bytes")
                context.close()
        browser.close()


def _take(page: Page, path: Path) -> int:
    """Write what is seen as WebP, which Playwright's own `screenshot` cannot.  Returns its bytes."""
    page.mouse.move(0, 0)
    asked = {"format": "webp", "quality": QUALITY}
    taken = page.context.new_cdp_session(page).send("Page.captureScreenshot", asked)
    path.write_bytes(picture := base64.b64decode(taken["data"]))
    assert len(picture) < PICTURE_BYTES_MAX, f"{path.name} has {len(picture)} bytes"
    return len(picture)


def _ask(page: Page, text: str, model: str = "app/guide") -> None:
    page.select_option("#model", model)
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def _ended(page: Page, count: int = 1) -> None:
    ended = page.locator(".reply[data-state=complete]")
    wait_until(page, lambda: ended.count() >= count, 60)


def _earlier(page: Page) -> None:
    """Two chats that the list shows below the new one."""
    for text in ("Write a short story about a letter", "Plan a week in Lisbon"):
        _ask(page, text, "app/guide-mini")
        _ended(page)
        if page.locator("#show-drawer").is_visible():
            page.click("#show-drawer")
        page.click("#new-chat")


def _chat(page: Page) -> None:
    _earlier(page)
    _ask(page, QUESTION)
    _ended(page)
    page.mouse.wheel(0, -10_000)


def _streaming(page: Page) -> None:
    _ask(page, QUESTION)
    written = page.locator(".reply[data-state=live] table tr")
    wait_until(page, lambda: written.count() >= 4)


def _compare(page: Page) -> None:
    page.click("#show-menu")
    page.click("#open-compare")
    for name, model in (("Left", "app/guide"), ("Right", "app/guide-mini")):
        page.get_by_label(f"{name} model").select_option(model)
    page.fill("#compare-prompt", QUESTION)
    page.press("#compare-prompt", "Enter")
    # Both are shown at an even pace, which ends a little after they do.
    said = page.locator(".compare-side").filter(has_text="says more.")
    wait_until(page, lambda: said.count() == 2 and page.locator("#compare-again").is_visible(), 60)


def _developer(page: Page) -> None:
    page.click("#show-menu")
    page.click("#open-developer")
    page.wait_for_selector("#frame-list")
    _ask(page, QUESTION)
    _ended(page)


PICTURES = (
    Picture("chat", _chat),
    Picture("chat-dark", _chat, "dark"),
    Picture("phone", _streaming, size=PHONE),
    Picture("compare", _compare, size=TALL),
    Picture("developer", _developer, "dark"),
)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else IMAGES)
