"""Streams with a named heir, marks beside entries, the dark after an outage, and notes: held to every store."""

from __future__ import annotations

import asyncio

from tests.store.conftest import Place, Seat, new_stream, until
from tests.store.test_contract import END, HEAD, begun, commit, state, words

from everstream.core.events import Event, Mark
from everstream.core.lease import Epochs
from everstream.core.log import Verdict
from everstream.core.summary import Summary
from everstream.store.base import Reply, Write

WAIT_S = 10.0


async def marked(
    seat: Seat, stream: str, epochs: Epochs, base: int, entries: list[Event], marks: dict[int, Mark]
) -> Reply:
    (reply,) = await seat.store.commit([Write(stream, epochs, base, entries, False, seat.node, b"meta", marks)])
    return reply


# --------------------------------------------------------------------------- heirs


async def test_a_stream_made_for_another_is_led_by_it_and_handed_until_it_adopts(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream = new_stream()
    assert (await one.store.create(stream, "q", b"meta", "n_two")).fresh
    head = (await state(one, stream)).head
    assert (head.leader, head.handed) == ("n_two", True)
    assert await one.store.open_streams() == [(stream, "n_two")]
    adopted = await two.store.adopt(stream, "n_two")
    assert adopted is not None
    assert adopted.head.handed, "whoever adopts must know that it was meant to"
    assert not (await state(one, stream)).head.handed
    assert (await two.store.create(stream, "q", b"meta")).epochs == adopted.head.epochs


async def test_a_stream_of_ones_own_is_not_handed(place: Place) -> None:
    seat = await place.seat()
    stream, _ = await begun(seat, HEAD)
    assert not (await state(seat, stream)).head.handed


async def test_handing_over_names_the_heir_and_changes_nothing_else(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    assert await one.store.hand_over(stream, epochs[-1][0], 3, "n_two")
    found = await state(one, stream)
    assert (found.head.leader, found.head.handed, found.head.epochs, found.entries) == ("n_two", True, epochs, HEAD)
    assert await commit(one, Write(stream, epochs, 3, words("a"), False, "n_one")) == [Reply(Verdict.OK, 4, False)]
    assert (await state(one, stream)).head.handed, "the old leader may say its last words"
    assert await two.store.adopt(stream, "n_one") is None
    adopted = await two.store.adopt(stream, "n_two")
    assert adopted is not None
    assert adopted.entries == [*HEAD, *words("a")]
    assert (await commit(one, Write(stream, epochs, 4, words("late"), False, "n_one")))[0].verdict is Verdict.FENCED


async def test_handing_over_may_be_said_again(place: Place) -> None:
    one = await place.seat()
    stream, epochs = await begun(one, HEAD)
    assert await one.store.hand_over(stream, epochs[-1][0], 3, "n_two")
    assert await one.store.hand_over(stream, epochs[-1][0], 3, "n_three")
    assert (await state(one, stream)).head.leader == "n_three"


async def test_what_the_store_does_not_hold_is_not_handed_over(place: Place) -> None:
    one = await place.seat()
    stream, epochs = await begun(one, HEAD)
    for tail in (2, 4):
        assert not await one.store.hand_over(stream, epochs[-1][0], tail, "n_two")
    assert (await state(one, stream)).head.leader == "n_one"


async def test_a_reign_that_was_handed_on_without_a_word_leaves_no_trace(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    assert await one.store.hand_over(stream, epochs[-1][0], 3, "n_two")
    second = await two.store.adopt(stream, "n_two")
    assert second is not None
    assert await two.store.hand_over(stream, second.head.epochs[-1][0], 3, "n_one")
    third = await one.store.adopt(stream, "n_one")
    assert third is not None
    assert third.head.epochs[:-1] == epochs
    assert third.head.epochs[-1][0] > second.head.epochs[-1][0]
    fourth = await two.store.adopt(stream, "n_one")  # it died, and that is an attempt
    assert fourth is not None
    assert fourth.head.epochs[:-1] == third.head.epochs


async def test_a_stream_may_be_left_to_whoever_comes(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    assert await one.store.hand_over(stream, epochs[-1][0], 3, "")
    assert await one.store.open_streams() == [(stream, "")]
    adopted = await two.store.adopt(stream, "")
    assert adopted is not None
    assert adopted.head.leader == "n_two"


async def test_only_the_leader_of_this_epoch_hands_over_and_nothing_that_has_ended(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    epoch = epochs[-1][0]
    assert not await two.store.hand_over(stream, epoch, 3, "n_two")
    assert not await one.store.hand_over(stream, epoch + 1, 3, "n_two")
    assert not await one.store.hand_over(new_stream(), epoch, 3, "n_two")
    assert await two.store.adopt(stream, "n_one") is not None
    assert not await one.store.hand_over(stream, epoch, 3, "n_three")
    assert (await state(one, stream)).head.leader == "n_two"
    ended, epochs = await begun(one, HEAD)
    await commit(one, Write(ended, epochs, 3, [END], True, "n_one"))
    assert not await one.store.hand_over(ended, epochs[-1][0], 4, "n_two")


async def test_a_commit_of_a_newer_epoch_ends_the_handing_over(place: Place) -> None:
    one = await place.seat()
    stream, epochs = await begun(one, HEAD)
    assert await one.store.hand_over(stream, epochs[-1][0], 3, "n_two")
    newer = (*epochs, (epochs[0][0] + 5000, 3))
    reply = await commit(one, Write(stream, newer, 3, words("a"), False, "n_three"))
    assert reply == [Reply(Verdict.OK, 4, False)]
    head = (await state(one, stream)).head
    assert (head.leader, head.handed) == ("n_three", False)


# --------------------------------------------------------------------------- marks


async def test_marks_come_back_by_offset_beside_the_entries_they_were_given_with(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    marks = {4: Mark("cursor-1"), 6: Mark({"id": "resp_1", "at": [7, None]}, (1, 2**31, 3), 5)}
    assert await marked(one, stream, epochs, 3, words("a", "b", "c"), marks) == Reply(Verdict.OK, 6, False)
    found = await state(one, stream)
    assert found.entries == [*HEAD, *words("a", "b", "c")]
    assert found.marks == marks
    assert (await state(one, stream, 4)).marks == {6: marks[6]}
    adopted = await two.store.adopt(stream, "n_one")
    assert adopted is not None
    assert adopted.marks == marks


async def test_a_repeat_brings_only_the_marks_of_what_is_new(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await marked(seat, stream, epochs, 3, words("a"), {4: Mark("first")})
    await marked(seat, stream, epochs, 3, words("a", "b"), {4: Mark("other"), 5: Mark("second")})
    assert (await state(seat, stream)).marks == {4: Mark("first"), 5: Mark("second")}


async def test_marks_of_what_is_cut_away_go_with_it(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await marked(seat, stream, epochs, 3, words("a", "b"), {4: Mark("kept"), 5: Mark("cut")})
    newer = (*epochs, (epochs[0][0] + 5000, 4))
    await commit(seat, Write(stream, newer, 4, words("c"), False, "n_two"))
    assert (await state(seat, stream)).marks == {4: Mark("kept")}


async def test_marks_are_pushed_to_nobody_and_folded_away(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    await two.store.follow(stream)
    await marked(one, stream, epochs, 3, words("a"), {4: Mark("secret")})
    await until(lambda: bool(two.pushes))
    assert two.pushes[0].entries == words("a")
    await commit(one, Write(stream, epochs, 4, [END], True, "n_one"))
    assert await one.store.fold(stream, 5, Summary("a", end=END))
    assert (await state(one, stream)).marks == {}


# --------------------------------------------------------------------------- the dark after an outage


async def test_who_finds_others_alive_may_judge_at_once(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    assert await one.store.renew(60_000), "a store that has never seen anybody has missed nobody"
    assert await two.store.renew(60_000)
    assert await one.store.renew(60_000)


async def test_after_all_leases_have_run_out_nobody_is_taken_for_dead_for_a_while(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    await one.store.renew(60)
    await two.store.renew(60)
    async with asyncio.timeout(WAIT_S):
        while await one.store.nodes():
            await asyncio.sleep(0.01)  # pause: the passing of time is what is tested
    assert not await one.store.renew(1_000)
    assert not await two.store.renew(60_000)
    assert await one.store.nodes() == {"n_one", "n_two"}
    async with asyncio.timeout(WAIT_S):
        while not await two.store.renew(60_000):
            await asyncio.sleep(0.01)  # pause: the passing of time is what is tested
    assert await one.store.renew(60_000)


async def test_the_last_to_give_its_lease_up_leaves_no_dark(place: Place) -> None:
    one = await place.seat()
    await one.store.renew(60_000)
    await one.store.release()
    assert await one.store.nodes() == set()
    assert await one.store.renew(60_000)


# --------------------------------------------------------------------------- notes


async def test_what_one_node_remembers_another_recalls(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    name = "http://host/v1 model\x00:{p7}\n"
    assert await two.store.recall(name) is None
    await one.store.remember(name, b"\x00prefill\xff", 60)
    assert await two.store.recall(name) == b"\x00prefill\xff"
    await one.store.remember(name, b"none", 60)
    assert await two.store.recall(name) == b"none"
    assert await two.store.recall(name + "2") is None


async def test_a_note_is_forgotten_after_its_time(place: Place) -> None:
    one = await place.seat()
    await one.store.remember("n", b"v", 1)
    assert await one.store.recall("n") == b"v"
    async with asyncio.timeout(WAIT_S):
        while await one.store.recall("n") is not None:
            await asyncio.sleep(0.02)  # pause: the passing of time is what is tested
