"""The tests' browser, and the page as a person at it sees it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, WebSocketRoute

# Chromium calls home in several ways when it starts; a test's browser talks to the server under test alone.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
POLL_MS = 20


def chromium_path() -> str | None:
    """Where the installed Chromium lies; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def launch_options(path: str) -> dict[str, Any]:
    """The options of Playwright's `launch` for the Chromium at `path`."""
    return {"executable_path": path, "args": ARGUMENTS, "headless": True}


def wait_until(page: Page, seen: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until `seen()`.  Raises AssertionError when time runs out.

    Playwright's own `wait_for_function` evaluates a string in the page, which the page's content security policy
    forbids; and the policy is part of what is tested.
    """
    deadline = time.monotonic() + within_s
    while not seen():
        assert time.monotonic() < deadline, f"not seen within {within_s} s; the page shows:\n{page.inner_text('body')}"
        page.wait_for_timeout(POLL_MS)  # pause: between two looks at the page


def counted(tokens: int) -> str:
    """What `scripted/count` says."""
    return " ".join(str(number) for number in range(1, tokens + 1))


class Chat:
    """The page at `url`, by what a person does there and sees."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(url)
        self.wait_ready()

    def wait_ready(self) -> None:
        self.page.wait_for_selector("#model:not([disabled])", state="attached", timeout=20_000)

    def choose(self, model: str, **options: float) -> None:
        """Choose a model and fill in the options that are named: `tokens`, `rate`."""
        self.page.select_option("#model", model)
        if options:
            self.page.click("#options summary")
            for name, value in options.items():
                self.page.fill(f"#{name.replace('_', '-')}", str(value))
            self.page.click("#options summary")

    def ask(self, prompt: str) -> None:
        """Send a prompt, and wait until its answer begins, or it is refused."""
        before = self.turns
        self.send(prompt)
        refused = self.page.locator(".pending.failed")
        wait_until(self.page, lambda: self.turns > before or refused.count() > 0)

    def send(self, prompt: str) -> None:
        self.page.fill("#prompt", prompt)
        self.page.press("#prompt", "Enter")

    @property
    def connection(self) -> str | None:
        return self.page.get_attribute("#connection", "data-state")

    @property
    def turns(self) -> int:
        return self.page.locator(".reply").count()

    def answer(self, turn: int = -1) -> str:
        """The answer's text as far as it is shown; the last one's unless told otherwise."""
        answer = self.page.locator(".reply").nth(turn).locator(".answer")
        return answer.text_content() or "" if answer.count() else ""

    def state(self, turn: int = -1) -> str | None:
        return self.page.locator(".reply").nth(turn).get_attribute("data-state")

    def figure(self, name: str, turn: int = -1) -> str:
        return self.page.locator(".reply").nth(turn).locator(f"[data-figure={name}]").text_content() or ""

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_text_contents()

    def wait_texts(self, selector: str, texts: list[str], within_s: float = 20.0) -> None:
        wait_until(self.page, lambda: self.texts(selector) == texts, within_s)

    def wait_answer(self, characters: int, within_s: float = 20.0) -> str:
        """Wait until the last answer has that many characters."""
        wait_until(self.page, lambda: len(self.answer()) >= characters, within_s)
        return self.answer()

    def wait_ended(self, within_s: float = 40.0) -> str:
        """Wait until the last turn is over, and say how it ended."""
        wait_until(self.page, lambda: self.turns > 0 and self.state() != "live", within_s)
        return self.state() or ""

    def wait_connection(self, state: str, within_s: float = 20.0) -> None:
        wait_until(self.page, lambda: self.connection == state, within_s)


class Line:
    """The network between the page and its server, which a test can cut and listen in on.

    Made before the page is opened.  `sent` holds all commands of the page, one list a connection.  `drop(frame)` is
    asked of every frame from the server: True loses it on the way.  `cut_after(command)` closes a connection as soon
    as that command has gone through to the server.  While `broken`, no new connection comes about.  `alter(command)`
    may change a command on its way, so that a server gets what the page itself does not offer.  No connection over HTTP
    gets through instead of a WebSocket: what passes would not be seen.
    """

    def __init__(self, page: Page) -> None:
        self.sent: list[list[dict[str, Any]]] = []
        self.drop: Callable[[dict[str, Any]], bool] = lambda frame: False
        self.cut_after: Callable[[dict[str, Any]], bool] = lambda command: False
        self.broken = False
        self.alter: Callable[[dict[str, Any]], object] = lambda command: None
        self._routes: list[WebSocketRoute] = []
        page.route_web_socket("**/ws", self._connected)
        page.route("**/v1/events*", lambda route: route.abort())

    def cut(self, code: int = 1012) -> None:
        """Close the latest connection with `code`, as the server would."""
        self._routes[-1].close(code=code, reason="cut by the test")

    def inject(self, frame: dict[str, Any]) -> None:
        """Send a frame to the page, as the server would."""
        self._routes[-1].send(json.dumps(frame))

    def commands(self, kind: str) -> list[dict[str, Any]]:
        return [command for sent in self.sent for command in sent if command["type"] == kind]

    def _connected(self, route: WebSocketRoute) -> None:
        if self.broken:
            route.close(code=1012, reason="broken by the test")
            return
        server = route.connect_to_server()
        sent: list[dict[str, Any]] = []
        self.sent.append(sent)
        self._routes.append(route)

        def from_page(data: str | bytes) -> None:
            command = json.loads(data)
            sent.append(command)
            self.alter(command)
            server.send(json.dumps(command))
            if self.cut_after(command):
                route.close(code=1012, reason="cut by the test")

        def from_server(data: str | bytes) -> None:
            if not self.drop(json.loads(data)):
                route.send(data)

        route.on_message(from_page)
        server.on_message(from_server)
