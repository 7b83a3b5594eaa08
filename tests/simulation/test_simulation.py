"""The short form of `python -m tests.simulation`: enough seeds to notice a broken rule, and every mutant."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.__main__ import caught, failures
from tests.simulation.history import History
from tests.simulation.mutants import MUTANTS

SEEDS = 500
CENSUS_SEEDS = 60
RARE = (
    *("failover", "outage", "adoption", "hand-over", "heir", "FENCED", "GAP", "HOLE", "FORKED", "snapshot", "wait"),
    *("fold", "cancel answered", "reveal", "break", "exact", "prefill", "prompted", "restart"),
)


def test_every_rule_holds_under_every_fault_at_once() -> None:
    assert failures(range(SEEDS)) == []


@pytest.mark.parametrize("index", range(len(MUTANTS)), ids=[mutant.what for mutant in MUTANTS])
def test_the_simulator_notices(index: int) -> None:
    assert caught(index) is not None


def test_a_mutant_leaves_the_real_code_as_it_was() -> None:
    for mutant in MUTANTS:
        place = mutant.used_by or mutant.owner
        before = vars(place)[mutant.name]
        with mutant.applied():
            assert vars(place)[mutant.name] is not before
        assert vars(place)[mutant.name] is before


def test_a_seed_is_one_history() -> None:
    assert _census(7) == _census(7)


def test_everything_that_can_go_wrong_does() -> None:
    happened: Counter[str] = Counter()
    quiet = 0
    for seed in range(CENSUS_SEEDS):
        world = History(seed)
        world.run()
        happened += world.happened
        quiet += len(world.scripts) - len(world.witness.excused)
    assert {name: happened[name] for name in RARE if happened[name] < CENSUS_SEEDS // 6} == {}
    assert happened["in vain"]
    assert quiet > CENSUS_SEEDS  # and most streams must hold without the excuse that the store lost something


def _census(seed: int) -> Counter[str]:
    world = History(seed)
    world.run()
    return world.happened
