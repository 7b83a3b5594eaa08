"""People before a server that asks who they are: tokens of its own secret, and pages that show them."""

from __future__ import annotations

import time

import jwt
from playwright.sync_api import Page
from tests.web.browser import Chat

SECRET = "a secret of tests, which has more than thirty-two bytes"
DIALOG = "#token-dialog[open]"


def signed(user: str, expires_in_s: float) -> str:
    return jwt.encode({"sub": user, "exp": time.time() + expires_in_s}, SECRET, "HS256")


class Visitor(Chat):
    """Somebody at a page that asks for a token first."""

    def __init__(self, page: Page, url: str, token: str) -> None:
        self._first = token
        self.console: list[str] = []
        page.on("console", lambda message: self.console.append(message.text))
        super().__init__(page, url)

    def wait_ready(self) -> None:
        token, self._first = self._first, ""
        if token:
            self.enter(token)
        super().wait_ready()

    def enter(self, token: str) -> None:
        self.page.wait_for_selector(DIALOG)
        self.page.fill("#token", token)
        self.page.press("#token", "Enter")

    @property
    def asked(self) -> bool:
        return self.page.locator(DIALOG).count() == 1

    @property
    def why(self) -> str:
        return self.page.inner_text("#token-why")
