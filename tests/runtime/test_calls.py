"""Questions between nodes: answered over a network that loses and repeats, and carried out once at most."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from tests.runtime.conftest import until

from everstream.core.errors import EverstreamError
from everstream.runtime import calls
from everstream.runtime.calls import Calls
from everstream.store.memory import MemoryStore

WAIT_S = 5.0


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "AGAIN_S", 0.01)


class Bad(MemoryStore):
    """A store whose messages are lost, doubled and late, as its seed says."""

    def __init__(self, seed: int, loss: float) -> None:
        super().__init__()
        self._rnd, self._loss = Random(seed), loss

    async def send(self, node: str, message: bytes) -> None:
        await self.ping()
        for _ in range(self._rnd.choice((1, 1, 2))):
            if node in self.peers and self._rnd.random() > self._loss:
                late_s = self._rnd.choice((0.0, 0.005, 0.03))
                asyncio.get_running_loop().call_later(late_s, self.peers[node]._on_message, message)


class Answerer:
    """Says the question back, counts how often each came, and can be held."""

    def __init__(self) -> None:
        self.came: Counter[bytes] = Counter()
        self.free = asyncio.Event()
        self.free.set()
        self.fails = False

    async def __call__(self, question: bytes) -> bytes:
        self.came[question] += 1
        await self.free.wait()
        if self.fails:
            raise ValueError("against the contract")
        return b"re: " + question


@asynccontextmanager
async def talking(store: MemoryStore, node: str, answer: Answerer | None = None) -> AsyncIterator[Calls]:
    """A node that asks and answers.  What it hears is in `heard`."""
    there = Calls(store, node, answer or Answerer())

    def heard(message: bytes) -> None:
        assert there.on_message(message), "only questions and answers are sent here"

    await store.open(node, lambda push: None, heard)
    try:
        yield there
    finally:
        await asyncio.wait_for(there.stop(), WAIT_S)
        await store.close()


@asynccontextmanager
async def pair(store: MemoryStore) -> AsyncIterator[tuple[Calls, Answerer]]:
    """A node to ask with, and what answers at the node `n_b`."""
    answerer = Answerer()
    async with talking(store, "n_a") as asker, talking(beside(store), "n_b", answerer):
        yield asker, answerer


def beside(store: MemoryStore) -> MemoryStore:
    other = Bad(7, store._loss) if isinstance(store, Bad) else store.beside()
    other.peers = store.peers
    return other


async def test_a_question_is_answered_whatever_bytes_it_is_made_of() -> None:
    async with pair(MemoryStore()) as (asker, answerer):
        for question in (b"", b" ", b"a b  c", b"\0\xff\nask ", os.urandom(100_000)):
            assert await asker.ask("n_b", question, WAIT_S) == b"re: " + question
        assert set(answerer.came.values()) == {1}


async def test_a_node_can_ask_itself() -> None:
    answerer = Answerer()
    async with talking(MemoryStore(), "n_a", answerer) as asker:
        assert await asker.ask("n_a", b"self", WAIT_S) == b"re: self"


@pytest.mark.parametrize("seed", range(8))
async def test_questions_get_through_a_bad_network_and_are_carried_out_once(seed: int) -> None:
    async with pair(Bad(seed, loss=0.5)) as (asker, answerer):
        questions = [b"%d" % n for n in range(50)]
        said = await asyncio.gather(*(asker.ask("n_b", question, WAIT_S) for question in questions))
        assert said == [b"re: " + question for question in questions]
        await asyncio.sleep(0.04)  # pause: what is late still comes, and must do nothing
        assert answerer.came == dict.fromkeys(questions, 1)


async def test_a_slow_question_that_is_repeated_is_carried_out_once() -> None:
    async with pair(MemoryStore()) as (asker, answerer):
        sent = count_sends(asker)
        answerer.free.clear()
        asking = asyncio.create_task(asker.ask("n_b", b"slow", WAIT_S))
        await until(lambda: len(sent) >= 5)
        answerer.free.set()
        assert await asking == b"re: slow"
        assert answerer.came == {b"slow": 1}


def count_sends(asker: Calls) -> list[bytes]:
    """What this node sends from now on."""
    sent: list[bytes] = []
    send = asker._store.send

    async def noted(node: str, message: bytes) -> None:
        sent.append(message)
        await send(node, message)

    asker._store.send = noted  # type: ignore[method-assign]
    return sent


async def test_a_lost_answer_is_given_again_and_not_made_again() -> None:
    store = MemoryStore()
    async with talking(store, "n_a") as asker:
        answerer, other = Answerer(), store.beside()
        send, lost = other.send, 0

        async def losing(node: str, message: bytes) -> None:
            nonlocal lost
            lost += 1
            if lost > 3:
                await send(node, message)

        other.send = losing  # type: ignore[method-assign]
        async with talking(other, "n_b", answerer):
            assert await asker.ask("n_b", b"once", WAIT_S) == b"re: once"
            assert lost == 4
            assert answerer.came == {b"once": 1}


async def test_a_dead_node_is_waited_for_as_long_as_asked_and_nothing_is_left_over() -> None:
    async with talking(MemoryStore(), "n_a") as asker:
        sent = count_sends(asker)
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            await asker.ask("n_dead", b"?", 0.1)
        assert len(sent) > 1
        await until(lambda: asyncio.all_tasks() == before)
        assert not asker._asked


async def test_a_store_that_is_away_to_the_end_is_told_apart_from_a_silent_node() -> None:
    store = MemoryStore()
    async with talking(store, "n_a") as asker:
        store.available = False
        with pytest.raises(EverstreamError) as failed:
            await asker.ask("n_b", b"?", 0.05)
        assert failed.value.code == "store.unavailable"


async def test_a_store_that_hangs_holds_nobody_longer_than_asked() -> None:
    store = MemoryStore()
    async with talking(store, "n_a") as asker:
        hangs = asyncio.Event()

        async def hang(node: str, message: bytes) -> None:
            await hangs.wait()

        store.send = hang  # type: ignore[method-assign]
        with pytest.raises(EverstreamError) as failed:
            await asyncio.wait_for(asker.ask("n_b", b"?", 0.05), WAIT_S)
        assert failed.value.code == "store.unavailable"


async def test_a_store_that_comes_back_in_time_is_no_failure() -> None:
    store = MemoryStore()
    async with pair(store) as (asker, _):
        store.available = False
        asking = asyncio.create_task(asker.ask("n_b", b"late", WAIT_S))
        await asyncio.sleep(0.03)  # pause: it is sent some times in vain
        store.available = True
        assert await asking == b"re: late"


async def test_whoever_stops_waiting_leaves_nothing_behind() -> None:
    async with pair(MemoryStore()) as (asker, answerer):
        answerer.free.clear()
        asking = asyncio.create_task(asker.ask("n_b", b"?", WAIT_S))
        await until(lambda: answerer.came)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: not asker._tasks)
        assert not asker._asked


async def test_a_node_that_stops_tells_those_who_wait_and_answers_nothing_more() -> None:
    async with pair(MemoryStore()) as (asker, answerer):
        answerer.free.clear()
        asking = asyncio.create_task(asker.ask("n_b", b"?", WAIT_S))
        await until(lambda: answerer.came)
        await asker.stop()
        with pytest.raises(EverstreamError, match="stops"):
            await asking
        with pytest.raises(EverstreamError, match="stops"):
            await asker.ask("n_b", b"?", WAIT_S)
        assert asker.on_message(b"ask " + b"0" * 32 + b" n_b again")
        assert not asker._tasks


async def test_an_answer_that_fails_is_no_answer_and_is_not_tried_again() -> None:
    async with pair(MemoryStore()) as (asker, answerer):
        answerer.fails = True
        with pytest.raises(TimeoutError):
            await asker.ask("n_b", b"?", 0.1)
        assert answerer.came == {b"?": 1}


async def test_questions_at_a_time_have_a_bound_and_the_others_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "ANSWERING_MAX", 3)
    async with pair(MemoryStore()) as (asker, answerer):
        answerer.free.clear()
        sent = count_sends(asker)
        questions = [b"%d" % n for n in range(10)]
        asking = asyncio.gather(*(asker.ask("n_b", question, WAIT_S) for question in questions))
        await until(lambda: len(sent) >= 30)
        assert len(answerer.came) == 3
        answerer.free.set()
        assert await asking == [b"re: " + question for question in questions]
        assert set(answerer.came.values()) == {1}


@pytest.mark.parametrize(
    "garbage",
    [
        b"ask ", b"ask x", b"ask x y", b"ask x y z", b"ask  ", b"said ", b"said x", b"said  \xff", b"ask \xff\xff \0 ",
        b"ask " + b"0" * 32 + b" \xff ", b"ask " + b"0" * 32 + b" ", b"ask " + b"0" * 32 + b"  ",
        b"ask " + b"0" * 32 + b" " + b"n" * 200 + b" ?",
    ],
)  # fmt: skip
async def test_garbage_is_taken_and_dropped(garbage: bytes) -> None:
    async with pair(MemoryStore()) as (asker, answerer):
        assert asker.on_message(garbage)
        assert not asker._tasks
        assert not answerer.came


async def test_messages_of_others_are_left_to_them() -> None:
    async with pair(MemoryStore()) as (asker, _):
        for message in (b"", b"cancel r_1", b"asking", b"saidx"):
            assert not asker.on_message(message)


async def test_an_answer_that_is_late_or_strange_is_dropped() -> None:
    async with pair(MemoryStore()) as (asker, _):
        sent = count_sends(asker)
        assert await asker.ask("n_b", b"?", WAIT_S) == b"re: ?"
        question_id = sent[0].split(b" ")[1]
        assert asker.on_message(b"said " + question_id + b" another")
        assert asker.on_message(b"said " + b"f" * 32 + b" whatever")
        assert await asker.ask("n_b", b"!", WAIT_S) == b"re: !"
        assert len({message.split(b" ")[1] for message in sent}) == 2, "an id was used twice"


async def test_what_is_kept_of_answers_has_bounds_and_what_was_done_outlives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "ANSWERS_MAX", 4)
    monkeypatch.setattr(calls, "ANSWERS_BYTES", 100)
    monkeypatch.setattr(calls, "DONE_MAX", 8)
    done = calls._Done()
    for n in range(6):
        done.add(b"%d" % n, b"answer", now=0.0)
    assert [done.answer(b"%d" % n) for n in range(6)] == [None, None, b"answer", b"answer", b"answer", b"answer"]
    assert all(done.knows(b"%d" % n, 1.0) for n in range(6))
    done.add(b"large", bytes(90), now=1.0)
    assert done.answer(b"5") == b"answer"
    assert done.answer(b"4") is None
    done.add(b"too large", bytes(101), now=1.0)
    assert (done.answer(b"too large"), done.knows(b"too large", 1.0)) == (None, True)
    assert done.answer(b"large") == bytes(90)
    for n in range(6, 20):
        done.add(b"%d" % n, None, now=2.0)
    assert [n for n in range(20) if done.knows(b"%d" % n, 2.0)] == list(range(12, 20))
    done.add(b"much later", b"", now=2.0 + calls.KEPT_S + 1)
    assert not done.knows(b"19", 100.0)
    assert done._answers_bytes == 0
