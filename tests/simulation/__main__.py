"""Run the simulator.  Exit code 0: every seed held, and (with `--mutants`) every mutant was caught."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext

from tests.simulation.history import History
from tests.simulation.mutants import MUTANTS

CHUNK_SEEDS = 50
MUTANT_SEEDS_MAX = 20_000
FAILURES_SHOWN_MAX = 20


def failure(seed: int, *, trace: bool = False) -> str | None:
    """What went wrong with this seed, or None.  Whatever the code under test raises counts."""
    try:
        History(seed, trace=trace).run()
    except Exception as error:
        if trace:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def failures(seeds: Sequence[int]) -> list[tuple[int, str]]:
    """Every seed that failed, with what went wrong."""
    return [(seed, what) for seed in seeds if (what := failure(seed)) is not None]


def caught(index: int) -> tuple[int, str] | None:
    """The seed at which mutant `index` is noticed, and how; None if it is not."""
    mutant = MUTANTS[index]
    with mutant.applied():
        for seed in range(mutant.first_seed, mutant.first_seed + MUTANT_SEEDS_MAX):
            what = failure(seed)
            if what is not None:
                return seed, what
    return None


def sweep(executor: ProcessPoolExecutor, first: int, count: int) -> int:
    """Run many seeds; returns how many failed."""
    began = time.monotonic()
    seeds = range(first, first + count)
    chunks = [seeds[i : i + CHUNK_SEEDS] for i in range(0, count, CHUNK_SEEDS)]
    bad = [found for chunk in executor.map(failures, chunks) for found in chunk]
    for seed, what in bad[:FAILURES_SHOWN_MAX]:
        print(f"seed {seed}: {what[:300]}\n    python -m tests.simulation --seed {seed} --trace")
    print(f"{count} seeds from {first}: {len(bad)} failed ({time.monotonic() - began:.0f} s)", flush=True)
    return len(bad)


def hunt(executor: ProcessPoolExecutor) -> int:
    """Every mutant until it is caught; returns how many were not."""
    survivors = 0
    found = executor.map(caught, range(len(MUTANTS)))
    for mutant, catch in zip(MUTANTS, found, strict=True):
        survivors += catch is None
        verdict = f"caught at seed {catch[0]}: {catch[1][:110]}" if catch else f"SURVIVED {MUTANT_SEEDS_MAX} seeds"
        print(f"mutant: {mutant.what:44s} {verdict}", flush=True)
    return survivors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=0, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: tell every step")
    parser.add_argument("--mutants", action="store_true", help="take each rule away in turn")
    parser.add_argument("--mutant", type=int, help="with --seed: run it on this mutant, by its number")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        with nullcontext() if arguments.mutant is None else MUTANTS[arguments.mutant].applied():
            what = failure(arguments.seed, trace=arguments.trace)
        print(f"seed {arguments.seed}: {what or 'held'}")
        return 1 if what else 0
    bad = 0
    with ProcessPoolExecutor(os.cpu_count()) as executor:
        if arguments.seeds:
            bad += sweep(executor, arguments.first, arguments.seeds)
        if arguments.mutants:
            bad += hunt(executor)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
