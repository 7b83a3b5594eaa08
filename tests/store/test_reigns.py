"""Reigns after a failover: tables that are longer than what is left, histories that were folded, and empty commits."""

from __future__ import annotations

from tests.store.conftest import Place, Seat, new_stream, until
from tests.store.test_contract import END, HEAD, begun, commit, state, words, write

from everstream.core.lease import Epochs
from everstream.core.log import Verdict
from everstream.core.summary import Summary
from everstream.store.base import Reply


async def led_by_two(seat: Seat) -> tuple[str, Epochs]:
    """What a failover may leave: a reign that began after more than there is now."""
    stream, epochs = await begun(seat, HEAD)
    table = (*epochs, (epochs[0][0] + 1024, 6))
    # The leader makes good what the store forgot, and only the first piece arrives.
    assert await commit(seat, write(stream, table, 3, words("a"))) == [Reply(Verdict.OK, 4, False)]
    assert (await state(seat, stream)).head.epochs == table
    return stream, table


async def test_an_adopter_drops_reigns_of_which_no_entry_is_left(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, table = await led_by_two(one)
    adopted = await two.store.adopt(stream, "n_one")
    assert adopted is not None
    assert adopted.head.epochs[:-1] == table[:1]
    assert adopted.head.epochs[-1][1] == 4
    assert adopted.head.epochs == (await state(one, stream)).head.epochs


async def test_a_new_epoch_follows_even_a_reign_that_is_dropped(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    future = epochs[0][0] + (10**9 << 10)  # a node whose clock was ahead
    assert (await commit(one, write(stream, (*epochs, (future, 6)), 3, words("a"))))[0].verdict is Verdict.OK
    adopted = await two.store.adopt(stream, "n_one")
    assert adopted is not None
    assert len(adopted.head.epochs) == 2
    assert adopted.head.epochs[-1][0] > future


async def test_a_reign_that_begins_at_the_very_end_is_kept(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    assert await two.store.adopt(stream, "n_one") is not None
    again = await one.store.adopt(stream, "n_two")
    assert again is not None
    assert [start for _, start in again.head.epochs] == [0, 3, 3]
    assert again.head.epochs[:1] == epochs


async def test_no_newer_epoch_gets_below_what_is_folded(place: Place) -> None:
    """It has ended and was folded under a history that the other has not: there is no way to put them together."""
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, [*words("a"), END], ends=True))
    assert await seat.store.fold(stream, 5, Summary("a"))
    other = (*epochs, (epochs[0][0] + 1024, 3))
    for base, entries in ((3, words("b")), (0, [*HEAD, *words("b")]), (4, words("c"))):
        assert await commit(seat, write(stream, other, base, entries)) == [Reply(Verdict.FENCED, 5, False)]
    found = await state(seat, stream)
    assert (found.head.epochs, found.head.base, found.head.tail, found.head.ended) == (epochs, 5, 5, True)


async def test_a_newer_epoch_after_all_that_is_folded_is_taken(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, [*words("a"), END], ends=True))
    assert await seat.store.fold(stream, 5, Summary("a"))
    other = (*epochs, (epochs[0][0] + 1024, 5))
    assert await commit(seat, write(stream, other, 7, words("b"))) == [Reply(Verdict.GAP, 5, False)]


# --------------------------------------------------------------------------- empty commits


async def test_an_empty_commit_changes_nothing_and_says_that_all_is_there(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    before = await state(seat, stream)
    assert await commit(seat, write(stream, epochs, 3, [])) == [Reply(Verdict.OK, 3, False)]
    assert await state(seat, stream) == before


async def test_an_empty_commit_learns_of_a_lost_end_and_a_lost_stream(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    gone = new_stream()
    replies = await commit(seat, write(stream, epochs, 5, []), write(gone, epochs, 5, []))
    assert replies == [Reply(Verdict.GAP, 3, False), Reply(Verdict.GAP, 0, False)]
    assert await seat.store.read(gone) is None


async def test_an_empty_commit_learns_of_a_new_leader_and_of_a_cancel(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    await two.store.mark_cancelled(stream)
    assert await commit(one, write(stream, epochs, 3, [])) == [Reply(Verdict.OK, 3, True)]
    assert await two.store.adopt(stream, "n_one") is not None
    assert await commit(one, write(stream, epochs, 3, [])) == [Reply(Verdict.FENCED, 3, True)]


async def test_an_empty_commit_makes_a_stream_again_that_has_no_entries_yet(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = new_stream(), ((5 << 10, 0),)
    assert await commit(seat, write(stream, epochs, 0, [])) == [Reply(Verdict.OK, 0, False)]
    found = await state(seat, stream)
    assert (found.head.epochs, found.head.tail, found.head.meta, found.head.leader) == (epochs, 0, b"meta", "n_one")
    assert await seat.store.open_streams() == [(stream, "n_one")]


async def test_an_empty_commit_of_an_ended_and_of_a_folded_stream_finds_it_whole(place: Place) -> None:
    seat = await place.seat()
    stream, epochs = await begun(seat, HEAD)
    await commit(seat, write(stream, epochs, 3, [*words("a"), END], ends=True))
    assert await commit(seat, write(stream, epochs, 5, [])) == [Reply(Verdict.OK, 5, False)]
    assert await seat.store.fold(stream, 5, Summary("a"))
    assert await commit(seat, write(stream, epochs, 5, [])) == [Reply(Verdict.OK, 5, False)]
    found = await state(seat, stream)
    assert (found.head.base, found.head.tail, found.head.ended, found.summary) == (5, 5, True, Summary("a"))


async def test_followers_hear_nothing_of_empty_commits(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    stream, epochs = await begun(one, HEAD)
    await two.store.follow(stream)
    await commit(one, write(stream, epochs, 3, []))
    await commit(one, write(stream, epochs, 3, words("a")))
    await until(lambda: bool(two.pushes))
    assert [(push.after, push.entries) for push in two.pushes] == [(3, words("a"))]
