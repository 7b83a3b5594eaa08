"""A seeded simulator of the whole: the real rules of `core` and the real `Disk`, under every fault at once.

One random generator decides everything, a step counter is the only clock, and there is no event loop: a seed and a
commit reproduce any failure, step by step.

    python -m tests.simulation --seeds 20000            many runs
    python -m tests.simulation --seed 4711 --trace      one run, told step by step
    python -m tests.simulation --mutants                each rule taken away in turn: each must be missed

`world` holds the store and the network, `succession` how streams change their leaders, `history` the faults and the
course of a run, `weather` how often what happens; `node` does what a server process does between two awaits, and
`generation` what its provider says; `reader` is a client as the protocol describes one; `truth` watches all of them and
knows what may not happen; `mutants` breaks the real code in one place at a time.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("everstream") is None:  # run from a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).parents[2] / "backend"))
