"""Epochs, their tables, and the owner of an orphan."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.streams import History, two_histories

from everstream.core.lease import (
    PARTITIONS,
    Epochs,
    agreement,
    epoch_at,
    next_epoch,
    node_tag,
    owner_of,
    pack_epochs,
    partition_for,
    partition_of,
    stream_id,
    unpack_epochs,
)

TABLES = st.lists(
    st.tuples(st.integers(1, 2**53 - 1), st.integers(0, 2**40)),
    min_size=1,
    max_size=6,
    unique_by=lambda reign: reign[0],
).map(lambda reigns: tuple(zip(sorted(e for e, _ in reigns), sorted(s for _, s in reigns), strict=True)))


@given(st.integers(0, 2**52), st.integers(0, 2**42), st.integers(0, 1023))
def test_an_epoch_always_grows_and_names_its_node(last: int, clock_ms: int, tag: int) -> None:
    epoch = next_epoch(last, clock_ms, tag)
    assert epoch > last
    assert epoch & 1023 == tag


def test_a_store_that_forgot_an_epoch_does_not_give_it_again() -> None:
    forgotten = next_epoch(5 << 10, 1_000, node_tag("n_a"))
    assert next_epoch(5 << 10, 1_001, node_tag("n_a")) > forgotten
    assert next_epoch(5 << 10, 1_000, node_tag("n_b")) != forgotten


def test_an_epoch_is_exact_in_javascript_until_2248() -> None:
    clock_ms = int(datetime(2248, 1, 1, tzinfo=UTC).timestamp() * 1000)
    assert next_epoch(0, clock_ms, 1023) < 2**53


@given(two_histories())
def test_two_histories_are_equal_up_to_their_agreement(histories: tuple[History, History]) -> None:
    (ours, our_entries), (theirs, their_entries) = histories
    upto = agreement(ours, len(our_entries), theirs, len(their_entries))
    assert our_entries[:upto] == their_entries[:upto]
    common = 0
    for a, b in zip(our_entries, their_entries, strict=False):
        if a != b:
            break
        common += 1
    assert upto == common


@given(two_histories())
def test_agreement_is_symmetric(histories: tuple[History, History]) -> None:
    (ours, our_entries), (theirs, their_entries) = histories
    there = agreement(ours, len(our_entries), theirs, len(their_entries))
    assert there == agreement(theirs, len(their_entries), ours, len(our_entries))


def test_histories_without_a_common_reign_agree_on_nothing() -> None:
    assert agreement(((1, 0),), 5, ((2, 0),), 5) == 0


@given(two_histories())
def test_the_epoch_at_an_offset_is_the_one_that_wrote_it(histories: tuple[History, History]) -> None:
    (epochs, entries), _ = histories
    assert [epoch_at(epochs, offset) for offset in range(1, len(entries) + 1)] == entries
    assert epoch_at(epochs, 0) == epochs[0][0]


@given(TABLES)
def test_a_table_comes_back_as_it_was_stored(epochs: Epochs) -> None:
    assert unpack_epochs(pack_epochs(epochs)) == epochs


@given(st.integers(0, PARTITIONS - 1), st.binary(min_size=17, max_size=17))
def test_a_stream_names_its_partition(partition: int, secret: bytes) -> None:
    assert partition_of(stream_id(partition, secret)) == partition


@given(st.binary(min_size=17, max_size=17), st.integers(0, 129))
def test_every_one_of_130_bits_counts_in_a_stream_id(secret: bytes, bit: int) -> None:
    other = (int.from_bytes(secret, "big") ^ (1 << bit)).to_bytes(17, "big")
    assert stream_id(0, secret) != stream_id(0, other)


@pytest.mark.parametrize(
    "stream",
    [
        "",
        "r_",
        "r_00",
        "x_00" + "a" * 26,
        "r_40" + "a" * 26,
        "r_zz" + "a" * 26,
        "r_00" + "a" * 25 + "-",
        "r_00" + "ä" * 26,
    ],
)
def test_what_is_no_stream_id_is_refused(stream: str) -> None:
    with pytest.raises(ValueError, match=r"stream id|invalid literal"):
        partition_of(stream)


@given(st.text())
def test_every_request_has_a_partition(name: str) -> None:
    assert 0 <= partition_for(name) < PARTITIONS


def test_nodes_that_see_the_same_set_name_the_same_owner() -> None:
    nodes = [f"n_{i}" for i in range(5)]
    owners = [owner_of(partition, nodes) for partition in range(PARTITIONS)]
    assert owners == [owner_of(partition, reversed(nodes)) for partition in range(PARTITIONS)]
    assert set(owners) == set(nodes)
    assert owner_of(0, []) is None


def test_a_death_moves_only_the_dead_nodes_share() -> None:
    nodes = [f"n_{i}" for i in range(5)]
    for partition in range(PARTITIONS):
        before, after = owner_of(partition, nodes), owner_of(partition, nodes[1:])
        assert before in (after, nodes[0])
