"""`everstream.library` for plain functions: text, whole results, in any thread, and nothing left when they are done."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
import time
from collections.abc import Callable

import pytest
from tests.providers.wire_server import Reply, WireServer
from tests.runtime.conftest import Hand, until

import everstream
from everstream import library
from everstream.core.events import CONTENT

WAIT_S = 10.0
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'

Settings = Callable[..., everstream.Settings]


def test_text_comes_piece_by_piece_and_the_result_after_it() -> None:
    stream = everstream.iter_stream("scripted/count", "hi", tokens=5, rate=0)
    assert list(stream) == ["1", " 2", " 3", " 4", " 5"]
    assert (stream.result.text, stream.result.partial) == ("1 2 3 4 5", False)
    assert stream.metrics.chunks == 5
    assert list(stream) == []


def test_a_run_gives_the_whole_result() -> None:
    result = everstream.run("scripted/echo", [{"role": "user", "content": "say this"}], rate=0)
    assert (result.text, result.reason, result.finish_reason) == ("say this", "complete", "stop")


def test_a_start_prints_what_it_returns(capsys: pytest.CaptureFixture[str]) -> None:
    result = everstream.start("scripted/count", "hi", tokens=3, thinking_tokens=2, rate=0)
    assert capsys.readouterr().out == "1 2 3\n"
    assert result.text == "1 2 3"
    page = io.StringIO()
    everstream.start("scripted/count", "hi", tokens=3, rate=0, file=page)
    assert page.getvalue() == "1 2 3\n"
    assert capsys.readouterr().out == ""


async def test_the_asynchronous_start_prints_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    result = await everstream.start_async("scripted/count", "hi", tokens=3, rate=0)
    await everstream.aclose()
    assert (capsys.readouterr().out, result.text) == ("1 2 3\n", "1 2 3")


def test_a_start_that_fails_says_why_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    result = everstream.start("scripted/count", "hi", tokens=9, fail_at=2, continuation="none", rate=0)
    assert (result.partial, result.truncated) == (True, True)
    said = capsys.readouterr()
    assert said.out == "1 2\n"
    assert said.err.startswith("everstream: provider.connection: ")


def test_what_is_withdrawn_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    result = everstream.start("scripted/count", "hi", tokens=3, fail_at=2, continuation="restart", rate=0)
    assert (capsys.readouterr().out, result.text) == ("1 2\n1 2 3\n", "1 2 3")


def test_a_failure_is_raised_behind_the_last_piece_of_text() -> None:
    stream = everstream.iter_stream("scripted/count", "hi", tokens=9, fail_at=2, continuation="none", rate=0)
    assert [next(stream), next(stream)] == ["1", " 2"]
    with pytest.raises(everstream.EverstreamError) as caught:
        next(stream)
    assert caught.value.code == "provider.connection"
    assert (stream.result.text, stream.result.partial) == ("1 2", True)


def test_a_run_that_fails_says_so_in_its_result() -> None:
    result = everstream.run("nobody/x", "hi")
    assert result.error is not None
    assert result.error.code == "model.unknown"


async def test_they_work_in_a_thread_whose_loop_runs() -> None:
    assert everstream.run("scripted/count", "hi", tokens=3, rate=0).text == "1 2 3"
    assert "".join(everstream.iter_stream("scripted/count", "hi", tokens=3, rate=0)) == "1 2 3"


def test_many_threads_share_one_loop() -> None:
    texts: dict[int, str] = {}

    def ask(tokens: int) -> None:
        texts[tokens] = everstream.run("scripted/count", "hi", tokens=tokens, rate=0).text

    before = threading.active_count()
    threads = [threading.Thread(target=ask, args=(tokens,)) for tokens in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert {tokens: len(text.split()) for tokens, text in texts.items()} == {n: n for n in range(1, 17)}
    assert threading.active_count() == before + 1
    everstream.close()
    assert threading.active_count() == before
    assert everstream.run("scripted/count", "hi", tokens=1, rate=0).text == "1"


def test_a_callback_runs_in_the_thread_that_iterates() -> None:
    threads: set[int] = set()
    contents: list[everstream.Event] = []

    def note(event: everstream.Event) -> None:
        threads.add(threading.get_ident())
        if isinstance(event, CONTENT):
            contents.append(event)

    everstream.run("scripted/count", "hi", tokens=3, rate=0, on_event=note)
    assert threads == {threading.get_ident()}
    assert len(contents) == 3


def test_an_asynchronous_callback_runs_too_and_one_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def note(event: everstream.Event) -> None:
        await asyncio.sleep(0)
        told.append(event.type)
        if event.type == "first_token":
            raise ValueError("of the callback")

    result = everstream.run("scripted/count", "hi", tokens=1, rate=0, on_event=note)
    assert told == ["request_start", "headers_received", "first_token", "delta_text", "last_token", "stream_end"]
    assert not result.partial
    assert "ValueError: of the callback" in caplog.text


def test_a_plain_function_in_an_asynchronous_callback_is_refused_and_does_not_hang(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ask_again(_: everstream.Event) -> None:
        everstream.run("scripted/count", "hi")

    assert everstream.run("scripted/count", "hi", tokens=1, rate=0, on_event=ask_again).text == "1"
    assert "await its asynchronous twin" in caplog.text


# --------------------------------------------------------------------------- stopping


async def test_closing_the_iterator_closes_the_providers_connection(wires: WireServer, settings_for: Settings) -> None:
    wires.reply = Reply(3 * CHUNK, hang_after=3 * len(CHUNK))

    def read_one(leave: str) -> str:
        stream = everstream.iter_stream("openai/x", "hi", settings=settings_for(wires))
        if leave == "with":
            with stream:
                return next(stream)
        if leave == "close":
            text = next(stream)
            stream.close()
            return text
        text = next(iter(stream))
        del stream
        gc.collect()
        return text

    for number, leave in enumerate(("with", "close", "drop"), 1):
        assert (await asyncio.to_thread(read_one, leave)).startswith("word ")
        await wires.client_closed(number)
    await asyncio.to_thread(everstream.close)


async def test_an_event_of_either_kind_cancels_from_another_thread(hand: Hand) -> None:
    for flag in (threading.Event(), asyncio.Event()):
        calls = len(hand.calls)
        running = asyncio.create_task(asyncio.to_thread(everstream.run, "hand/x", "hi", cancel=flag))
        await until(lambda calls=calls: len(hand.calls) > calls)
        flag.set()
        async with asyncio.timeout(WAIT_S):
            assert (await running).reason == "cancelled"
    await asyncio.to_thread(everstream.close)


async def test_a_stream_can_be_cancelled_while_another_thread_reads_it(hand: Hand) -> None:
    stream = everstream.iter_stream("hand/x", "hi")
    reading = asyncio.create_task(asyncio.to_thread(list, stream))
    await until(lambda: hand.calls)
    stream.cancel()
    async with asyncio.timeout(WAIT_S):
        assert await reading == []
    assert stream.result.reason == "cancelled"
    await asyncio.to_thread(everstream.close)


def test_an_interrupt_cancels_the_run(hand: Hand) -> None:
    def interrupt(_: everstream.Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        everstream.run("hand/x", "hi", on_event=interrupt)
    deadline = time.monotonic() + WAIT_S
    while any(not call.closed for call in hand.calls if call.taken):
        assert time.monotonic() < deadline
        time.sleep(0.001)  # pause: between two looks at what was closed
    assert library._portal().call(running_streams()) == 0


async def running_streams() -> int:
    engine = await library.implicit_engine(None)
    assert engine._node is not None
    return engine._node.generating
