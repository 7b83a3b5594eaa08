"""`everstream.library_result`: what the metrics of a stream say, while it runs and when it has ended."""

from __future__ import annotations

import asyncio

from tests.runtime.conftest import HEADERS, Hand, until

import everstream
from everstream.core.events import Finish, Usage
from everstream.library_engine import Engine

PAUSE_S = 0.05


async def test_gaps_are_those_of_the_arrival_however_late_it_is_read(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine, engine.stream("hand/x", "hi") as stream:
        await until(lambda: hand.calls)
        call = hand.calls[0]
        call.say(HEADERS)
        for word in ("one ", "two ", "three"):
            call.words(word)
            await until(lambda word=word: stream.result.text.endswith(word))
            await asyncio.sleep(PAUSE_S)  # pause: the gap that is measured
        call.say(Finish("stop", Usage(1, 3, 4, "provider")))
        call.end(None)
        await until(lambda: not stream.result.partial)
        metrics = stream.metrics
        events = [event async for event in stream]
        assert stream.metrics == metrics == stream.result.metrics
    assert metrics.chunks == 3
    assert metrics.gap_p50_ms is not None
    assert metrics.gap_max_ms is not None
    assert metrics.gap_p50_ms <= metrics.gap_max_ms == metrics.gap_p99_ms
    assert metrics.gap_p50_ms >= PAUSE_S * 1000 * 0.9  # a timer may ring a little early
    assert metrics.ttft_ms is not None
    assert metrics.stream_ms is not None
    assert metrics.ttft_ms + metrics.stream_ms <= metrics.total_ms + 0.01
    assert metrics.tokens_per_s is not None
    end = events[-1]
    assert isinstance(end, everstream.StreamEnd)
    assert (metrics.ttft_ms, metrics.total_ms) == (end.metrics.ttft_ms, end.metrics.total_ms)


async def test_a_stream_that_runs_has_metrics_so_far(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine:
        stream = engine.stream("hand/x", "hi")
        assert (stream.metrics.total_ms, stream.metrics.chunks) == (0.0, 0)
        async with stream:
            await until(lambda: hand.calls)
            hand.calls[0].say(HEADERS)
            hand.calls[0].words("one ")
            await until(lambda: stream.result.text)
            first = stream.metrics
            assert (first.chunks, first.tokens_per_s, first.gap_p50_ms) == (1, None, None)
            assert first.ttft_ms is not None
            assert 0 < first.ttft_ms <= first.total_ms


async def test_a_refused_request_has_metrics_too(engine: Engine) -> None:
    result = await engine.run("nobody/x", "hi")
    assert (result.metrics.ttft_ms, result.metrics.chunks, result.metrics.gap_max_ms) == (None, 0, None)
