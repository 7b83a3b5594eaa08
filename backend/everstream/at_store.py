"""A command that does something in the store and ends, beside a running server or where none runs.

It is one more that shares the store: beside a running server it attaches to the embedded one as a further server would,
and where none runs it starts it for the moment that it needs it.  It takes no lease, so nothing is ever given to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

from everstream.arguments import log_to_stderr
from everstream.config import ConfigError
from everstream.console import Exit
from everstream.settings import Settings
from everstream.store.base import Store
from everstream.store.urls import store_of


def run_at_store(settings: Settings, what: str, act: Callable[[Store], Awaitable[int]]) -> int:
    """Do it; its exit code.  `what` it is about, in the plural.

    Raises ConfigError for a store that ends with its process, and StoreUnavailable.
    """
    if settings.store.startswith("memory:"):
        raise ConfigError([f"memory:// is gone with its process, and so would be its {what}: name another store"])
    log_to_stderr()
    try:
        return asyncio.run(_apart(settings, act))
    except asyncio.CancelledError:
        return Exit.INTERRUPTED


async def _apart(settings: Settings, act: Callable[[Store], Awaitable[int]]) -> int:
    """Do it, and let go of the store also when told to stop: whoever starts an embedded one has to end it."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # where there is no such signal, there is no embedded store
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _opened(settings) as store:
        return await act(store)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Store]:
    store = store_of(settings)
    await store.open(f"k_{secrets.token_hex(8)}", lambda push: None, lambda message: None)
    try:
        yield store
    finally:
        await store.close()
