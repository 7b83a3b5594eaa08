"""The vendors' packages are imported in a thread, for it takes a second, and one after the other.

A package that another thread is importing is in `sys.modules` already, half made, and some look there to find out
what is installed: openai does so for httpx, which google-genai brings in.  So whoever is about to use a package waits
until nobody imports any.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from importlib import import_module

_importing = threading.Lock()


async def load(*packages: str) -> None:
    """Import them, without blocking the loop.  Costs nothing where that has been done.  Raises ImportError."""
    if _importing.locked() or not all(package in sys.modules for package in packages):
        await asyncio.to_thread(_load, packages)


def _load(packages: tuple[str, ...]) -> None:
    with _importing:
        for package in packages:
            import_module(package)
