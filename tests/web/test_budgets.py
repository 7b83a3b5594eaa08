"""What the page may cost, and whom it may leave out: sizes, the first paint, and the rules of WCAG that axe checks.

The figures are printed (`-s` shows them); the bounds on times are wide, since a busy machine is no fault of the page.
"""

from __future__ import annotations

import gzip
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from tests.server import ServerProcess
from tests.web.browser import Chat, wait_until
from tests.web.node import CannotInstall, installed, run

from everstream.gateway.page import web_folder

FIRST_LOAD_BYTES_MAX = 150_000
API_LOAD_BYTES_MAX = 60_000
CLIENT_BYTES_MAX = 40_000
PAINT_MS_MAX = 2_000  # on a machine that may be busy with other tests
PAINTS = 5

WIDE = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 760}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": WIDE, "color_scheme": "light"},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "light", "has_touch": True},
}
GRAVE = ("serious", "critical")


def packed(path: Path) -> int:
    """Bytes on the wire, to a browser that takes gzip."""
    return len(gzip.compress(path.read_bytes(), 9))


def first_load(document: str) -> dict[str, int]:
    """What a browser fetches to show a document, with the bytes of each: what it names, and what that imports."""
    folder = web_folder()
    html = folder / document
    wanted = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', html.read_text())
    found: dict[str, int] = {document: packed(html)}
    while wanted:
        name = wanted.pop()
        if name in found or name.endswith(".svg"):
            continue
        found[name] = packed(folder / name)
        if name.endswith(".js"):
            script = (folder / name).read_text()
            # `import(…)` is not among these: what is loaded when it is wanted.
            wanted += [f"assets/{other}" for other in re.findall(r'\b(?:from|import)\s*"\./([^"]+\.js)"', script)]
    return found


@pytest.mark.parametrize(("document", "most"), [("index.html", FIRST_LOAD_BYTES_MAX), ("api.html", API_LOAD_BYTES_MAX)])
def test_a_first_visit_loads_little(document: str, most: int) -> None:
    found = first_load(document)
    print(f"\n{document}: {sum(found.values())} bytes gzip:", ", ".join(f"{k} {v}" for k, v in found.items()))
    assert any(name.endswith(".js") for name in found)
    assert any(name.endswith(".css") for name in found)
    assert sum(found.values()) < most


def test_the_client_is_small(tmp_path: Path) -> None:
    command = ("npx", "--no-install", "rolldown", "client/src/index.ts", "--format=es", "--minify")
    try:
        done = run(*command, f"--dir={tmp_path}")
    except CannotInstall as problem:
        pytest.skip(str(problem))
    assert done.returncode == 0, done.stdout
    found = {path.name: packed(path) for path in tmp_path.rglob("*.js")}
    print(f"\n@everstream/client: {sum(found.values())} bytes gzip:", ", ".join(f"{k} {v}" for k, v in found.items()))
    assert "index.js" in found
    assert sum(found.values()) < CLIENT_BYTES_MAX


@pytest.mark.browser
def test_the_first_paint_comes_at_once(browser: Browser, server: ServerProcess) -> None:
    paints = []
    for _ in range(PAINTS):
        context = browser.new_context(viewport=WIDE)
        page = context.new_page()
        page.goto(server.url)
        wait_until(page, lambda page=page: len(_paints(page)) == 2)  # type: ignore[misc]
        paints.append(_paints(page))
        context.close()
    medians = {name: statistics.median(paint[name] for paint in paints) for name in paints[0]}
    print(f"\nmedian of {PAINTS}, loopback:", ", ".join(f"{name} {ms:.0f} ms" for name, ms in medians.items()))
    assert medians["first-contentful-paint"] < PAINT_MS_MAX


def _paints(page: Page) -> dict[str, float]:
    """When the page was painted first, in milliseconds since it was asked for."""
    read = "() => performance.getEntriesByType('paint').map((paint) => [paint.name, paint.startTime])"
    return dict(page.evaluate(read))


# ------------------------------------------------------------------------------------------------ who is left out


def _empty(chat: Chat) -> None:
    chat.wait_connection("open")


def _answer(chat: Chat) -> None:
    """One with thinking, headings, lists, a table and code."""
    page = chat.page
    page.click("#options summary")
    page.fill("#tokens", "900")
    page.fill("#rate", "0")
    page.check("#thinking")
    page.click("#options summary")
    page.select_option("#model", "scripted/lorem")
    chat.ask("Show me everything.")
    assert chat.wait_ended() == "complete"
    for part in ("table", "pre", "ol, ul", "h2, h3"):
        assert page.locator(f".reply :is({part})").count() > 0, part


def _options(chat: Chat) -> None:
    chat.page.click("#options summary")


def _menu(chat: Chat) -> None:
    chat.page.click("#options summary")
    chat.page.click("#show-menu")
    chat.page.wait_for_selector("#menu:popover-open")


