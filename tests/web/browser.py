"""The one place that knows how the tests' browser is found, started and waited for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page

POLL_MS = 20

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
        page.wait_for_timeout(POLL_MS)
