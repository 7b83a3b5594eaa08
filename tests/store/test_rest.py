"""Streams that nobody leads for a while, streams that are erased, and tables of many reigns: held to every store."""

from __future__ import annotations

import pytest
from tests.store.cluster import eventually
from tests.store.conftest import Place, Seat, new_stream, until
from tests.store.test_contract import END, HEAD, begun, commit, state, words, write

from everstream.core.events import Event
from everstream.core.lease import Epochs
from everstream.core.log import Log, Offer, Position, Verdict
from everstream.core.summary import Summary
from everstream.store.base import REIGNS_MAX, Reply, State
from everstream.store.memory import MemoryStore

FENCED = [Reply(Verdict.FENCED, 0, False)]


async def adopted(seat: Seat, stream: str, leader: str) -> State:
    found = await seat.store.adopt(stream, leader)
    assert found is not None
    return found


async def resting(seat: Seat) -> tuple[str, Epochs]:
    stream, epochs = await begun(seat, HEAD)
    assert await seat.store.rest(stream, epochs[-1][0], 3)
    return stream, epochs


# --------------------------------------------------------------------------- rest


async def test_a_stream_at_rest_is_led_by_nobody_and_looked_for_by_nobody(place: Place) -> None:
    seat = await place.seat()
    other, _ = await begun(seat, HEAD)
    stream, epochs = await resting(seat)
    found = await state(seat, stream)
    assert (found.head.leader, found.head.handed, found.head.epochs, found.entries) == ("", True, epochs, HEAD)
    assert not found.head.ended
    assert await seat.store.open_streams() == [(other, "n_one")]


