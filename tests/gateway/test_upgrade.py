"""What is left of a request that has become a WebSocket: nothing but its place at the gate."""

from __future__ import annotations

import gc

from tests.gateway.conftest import serving
from tests.runtime.conftest import until

from everstream.gateway.transport_http import GuardedHttp


def requests_held() -> int:
    """Found without collecting cycles, which a server puts off."""
    return sum(type(one) is GuardedHttp for one in gc.get_objects())


async def test_the_request_of_a_websocket_is_let_go_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        async with serving() as gateway:
            before = requests_held()
            async with gateway.client(), gateway.client():
                await until(lambda: requests_held() == before)
    finally:
        gc.enable()
