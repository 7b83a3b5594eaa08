"""The vendors' packages are imported in a thread, for it takes a second, and one after the other.

A package that another thread is importing is in `sys.modules` already, half made, and some look there to find out
what is installed.  So whoever is about to use a package waits until nobody imports any.  openai looks there in the
midst of its requests, for httpx, which google-genai brings in where it is installed: that is made whole before either.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from importlib import import_module

_LOOKED_FOR = {"openai": "httpx", "google.genai": "httpx"}

_importing = threading.Lock()


async def load(*packages: str) -> None:
    """Import them, without blocking the loop.  Costs nothing where that has been done.  Raises ImportError."""
    if _importing.locked() or not all(package in sys.modules for package in packages):
        await asyncio.to_thread(_load, packages)


def _load(packages: tuple[str, ...]) -> None:
    with _importing:
        for package in packages:
            with contextlib.suppress(ImportError):  # it is not installed, or of no use: so is what is found of it
                import_module(_LOOKED_FOR.get(package, package))
            import_module(package)