async def test_who_adopts_a_stream_at_rest_opens_it_again(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, _ = await resting(one)
    assert await two.store.adopt(stream, "n_one") is None
    found = await adopted(two, stream, "")
    assert (found.head.leader, found.head.handed, found.entries) == ("n_two", True, HEAD)
    assert await one.store.open_streams() == [(stream, "n_two")]
    assert not (await state(one, stream)).head.handed
    assert await one.store.adopt(stream, "") is None, "another one was faster"


async def test_a_commit_of_a_newer_epoch_opens_a_stream_at_rest(place: Place) -> None:
    """A failover forgot the adoption."""
    seat = await place.seat()
    stream, epochs = await resting(seat)
    newer = (*epochs, (epochs[0][0] + 5000, 3))
    assert await commit(seat, write(stream, newer, 3, words("a"), leader="n_two")) == [Reply(Verdict.OK, 4, False)]
    assert await seat.store.open_streams() == [(stream, "n_two")]
    assert not (await state(seat, stream)).head.handed


async def test_last_words_of_the_old_leader_wake_nobody(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await resting(seat)
    assert await commit(seat, write(stream, epochs, 3, words("a"))) == [Reply(Verdict.OK, 4, False)]
    assert (await state(seat, stream)).entries == [*HEAD, *words("a")]
    assert await seat.store.open_streams() == []


async def test_a_stream_is_laid_to_rest_again_and_again_and_nothing_of_that_is_left(place: Place) -> None:
    seats = [await place.seat(), await place.seat("n_two")]
    stream, epochs = await resting(seats[0])
    seen = [epochs[-1][0]]
    for turn in range(4):
        found = await adopted(seats[turn % 2], stream, "")
        assert found.head.epochs[:-1] == epochs, "a reign without an entry leaves no trace"
        seen.append(found.head.epochs[-1][0])
        assert await seats[turn % 2].store.rest(stream, seen[-1], 3)
    assert seen == sorted(set(seen))
    found = await adopted(seats[1], stream, "")
    await commit(seats[1], write(stream, found.head.epochs, 3, words("a"), leader="n_two"))
    assert await seats[1].store.rest(stream, found.head.epochs[-1][0], 4)
    assert (await adopted(seats[0], stream, "")).head.epochs[:-1] == found.head.epochs


async def test_only_the_leader_of_this_epoch_lays_to_rest_and_only_what_is_stored_and_open(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    epoch = epochs[-1][0]
    assert not await two.store.rest(stream, epoch, 3)
    assert not await one.store.rest(stream, epoch + 1, 3)
    assert not await one.store.rest(new_stream(), epoch, 3)
    for tail in (2, 4):
        assert not await one.store.rest(stream, epoch, tail)
    assert await one.store.open_streams() == [(stream, "n_one")]
    await adopted(two, stream, "n_one")
    assert not await one.store.rest(stream, epoch, 3)
    assert await one.store.open_streams() == [(stream, "n_two")]
    ended, epochs = await begun(one, HEAD)
    await commit(one, write(ended, epochs, 3, [END], ends=True))
    assert not await one.store.rest(ended, epochs[-1][0], 4)


async def test_laying_to_rest_may_be_said_again_until_somebody_has_adopted_it(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await resting(one)
    assert await one.store.rest(stream, epochs[-1][0], 3)
    assert await one.store.open_streams() == []
    await adopted(two, stream, "")
    assert not await one.store.rest(stream, epochs[-1][0], 3)
    assert await one.store.open_streams() == [(stream, "n_two")]


async def test_handing_over_a_stream_at_rest_has_its_heir_looked_for(place: Place) -> None:
    """The reply to `rest` was lost, and the node goes down: whoever is named must be found to have it."""
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await resting(one)
    assert await one.store.hand_over(stream, epochs[-1][0], 3, "n_two")
    assert await one.store.open_streams() == [(stream, "n_two")]
    assert await two.store.adopt(stream, "") is None
    await adopted(two, stream, "n_two")


async def test_a_stream_at_rest_can_be_read_followed_and_cancelled(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, _ = await resting(one)
    await two.store.follow(stream)
    head = await two.store.mark_cancelled(stream)
    assert head is not None
    assert (head.leader, head.cancelled) == ("", True)
    assert await one.store.open_streams() == []
    found = await adopted(one, stream, "")
    assert found.head.cancelled
    await commit(one, write(stream, found.head.epochs, 3, words("a")))
    await until(lambda: bool(two.pushes))
    assert two.pushes[0].entries == words("a")


async def test_a_replica_of_a_stream_at_rest_rests() -> None:
    disk = MemoryStore().disk
    disk.create("r_x", "", b"meta", "n_one", 1000)
    epoch = disk.records["r_x"].epochs[-1][0]
    replica = disk.copy()
    assert disk.rest("r_x", epoch, 0, "n_one")
    later = disk.copy()
    assert disk.adopt("r_x", "", "n_two") is not None
    assert [one.records["r_x"].rests for one in (replica, later, disk)] == [False, True, False]


# --------------------------------------------------------------------------- purge


async def open_(seat: Seat, stream: str, epochs: Epochs) -> None:
    pass


async def ended(seat: Seat, stream: str, epochs: Epochs) -> None:
    await commit(seat, write(stream, epochs, 3, [END], ends=True))


async def folded(seat: Seat, stream: str, epochs: Epochs) -> None:
    await ended(seat, stream, epochs)
    assert await seat.store.fold(stream, 4, Summary("x", end=END))


async def handed(seat: Seat, stream: str, epochs: Epochs) -> None:
    assert await seat.store.hand_over(stream, epochs[-1][0], 3, "n_two")


async def at_rest(seat: Seat, stream: str, epochs: Epochs) -> None:
    assert await seat.store.rest(stream, epochs[-1][0], 3)


async def cancelled(seat: Seat, stream: str, epochs: Epochs) -> None:
    assert await seat.store.mark_cancelled(stream) is not None


async def followed(seat: Seat, stream: str, epochs: Epochs) -> None:
    await seat.store.follow(stream)


STATES = (open_, ended, folded, handed, at_rest, cancelled, followed)


async def purged_in_every_state(seat: Seat) -> list[tuple[str, Epochs]]:
    made = []
    for bring in STATES:
        stream, epochs = await begun(seat, HEAD)
        await bring(seat, stream, epochs)
        made.append((stream, epochs))
    never = new_stream()
    made.append((never, ((1024, 0),)))
    await seat.store.purge([stream for stream, _ in made])
    return made


async def test_what_is_purged_is_not_there_any_more_whatever_it_was(place: Place) -> None:
    seat = await place.seat()
    kept, _ = await begun(seat, HEAD)
    for stream, epochs in await purged_in_every_state(seat):
        assert await seat.store.read(stream) is None
        for leader in ("", "n_one", "n_two"):
            assert await seat.store.adopt(stream, leader) is None
        for epoch in (epochs[-1][0], 2**53 - 1):
            assert not await seat.store.hand_over(stream, epoch, 0, "n_two")
            assert not await seat.store.rest(stream, epoch, 0)
        assert await seat.store.mark_cancelled(stream) is None
        for tail in (0, 4):
            assert not await seat.store.fold(stream, tail, Summary("back"))
        await seat.store.follow(stream)
        assert await seat.store.read(stream) is None
    assert await seat.store.open_streams() == [(kept, "n_one")]
    assert (await state(seat, kept)).entries == HEAD


async def test_no_commit_brings_back_what_is_purged(place: Place) -> None:
    seat = await place.seat()
    for stream, epochs in await purged_in_every_state(seat):
        newer = (*epochs, (epochs[-1][0] + 5000, 3))
        tables: tuple[Epochs, ...] = (epochs, newer, ((2**53 - 2, 0),))
        for table in tables:
            for base, entries, ends in ((0, HEAD, False), (3, words("a"), False), (3, [END], True), (0, [], False)):
                given: list[Event] = entries
                assert await commit(seat, write(stream, table, base, given, ends=ends)) == FENCED
        assert await seat.store.read(stream) is None
    assert await seat.store.open_streams() == []


async def test_nobody_hears_of_what_is_purged_any_more(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    (gone, epochs), (kept, others) = await begun(one, HEAD), await begun(one, HEAD)
    for stream in (gone, kept):
        await two.store.follow(stream)
    await one.store.purge([gone])
    await two.store.follow(gone)
    await commit(one, write(gone, epochs, 3, words("late")), write(kept, others, 3, words("a")))
    await until(lambda: bool(two.pushes))
    assert [push.stream for push in two.pushes] == [kept]


async def test_a_request_whose_stream_is_purged_makes_a_new_one(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    first = await one.store.create(new_stream(), "q1", b"meta")
    await two.store.purge([first.stream])
    again = await one.store.create(new_stream(), "q1", b"meta")
    assert again.fresh
    assert again.stream != first.stream
    repeated = await two.store.create(new_stream(), "q1", b"meta")
    assert (repeated.stream, repeated.epochs, repeated.fresh) == (again.stream, again.epochs, False)
    assert await one.store.open_streams() == [(again.stream, "n_one")]


async def test_the_name_of_what_is_purged_stays_taken(place: Place) -> None:
    seat = await place.seat()
    stream, _ = await begun(seat, HEAD)
    await seat.store.purge([stream])
    again = await seat.store.create(stream, "q1", b"meta")
    assert (again.stream, again.fresh) == (stream, False)
    assert await commit(seat, write(stream, again.epochs, 0, HEAD)) == FENCED
    assert await seat.store.read(stream) is None
    assert await seat.store.open_streams() == []


async def test_purging_is_safe_to_repeat_and_of_nothing_is_nothing(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await seat.store.purge([])
    assert (await state(seat, stream)).entries == HEAD
    for _ in range(2):
        await seat.store.purge([stream, stream])
    assert await commit(seat, write(stream, epochs, 3, words("a"))) == FENCED


async def test_a_thousand_streams_of_a_session_are_purged_in_one_call(place: Place) -> None:
    seat = await place.seat()
    made = [new_stream() for _ in range(1_000)]
    await commit(seat, *(write(stream, ((1024, 0),), 0, HEAD) for stream in made))
    assert len(await seat.store.open_streams()) == 1_000
    await seat.store.purge(made)
    assert await seat.store.open_streams() == []


async def test_where_a_replica_is_to_have_commits_it_is_to_have_a_purge_too(place: Place) -> None:
    """Else a failover brings back what somebody wanted erased."""
    if place.kind != "sentinel":
        pytest.skip("only there replicas are waited for")
    seat = await place.seat()
    stream, _ = await begun(seat, HEAD)
    primary, replica = await place.pair()

    async def waits() -> int:
        (line,) = [one for one in (await primary.say("INFO commandstats")).splitlines() if "cmdstat_wait:" in one]
        return int(line.partition("calls=")[2].partition(",")[0])

    before = await waits()
    await seat.store.purge([stream])
    assert await waits() == before + 1

    async def has_it() -> bool:  # of two, one is waited for
        return await replica.say(f"HGET es:{{p7}}:h:{stream} s") == "1"

    await eventually(has_it, "the replica's copy")


async def test_a_replica_in_memory_has_what_was_purged_until_then() -> None:
    disk = MemoryStore().disk
    for stream in ("r_x", "r_y"):
        disk.create(stream, "", b"meta", "n_one", 1000)
    disk.purge(["r_x"])
    replica = disk.copy()
    disk.purge(["r_y"])
    assert (replica.purged, set(replica.records)) == ({"r_x"}, {"r_y"})


# --------------------------------------------------------------------------- many reigns


async def of_many_reigns(seat: Seat, reigns: int) -> tuple[str, Epochs]:
    """A stream with an entry of each of them."""
    first = 5 << 10
    table = tuple((first + (n << 10), n) for n in range(reigns))
    stream = new_stream()
    entries = [*HEAD, *words(*(f"{n} " for n in range(3, reigns)))]
    assert (await commit(seat, write(stream, table, 0, entries)))[0].verdict is Verdict.OK
    return stream, table


@pytest.mark.parametrize("reigns", [REIGNS_MAX - 1, REIGNS_MAX, REIGNS_MAX + 40])
async def test_an_adopter_forgets_the_oldest_of_too_many_reigns(place: Place, reigns: int) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, table = await of_many_reigns(one, reigns)
    found = await adopted(two, stream, "n_one")
    first, *others = table[1 - REIGNS_MAX :]
    assert len(found.head.epochs) == REIGNS_MAX
    assert found.head.epochs[:-1] == ((first[0], 0), *others)
    assert found.head.epochs[-1][0] > table[-1][0]
    assert found.head.epochs[-1][1] == reigns == len(found.entries)
    assert (await state(one, stream)).head.epochs == found.head.epochs


async def test_with_a_table_that_was_cut_the_new_leader_commits_and_the_old_one_is_fenced(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, table = await of_many_reigns(one, REIGNS_MAX)
    found = await adopted(two, stream, "n_one")
    tail = REIGNS_MAX
    assert await commit(one, write(stream, table, tail, words("late"))) == [Reply(Verdict.FENCED, tail, False)]
    write_ = write(stream, found.head.epochs, tail, words("heir"), leader="n_two")
    assert await commit(two, write_) == [Reply(Verdict.OK, tail + 1, False)]
    assert (await state(one, stream, tail)).entries == words("heir")


async def test_a_follower_from_before_a_table_was_cut_starts_over_and_is_whole(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, table = await of_many_reigns(one, REIGNS_MAX)
    read = await state(one, stream)
    log = Log(stream, table, read.entries)
    seen = Position(table[0][0], 1)
    await one.store.follow(stream)
    found = await adopted(two, stream, "n_one")
    await commit(two, write(stream, found.head.epochs, REIGNS_MAX, words("heir"), leader="n_two"))
    await until(lambda: bool(one.pushes))
    push = one.pushes[0]
    assert log.offer(push.epochs, push.after, push.entries) is Offer.FORKED
    read = await state(one, stream)
    log = Log(stream, read.head.epochs, read.entries)
    assert log.offer(push.epochs, push.after, push.entries) is Offer.KNOWN
    assert log.entries[-1:] == words("heir")
    assert log.tail == REIGNS_MAX + 1
    assert log.locate(seen) is None, "a reader of a forgotten reign gets a snapshot"
    assert log.locate(Position(table[1][0], 2)) == 2


async def test_a_primary_from_before_a_table_was_cut_takes_the_stream_from_the_start(place: Place) -> None:
    """A failover to a replica that has not heard of the adoption."""
    seat = await place.seat()
    stream, table = await of_many_reigns(seat, REIGNS_MAX)
    cut = ((table[1][0], 0), *table[2:], (table[-1][0] + 1024, REIGNS_MAX))
    assert await commit(seat, write(stream, cut, REIGNS_MAX, words("a"))) == [Reply(Verdict.GAP, 0, False)]
    entries = [*(await state(seat, stream)).entries, *words("a")]
    assert await commit(seat, write(stream, cut, 0, entries)) == [Reply(Verdict.OK, REIGNS_MAX + 1, False)]
    assert (await state(seat, stream)).entries == entries


async def test_a_reign_without_a_word_takes_no_older_ones_place(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, table = await of_many_reigns(one, REIGNS_MAX - 1)
    found = await adopted(two, stream, "n_one")
    assert await two.store.rest(stream, found.head.epochs[-1][0], REIGNS_MAX - 1)
    assert (await adopted(one, stream, "")).head.epochs[:-1] == table
