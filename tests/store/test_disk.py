"""What a store does after failovers that forgot more than entries.  Each claim was a run of the simulator once."""

from __future__ import annotations

from tests.core.streams import OPENING, end, text

from everstream.core.events import Event, Seam
from everstream.core.lease import Epochs
from everstream.core.log import Log, Position, Verdict
from everstream.core.summary import fold
from everstream.store.base import Write
from everstream.store.memory import Disk, Record

FIRST: Epochs = ((10, 0),)
SECOND: Epochs = ((10, 0), (20, 5))


def _disk(record: Record) -> Disk:
    disk = Disk(lambda: 1_000)
    disk.records["r_x"] = record
    return disk


def _write(epochs: Epochs, base: int, entries: list[Event]) -> Write:
    return Write("r_x", epochs, base, entries, False, "n_b")


def test_a_leader_whose_reign_was_forgotten_cannot_reopen_what_has_ended_and_was_folded() -> None:
    ended = [*OPENING, *text("a", "b", "c"), end("cancelled")]
    disk = _disk(Record(FIRST, "n_a", b"", ended, ended=True))
    assert disk.fold("r_x", 7, fold(ended))
    seam = Seam(20, 2, "node_lost", "prefill", None, "n_b")
    assert disk.commit(_write(SECOND, 5, [seam])).verdict is Verdict.FENCED
    assert disk.commit(_write(SECOND, 0, [*ended[:5], seam])).verdict is Verdict.FENCED
    record = disk.records["r_x"]
    assert (record.epochs, record.tail, record.ended, record.summary) == (FIRST, 7, True, fold(ended))


def test_a_reign_that_lost_all_its_entries_leaves_the_table_when_the_next_begins() -> None:
    """Reign 20 began at 5, a failover left 2, and its leader died before it had sent more than one again."""
    disk = _disk(Record(FIRST, "n_a", b"", OPENING[:2]))
    assert disk.commit(_write(SECOND, 2, [OPENING[2]])).tail == 3
    state = disk.adopt("r_x", "n_b", "n_c")
    assert state is not None
    (first, first_start), (last, last_start) = state.head.epochs
    assert (first, first_start, last_start) == (10, 0, 3)
    assert last > 20


def test_a_reader_of_a_reign_that_lost_all_its_entries_has_no_place() -> None:
    disk = _disk(Record(SECOND, "n_b", b"", OPENING[:3]))
    state = disk.adopt("r_x", "n_b", "n_c")
    assert state is not None
    log = Log("r_x", state.head.epochs, state.entries)
    assert log.locate(Position(20, 6)) is None
    assert log.locate(Position(10, 4)) is None
    assert log.locate(Position(10, 3)) == 3