def _item(item: str, shown: str) -> Callable[[Chat], None]:
    def enter(chat: Chat) -> None:
        if not chat.page.locator("#menu:popover-open").count():
            chat.page.click("#show-menu")
        chat.page.click(item)
        chat.page.wait_for_selector(shown)

    return enter


def _about(chat: Chat) -> None:
    chat.page.keyboard.press("Escape")
    chat.page.click("#show-about")
    chat.page.wait_for_selector("#about[open]")


def _help(chat: Chat) -> None:
    chat.page.keyboard.press("Escape")
    _item("#open-help", "#help[open]")(chat)


def _compare(chat: Chat) -> None:
    chat.page.keyboard.press("Escape")
    _item("#open-compare", "#compare")(chat)


def _developer(chat: Chat) -> None:
    chat.page.click("#compare-close")
    _item("#open-developer", "#developer")(chat)


# How each view is come to from the one before it, and what of the page is new in it.
VIEWS: dict[str, tuple[Callable[[Chat], None], str]] = {
    "empty": (_empty, "html"),
    "answer": (_answer, "html"),
    "options": (_options, "#composer"),
    "menu": (_menu, "#menu"),
    "settings": (_item("#open-settings", "#settings[open]"), "#settings"),
    "about": (_about, "#about"),
    "help": (_help, "#help"),
    "compare": (_compare, "html"),
    "developer": (_developer, "#developer"),
}


@pytest.fixture(scope="module")
def axe() -> Path:
    try:
        return installed() / "node_modules" / "axe-core" / "axe.min.js"
    except CannotInstall as problem:
        pytest.skip(str(problem))


def _opened(browser: Browser, axe: Path, **options: Any) -> BrowserContext:
    # axe is not part of the page, and may do what the page may not.
    context = browser.new_context(bypass_csp=True, reduced_motion="reduce", **options)
    context.add_init_script(path=axe)
    return context


def _found(page: Page, part: str = "html") -> tuple[list[str], list[str]]:
    """What axe finds in a part of the page that shuts people out, and all else that it finds, a line each."""
    violations: list[dict[str, Any]] = page.evaluate(
        "async (part) => (await axe.run(part, {resultTypes: ['violations']})).violations", part
    )
    grave, other = [], []
    for violation in violations:
        places = [
            f"{node['target'][-1]} {node['failureSummary'].splitlines()[1].strip()}" for node in violation["nodes"]
        ]
        line = f"{violation['impact']} {violation['id']}: {json.dumps(places[:4], ensure_ascii=False)} ({len(places)})"
        (grave if violation["impact"] in GRAVE else other).append(line)
    return grave, other


@pytest.mark.browser
def test_every_view_keeps_to_the_policy_of_the_page(chat: Chat) -> None:
    # Whatever the policy forbids is an error on the console, and fails the test (`complaints.py`).
    for enter, part in VIEWS.values():
        enter(chat)
        assert chat.page.locator(part).count() == 1
    assert chat.page.locator("script:not([src]), style").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("look", LOOKS)
def test_no_view_of_the_page_shuts_anybody_out(browser: Browser, server: ServerProcess, axe: Path, look: str) -> None:
    context = _opened(browser, axe, **LOOKS[look])
    chat = Chat(context.new_page(), server.url)
    grave = []
    for view, (enter, part) in VIEWS.items():
        enter(chat)
        worst, other = _found(chat.page, part)
        grave += [f"{look}, {view}: {line}" for line in worst]
        print("".join(f"\n{look}, {view}: {line}" for line in other), end="")
    context.close()
    assert not grave, "".join(f"\n  {line}" for line in grave)


@pytest.mark.browser
@pytest.mark.parametrize("look", ["light", "dark"])
def test_the_api_page_shuts_nobody_out(browser: Browser, server: ServerProcess, axe: Path, look: str) -> None:
    context = _opened(browser, axe, **LOOKS[look])
    page = context.new_page()
    page.goto(f"{server.url}/docs#operation-send_message")
    wait_until(page, lambda: page.locator("#operation-send_message[open]").count() == 1)
    # What is folded is made like what is open, and would take long to look at.
    page.evaluate("() => document.querySelectorAll('details:not([open])').forEach((fold) => fold.remove())")
    grave, _ = _found(page)
    context.close()
    assert not grave, "".join(f"\n  {line}" for line in grave)


@pytest.mark.browser
def test_the_check_finds_what_shuts_people_out(browser: Browser, axe: Path) -> None:
    context = _opened(browser, axe, **LOOKS["light"])
    page = context.new_page()
    page.goto("about:blank")
    page.set_content(
        "<html lang=en><title>grey</title><main><p style='color: #ddd'>hardly to be seen</p><input></main></html>"
    )
    grave, _ = _found(page)
    context.close()
    assert [line.split(":")[0] for line in grave] == ["serious color-contrast", "critical label"]
