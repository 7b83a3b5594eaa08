"""The contract of a store (`store/base.py`), verb by verb, held to every store there is."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from tests.store.conftest import Place, Seat, new_stream, until

from everstream.core.events import (
    Cost,
    DeltaText,
    DeltaToolCall,
    Event,
    FirstToken,
    HeadersReceived,
    LastToken,
    Metrics,
    RequestStart,
    Seam,
    StreamEnd,
    Usage,
)
from everstream.core.lease import Epochs
from everstream.core.log import Verdict
from everstream.core.summary import CalledTool, Summary
from everstream.store.base import Reply, State, Write

END = StreamEnd(
    "complete", "stop", Usage(1, 2, 3, "provider"), Cost(0.1, 0.2, 0.3), Metrics(1.0, 2.0, 3.0, 4.0), None, []
)
HEAD: list[Event] = [RequestStart("scripted/count", 1), HeadersReceived(2), FirstToken(0.5)]


def words(*texts: str) -> list[Event]:
    return [DeltaText(text) for text in texts]


def write(
    stream: str, epochs: Epochs, base: int, entries: list[Event], *, ends: bool = False, leader: str = "n_one"
) -> Write:
    return Write(stream, epochs, base, entries, ends, leader, b"" if base else b"meta")


async def commit(seat: Seat, *writes: Write) -> list[Reply]:
    return await seat.store.commit(writes)


async def begun(seat: Seat, entries: list[Event], stream: str = "") -> tuple[str, Epochs]:
    """A stream of this node with these entries."""
    stream = stream or new_stream()
    created = await seat.store.create(stream, "", b"meta")
    assert await commit(seat, write(stream, created.epochs, 0, entries)) == [Reply(Verdict.OK, len(entries), False)]
    return stream, created.epochs


async def state(seat: Seat, stream: str, after: int = 0) -> State:
    found = await seat.store.read(stream, after)
    assert found is not None
    return found


# --------------------------------------------------------------------------- create


async def test_a_new_stream_is_open_and_led_by_its_maker(place: Place) -> None:
    seat = await place.seat()
    stream = new_stream()
    created = await seat.store.create(stream, "q1", b"meta")
    assert (created.stream, created.fresh) == (stream, True)
    head = (await state(seat, stream)).head
    assert (head.epochs, head.tail, head.base, head.ended, head.leader) == (created.epochs, 0, 0, False, "n_one")
    assert (head.meta, head.cancelled) == (b"meta", False)
    assert await seat.store.open_streams() == [(stream, "n_one")]


async def test_a_repeated_request_makes_nothing_and_names_the_first_stream(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    first = await one.store.create(new_stream(), "q1", b"meta")
    again = await two.store.create(new_stream(), "q1", b"other")
    assert (again.stream, again.epochs, again.fresh) == (first.stream, first.epochs, False)
    assert len(await one.store.open_streams()) == 1


async def test_requests_without_a_name_are_never_taken_for_one_another(place: Place) -> None:
    seat = await place.seat()
    made = [await seat.store.create(new_stream(), "", b"") for _ in range(2)]
    assert made[0].stream != made[1].stream
    assert all(created.fresh for created in made)


async def test_making_a_stream_twice_does_not_make_it_anew(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    again = await seat.store.create(stream, "", b"other")
    assert (again.epochs, again.fresh) == (epochs, False)
    assert (await state(seat, stream)).head.tail == 3


async def test_a_request_is_forgotten_after_its_time(place: Place) -> None:
    seat = await place.seat(request_ttl_s=1)
    first = await seat.store.create(new_stream(), "q1", b"")
    assert not (await seat.store.create(new_stream(), "q1", b"")).fresh
    async with asyncio.timeout(10):
        while not (again := await seat.store.create(new_stream(), "q1", b"")).fresh:
            await asyncio.sleep(0.02)  # pause: the passing of time is what is tested
    assert again.stream != first.stream


# --------------------------------------------------------------------------- commit


async def test_every_kind_of_entry_comes_back_as_it_went_in(place: Place) -> None:
    seat = await place.seat()
    entries: list[Event] = [
        *HEAD,
        DeltaText("żółć 🙂 \x00\n"),
        DeltaText(""),
        DeltaToolCall(0, '{"a":', "call_1", "f"),
        DeltaToolCall(0, "1}"),
        Seam(2**52, 2, "node_lost", "exact", "verified", "n_x"),
        LastToken(),
        END,
    ]
    stream, _ = await begun(seat, entries)
    assert (await state(seat, stream)).entries == entries


async def test_a_repeated_commit_appends_nothing(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    for _ in range(2):
        assert await commit(seat, write(stream, epochs, 3, words("a", "b"))) == [Reply(Verdict.OK, 5, False)]
    assert (await state(seat, stream)).entries == [*HEAD, *words("a", "b")]


async def test_a_commit_that_overlaps_appends_only_what_is_new(place: Place) -> None:
    """The reply to the first was lost; meanwhile there is more to send."""
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, words("a", "b")))
    assert await commit(seat, write(stream, epochs, 3, words("a", "b", "c"))) == [Reply(Verdict.OK, 6, False)]
    assert (await state(seat, stream, 3)).entries == words("a", "b", "c")


async def test_a_late_repeat_of_an_older_commit_changes_nothing(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, words("a", "b", "c")))
    assert await commit(seat, write(stream, epochs, 3, words("a"))) == [Reply(Verdict.OK, 6, False)]


async def test_a_commit_beyond_the_tail_is_a_gap_and_changes_nothing(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    assert await commit(seat, write(stream, epochs, 9, words("x"))) == [Reply(Verdict.GAP, 3, False)]
    assert (await state(seat, stream)).entries == HEAD


async def test_a_stream_that_the_store_lost_is_a_gap_from_the_start_and_is_made_again(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = new_stream(), ((1024, 0),)
    assert await commit(seat, write(stream, epochs, 4, words("x"))) == [Reply(Verdict.GAP, 0, False)]
    assert await seat.store.read(stream) is None
    assert await commit(seat, write(stream, epochs, 0, words("x"))) == [Reply(Verdict.OK, 1, False)]
    head = (await state(seat, stream)).head
    assert (head.meta, head.leader, head.epochs) == (b"meta", "n_one", epochs)
    assert await seat.store.open_streams() == [(stream, "n_one")]


async def test_an_older_epoch_is_fenced_and_changes_nothing(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    adopted = await two.store.adopt(stream, "n_one")
    assert adopted is not None
    assert await commit(one, write(stream, epochs, 3, words("zombie"))) == [Reply(Verdict.FENCED, 3, False)]
    assert await commit(two, write(stream, adopted.head.epochs, 3, words("heir"), leader="n_two")) == [
        Reply(Verdict.OK, 4, False)
    ]
    assert (await state(one, stream, 3)).entries == words("heir")


async def test_a_newer_epoch_first_cuts_away_what_it_does_not_share(place: Place) -> None:
    """A replica that had not heard of the adoption took over: it holds what the old leader wrote beside it."""
    seat = await place.seat()
    stream, epochs = await begun(seat, [*HEAD, *words("a", "old", "old")])
    newer = (*epochs, (epochs[0][0] + 5000, 4))
    assert await commit(seat, write(stream, newer, 4, words("b"), leader="n_two")) == [Reply(Verdict.OK, 5, False)]
    found = await state(seat, stream)
    assert found.entries == [*HEAD, *words("a", "b")]
    assert (found.head.epochs, found.head.leader) == (newer, "n_two")


async def test_a_newer_epoch_that_shares_nothing_begins_the_stream_anew(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, [*HEAD, *words("a")])
    newer = ((epochs[0][0] + 5000, 0),)
    assert await commit(seat, write(stream, newer, 0, [HEAD[0]], leader="n_two")) == [Reply(Verdict.OK, 1, False)]
    assert (await state(seat, stream)).entries == [HEAD[0]]


async def test_a_newer_epoch_over_a_gap_is_told_how_far_they_agree_and_changes_nothing(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    newer = (*epochs, (epochs[0][0] + 5000, 6))
    assert await commit(seat, write(stream, newer, 6, words("x"), leader="n_two")) == [Reply(Verdict.GAP, 3, False)]
    found = await state(seat, stream)
    assert (found.head.epochs, found.entries) == (epochs, HEAD)


async def test_an_end_that_history_lost_reopens_the_stream_for_good(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, [END], ends=True))
    newer = (*epochs, (epochs[0][0] + 5000, 3))
    assert await commit(seat, write(stream, newer, 3, words("a"), leader="n_two")) == [Reply(Verdict.OK, 4, False)]
    assert not (await state(seat, stream)).head.ended
    assert await seat.store.open_streams() == [(stream, "n_two")]


async def test_an_ended_stream_is_open_no_more(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    assert await commit(seat, write(stream, epochs, 3, [END], ends=True)) == [Reply(Verdict.OK, 4, False)]
    assert (await state(seat, stream)).head.ended
    assert await seat.store.open_streams() == []


async def test_streams_of_one_commit_are_judged_each_for_itself(place: Place) -> None:
    seat = await place.seat()
    made = [await begun(seat, HEAD) for _ in range(3)]
    writes = [
        write(made[0][0], made[0][1], 3, words("a")),
        write(made[1][0], made[1][1], 8, words("b")),
        write(made[2][0], ((1, 0),), 3, words("c")),
    ]
    verdicts = [reply.verdict for reply in await commit(seat, *writes)]
    assert verdicts == [Verdict.OK, Verdict.GAP, Verdict.FENCED]


async def test_the_largest_commit_there_is_fits(place: Place) -> None:
    seat = await place.seat()
    made = [await begun(seat, HEAD) for _ in range(40)]
    replies = await commit(seat, *(write(s, e, 3, words(*(str(n) for n in range(512)))) for s, e in made))
    assert replies == [Reply(Verdict.OK, 515, False)] * 40


# --------------------------------------------------------------------------- cancel mark


async def test_a_cancel_mark_is_in_every_reply_and_survives_adoption(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    head = await two.store.mark_cancelled(stream)
    assert head is not None
    assert (head.leader, head.cancelled, head.ended) == ("n_one", True, False)
    assert await commit(one, write(stream, epochs, 3, words("a"))) == [Reply(Verdict.OK, 4, True)]
    adopted = await two.store.adopt(stream, "n_one")
    assert adopted is not None
    assert adopted.head.cancelled


async def test_an_ended_stream_takes_no_cancel_mark(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, [END], ends=True))
    head = await seat.store.mark_cancelled(stream)
    assert head is not None
    assert (head.ended, head.cancelled) == (True, False)


async def test_what_does_not_exist_cannot_be_cancelled_read_adopted_or_folded(place: Place) -> None:
    seat = await place.seat()
    stream = new_stream()
    assert await seat.store.mark_cancelled(stream) is None
    assert await seat.store.read(stream) is None
    assert await seat.store.adopt(stream, "n_one") is None
    assert not await seat.store.fold(stream, 0, Summary())
    assert await seat.store.open_streams() == []


# --------------------------------------------------------------------------- adopt


async def test_adopting_begins_a_newer_epoch_at_the_tail_and_reads_it_all(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, [*HEAD, *words("a")])
    adopted = await two.store.adopt(stream, "n_one")
    assert adopted is not None
    assert adopted.entries == [*HEAD, *words("a")]
    assert adopted.head.epochs[:-1] == epochs
    epoch, start = adopted.head.epochs[-1]
    assert start == 4
    assert epoch > epochs[-1][0]
    assert (adopted.head.leader, adopted.head.meta) == ("n_two", b"meta")
    assert await one.store.open_streams() == [(stream, "n_two")]


async def test_only_one_of_two_adopts(place: Place) -> None:
    one, two, three = await place.seat(), await place.seat("n_two"), await place.seat("n_three")
    stream, _ = await begun(one, HEAD)
    adopted = await asyncio.gather(two.store.adopt(stream, "n_one"), three.store.adopt(stream, "n_one"))
    assert [state is None for state in adopted].count(True) == 1


async def test_an_ended_stream_is_not_adopted(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    await commit(one, write(stream, epochs, 3, [END], ends=True))
    assert await two.store.adopt(stream, "n_one") is None


async def test_epochs_grow_with_every_adoption_even_within_a_millisecond(place: Place) -> None:
    seats = [await place.seat(), await place.seat("n_two")]
    stream, _ = await begun(seats[0], HEAD)
    for turn in range(20):
        assert await seats[(turn + 1) % 2].store.adopt(stream, seats[turn % 2].node) is not None
    epochs = [epoch for epoch, _ in (await state(seats[0], stream)).head.epochs]
    assert len(epochs) == 21
    assert all(before < after for before, after in pairwise(epochs))


# --------------------------------------------------------------------------- read and fold


@pytest.mark.parametrize(("after", "found"), [(0, 0), (2, 2), (5, 5), (99, 5)])
async def test_reading_begins_after_the_given_offset_but_not_beyond_the_tail(
    place: Place, after: int, found: int
) -> None:
    seat = await place.seat()
    entries = [*HEAD, *words("a", "b")]
    stream, _ = await begun(seat, entries)
    read = await state(seat, stream, after)
    assert (read.after, read.entries, read.head.tail) == (found, entries[found:], 5)


async def test_a_folded_stream_is_read_as_its_sum(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, [*words("a", "b"), LastToken(), END], ends=True))
    sum_ = Summary("ab", "hm", "", (CalledTool(0, "call_1", "f", "{}"),), END, 2)
    assert await seat.store.fold(stream, 7, sum_)
    for after in (0, 3, 7, 99):
        read = await state(seat, stream, after)
        assert (read.after, read.entries, read.summary) == (7, [], sum_)
        assert (read.head.base, read.head.tail, read.head.ended) == (7, 7, True)
    assert await seat.store.fold(stream, 7, sum_), "folding is safe to repeat"


async def test_an_open_stream_and_one_of_another_length_are_not_folded(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    assert not await seat.store.fold(stream, 3, Summary())
    await commit(seat, write(stream, epochs, 3, [END], ends=True))
    assert not await seat.store.fold(stream, 3, Summary())
    assert (await state(seat, stream)).head.base == 0


async def test_a_commit_into_what_was_folded_changes_nothing(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, [END], ends=True))
    await seat.store.fold(stream, 4, Summary(end=END))
    assert await commit(seat, write(stream, epochs, 3, [END], ends=True)) == [Reply(Verdict.OK, 4, False)]
    read = await state(seat, stream)
    assert (read.head.base, read.head.tail, read.entries) == (4, 4, [])


# --------------------------------------------------------------------------- followers, messages, leases


async def test_what_is_committed_after_following_is_pushed_as_it_is(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    await two.store.follow(stream)
    sent = [words("a"), words("b", "ż🙂"), [LastToken(), END]]
    base = 3
    for entries in sent:
        await commit(one, write(stream, epochs, base, entries, ends=entries[-1] is END))
        base += len(entries)
    await until(lambda: len(two.pushes) >= 3)
    assert [push.entries for push in two.pushes] == sent
    assert [(push.stream, push.epochs, push.after) for push in two.pushes] == [
        (stream, epochs, after) for after in (3, 4, 6)
    ]
    assert not one.pushes


async def test_who_does_not_follow_any_more_is_pushed_nothing(place: Place) -> None:
    one, two, three = await place.seat(), await place.seat("n_two"), await place.seat("n_three")
    stream, epochs = await begun(one, HEAD)
    await two.store.follow(stream)
    await three.store.follow(stream)
    await two.store.unfollow(stream)
    await commit(one, write(stream, epochs, 3, words("a")))
    await until(lambda: bool(three.pushes))
    assert not two.pushes


async def test_a_refused_commit_is_not_pushed(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    await two.store.follow(stream)
    await commit(one, write(stream, epochs, 9, words("gap")))
    await commit(one, write(stream, ((1, 0),), 3, words("fenced")))
    await commit(one, write(stream, epochs, 3, words("a")))
    await until(lambda: bool(two.pushes))
    assert [push.entries for push in two.pushes] == [words("a")]


async def test_a_message_reaches_its_node_and_no_other(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")

    async def reached() -> None:
        while not two.messages:  # a hint may be lost while its receiver is just arriving
            await one.store.send("n_two", b"\x00hi\xff")
            await asyncio.sleep(0.01)  # pause: between two looks at what came

    await asyncio.wait_for(reached(), 10)
    assert set(two.messages) == {b"\x00hi\xff"}
    assert not one.messages
    await one.store.send("n_nobody", b"lost")


async def test_a_lease_runs_out_by_itself_and_can_be_given_up(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    await one.store.renew(60_000)
    await two.store.renew(300)
    assert await one.store.nodes() == {"n_one", "n_two"}
    async with asyncio.timeout(10):
        while await one.store.nodes() != {"n_one"}:
            await asyncio.sleep(0.01)  # pause: the passing of time is what is tested
    await two.store.renew(60_000)
    assert await one.store.nodes() == {"n_one", "n_two"}
    await one.store.release()
    assert await two.store.nodes() == {"n_two"}


async def test_open_streams_of_all_partitions_are_found(place: Place) -> None:
    seat = await place.seat()
    streams = [new_stream(partition) for partition in (0, 1, 31, 62, 63)]
    for stream in streams:
        await seat.store.create(stream, "", b"")
    assert sorted(await seat.store.open_streams()) == sorted((stream, "n_one") for stream in streams)
