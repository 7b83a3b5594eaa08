"""A browser for each module, a fresh profile for each test, and a real server behind it.

The browser is a module's and not the session's: Playwright's sync API keeps an event loop running in the thread for
as long as it is started, and async tests elsewhere could not start theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tests.server import ServerProcess
from tests.web.browser import Chat, chromium_path, launch_options
from tests.web.complaints import complaints
from tests.web.people import SECRET

__all__ = ["complaints"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: drives the web page in Chromium (skipped where there is none)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium is installed: the page's tests need one (chromium, chromium-browser, google-chrome)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options(path))
        # Some of its own processes start with its first page, and stay: no test has left those behind.
        browser.new_context().new_page().context.close()
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 900, "height": 700})
    page = context.new_page()
    yield page
    context.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("web") / "data") as server:
        yield server.start()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    env = {"EVERSTREAM_JWT_SECRET": SECRET, "EVERSTREAM_JWT_LEEWAY_S": "0"}
    data = tmp_path_factory.mktemp("web") / "data"
    with ServerProcess(data, args=["--auth", "keys,jwt"], env=env) as server:
        yield server.start()


@pytest.fixture
def chat(page: Page, server: ServerProcess) -> Iterator[Chat]:
    chat = Chat(page, server.url)
    yield chat
    assert chat.errors == []
