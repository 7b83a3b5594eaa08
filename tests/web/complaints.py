"""What a browser complains of, while a test drives it, fails the test: every test, without asking for it.

    an error on the console      among them all violations of the page's content security policy
    an exception nobody caught
    a request to another machine

What the network does when the test breaks it, Chromium says on the console too; that is no complaint.  A module whose
tests make a browser complain names the beginnings of what it says in `EXPECTED_COMPLAINTS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext

# What Chromium says of connections that cannot be made or break off.
NETWORK_FAULTS = ("WebSocket connection to ", "Failed to load resource: net::")
# This machine, and the name under which tests hand out files themselves.
HERE = frozenset({"127.0.0.1", "localhost", "page.test"})
ELSEWHERE_SCHEMES = frozenset({"http", "https", "ws", "wss"})


class Complaints(list[str]):
    """Of all pages of the contexts that it is told of."""

    def __init__(self, expected: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._let_be = (*NETWORK_FAULTS, *expected)

    def of(self, context: BrowserContext) -> BrowserContext:
        context.on("console", lambda message: self._said(message.type, message.text))
        context.on("weberror", lambda error: self.append(f"exception: {error.error}"))
        context.on("request", lambda request: self._asked(request.url))
        context.on("page", lambda page: page.on("websocket", lambda socket: self._asked(socket.url)))
        return context

    def _said(self, kind: str, text: str) -> None:
        if kind == "error" and not text.startswith(self._let_be):
            self.append(f"console: {text}")

    def _asked(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme in ELSEWHERE_SCHEMES and address.hostname not in HERE:
            self.append(f"request: {url}")


@pytest.fixture(autouse=True)
def complaints(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Complaints]:
    """What the browser complains of in this test; it must be nothing."""
    heard = Complaints(getattr(request.module, "EXPECTED_COMPLAINTS", ()))
    if "browser" in request.fixturenames:
        browser: Browser = request.getfixturevalue("browser")
        new_context = browser.new_context

        def listened_to(**options: Any) -> BrowserContext:
            return heard.of(new_context(**options))

        monkeypatch.setattr(browser, "new_context", listened_to)
    yield heard
    assert not heard, "the browser complained:\n" + "\n".join(heard)
