"""What a chaos test begins with: a seed, which is printed, and a real store in a folder of its own."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator

import pytest
from tests.chaos.store_process import running_store
from tests.store.servers import StoreServer


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """All chance of a test.  EVERSTREAM_CHAOS_SEED repeats a run as far as processes can be repeated."""
    seed = int(os.environ.get("EVERSTREAM_CHAOS_SEED") or random.randrange(1_000_000))
    print(f"\n{request.node.name}: seed {seed}")
    return random.Random(seed)


@pytest.fixture
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StoreServer]:
    async with running_store(tmp_path_factory.mktemp("store")) as server:
        yield server
