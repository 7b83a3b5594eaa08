"""Run a fuzz: `codec` in this process, `frames` and `http` against a server.  Exit code 0: nothing went wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz import codec, frames, requests
from tests.fuzz.siege import besiege

CHUNK = 10_000


def run_codec(count: int, seed: int) -> bool:
    began = time.monotonic()
    shares = [min(CHUNK, count - at) for at in range(0, count, CHUNK)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        said = sum(pool.map(codec.feed, shares, range(seed * 1_000_000, seed * 1_000_000 + len(shares))), Counter())
    print(f"codec: {said.total()} inputs, {dict(said)}, in {time.monotonic() - began:.1f} s", flush=True)
    return said.total() == count


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=("codec", "frames", "http"))
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    if given.what == "codec":
        return 0 if run_codec(given.count, given.seed) else 1
    attack = frames.run if given.what == "frames" else requests.run
    outcome = besiege(attack, given.count, given.seed, given.processes)
    print(outcome.told(given.what), flush=True)
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
