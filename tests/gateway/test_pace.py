"""Who asks too much is slowed down, told so, and sent away in the end; nobody else notices."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from tests.gateway.conftest import MSGPACK, Gateway, raw_frames, serving
from websockets.frames import Frame, Opcode

from everstream.gateway import transport


async def test_commands_that_come_too_fast_are_refused_with_when_to_come_again_and_then_taken() -> None:
    async with serving(commands_per_s=2) as gateway, gateway.client() as client:
        for number in range(30):
            await client.send(type="ping", id=number)
        replies = [await client.next() for _ in range(30)]
        refused = [reply for reply in replies if reply["type"] == "error"]
        assert 9 <= len(refused) <= 11  # `hello` was one of the twenty
        assert {(reply["code"], reply["retryable"]) for reply in refused} == {("limit.rate", True)}
        assert 0 < refused[-1]["retry_after_ms"] <= 500
        async with asyncio.timeout(10):
            while (await client.ask("ping"))["type"] == "error":
                await asyncio.sleep(refused[-1]["retry_after_ms"] / 1000)  # pause: as it was told


async def test_who_does_not_hear_is_sent_away_and_may_come_back() -> None:
    async with serving(commands_per_s=1) as gateway:
        async with gateway.client(MSGPACK) as client, gateway.client() as neighbour:
            for number in range(40):
                await client.send(type="ping", id=number)
            assert await client.closed() == 4003
            assert (await neighbour.ask("ping"))["type"] == "pong"
        async with gateway.client() as client:
            assert (await client.ask("ping"))["type"] == "pong"


FLOODS = {
    "pings": Frame(Opcode.PING, b""),
    "pongs": Frame(Opcode.PONG, b"unasked"),
    "empty messages": Frame(Opcode.TEXT, b""),
    "pieces": Frame(Opcode.CONT, b"x", fin=False),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_frames_is_read_no_faster_than_the_pace(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FRAMES_AT_ONCE", 100)
    monkeypatch.setattr(transport, "FRAMES_PER_S", 200)
    async with serving() as gateway, gateway.client() as neighbour:
        seen = counted(monkeypatch)
        async with raw_frames(gateway) as (reader, writer):
            begun = time.monotonic()
            if kind == "pieces":
                writer.write(Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True))
            writer.write(FLOODS[kind].serialize(mask=True) * 20_000)
            while seen[0] < 500:
                assert (await neighbour.ask("ping"))["type"] == "pong"
                if reader.at_eof():
                    break
            spent = time.monotonic() - begun
            # A slice is read before it is paid for.
            assert seen[0] <= 100 + 200 * spent + 2 * transport.SLICE_BYTES / 6 + 1_000


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames were taken, of all connections."""
    seen = [0]
    taken = transport.DirectProtocol.handle_events

    def handle_events(self: transport.DirectProtocol) -> None:
        seen[0] += len(self.conn.events)
        taken(self)

    monkeypatch.setattr(transport.DirectProtocol, "handle_events", handle_events)
    return seen


async def test_one_long_frame_is_no_flood(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FRAMES_AT_ONCE", 20)
    async with gateway.client() as client:
        for size in (10, 4_090, 4_096, 5_000, 900_000):
            filler = os.urandom(size // 2).hex()
            assert (await client.ask("ping", filler=filler))["filler"] == filler
