"""What is served beside the WebSocket: health and metrics."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families
from tests.gateway.conftest import Gateway, get

from everstream.gateway.metrics import COUNTERS, ENDED, GAUGES, SEAMS


async def test_health_is_alive_and_readiness_follows_the_store(gateway: Gateway) -> None:
    assert (await get(gateway, "/healthz"))[0] == 200
    assert (await get(gateway, "/readyz"))[0] == 200
    gateway.store.available = False
    status, _, body = await get(gateway, "/readyz")
    assert (status, json.loads(body)["code"]) == (503, "store.unavailable")
    assert (await get(gateway, "/healthz"))[0] == 200
    gateway.store.available = True
    assert (await get(gateway, "/readyz"))[0] == 200


async def test_a_draining_server_is_not_ready(gateway: Gateway) -> None:
    gateway.node.draining = True
    status, _, body = await get(gateway, "/readyz")
    assert (status, json.loads(body)["code"]) == (503, "node.draining")
    async with gateway.client() as client:
        assert (await client.next())["type"] == "goaway"
        reply = await client.ask("generate", model="scripted/count", messages=[{"role": "user", "content": "x"}])
        assert (reply["code"], reply["retryable"]) == ("node.draining", True)


async def test_metrics_are_what_happened_and_every_one_has_a_text(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for n in range(3):
            await client.ended(
                await client.generate(
                    params={"tokens": 10, "rate": 0, **({"fail_at": 3, "fail_code": "provider.auth"} if n else {})}
                )
            )
        status, headers, body = await get(gateway, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families.keys() >= {*(name for name, *_ in COUNTERS), ENDED[0], SEAMS[0], *(name for name, _ in GAUGES)}
    assert all(family.documentation for family in families.values())
    values = {(s.name, *s.labels.values()): s.value for family in families.values() for s in family.samples}
    assert values["everstream_streams_started_total",] == 3
    assert values["everstream_streams_ended_total", "complete"] == 1
    assert values["everstream_streams_ended_total", "failed"] == 2
    assert values["everstream_connections_open",] == 1
    assert values["everstream_entries_committed_total",] >= 3 * 5
