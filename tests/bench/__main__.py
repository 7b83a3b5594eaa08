"""`python -m tests.bench`: play the scenarios, print the tables, write the JSON.

Exit 1 when the server, or the floor, missed a delta; what the naive relay misses is only told.  Exit 2 without a C
compiler.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench import attack, fanout, idle, micro, reconnect, report
from tests.bench.build import NoCompiler, compiler
from tests.bench.scenarios import QUICK, SCENARIOS, Sample, Scenario, play
from tests.bench.targets import NAMES, Bench

ROUNDS = 3
BESIDES: dict[str, Any] = {scene.NAME: scene for scene in (fanout, reconnect, idle, attack)}  # of the server alone
WARM = Scenario("warm", "the first streams load code and open connections", streams=5, deltas=100, limit_s=30.0)


def turns(scenario: Scenario, names: tuple[str, ...], rounds: int) -> Iterator[str]:
    """Who plays when: there and back again, so that a slow minute of the machine hits all alike."""
    order = [name for name in scenario.targets if name in names]
    for number in range(rounds):
        yield from order if number % 2 == 0 else reversed(order)


def main(words: list[str] | None = None) -> int:
    options = _parser().parse_args(words)
    rows = QUICK if options.quick else SCENARIOS
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    names = tuple(options.target or NAMES)
    try:
        compiler()
    except NoCompiler as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended and files removed
    about = report.machine()
    played: list[tuple[Scenario, list[Sample]]] = []
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load_average'][0]:.1f}\n")
    asked = options.scenario or [*rows, *BESIDES]
    compared = [rows[name] for name in asked if name in rows]
    if compared:
        with Bench(names) as bench:
            for target in bench.targets.values():
                play(bench, WARM, target)
            for scenario in compared:
                samples = [play(bench, scenario, bench.targets[turn]) for turn in turns(scenario, names, rounds)]
                played.append((scenario, samples))
                if samples:
                    print(report.table(scenario, samples) + "\n", flush=True)
    found = report.document(played, about)
    complaints = [c for _, samples in played for s in samples if s.target != "naive" for c in s.complaints]
    for name, scene in BESIDES.items():
        if name in asked and "server" in names:
            size: Any = scene.QUICK if options.quick else scene.FULL
            if scene is idle and options.connections:
                size = replace(size, connections=options.connections)
            found[name] = scene.measure(size)
            complaints += found[name]["complaints"]
            print(scene.table(found[name]) + "\n", flush=True)
    if not options.scenario:
        found["micro"] = micro.measure(quick=options.quick)
        print(micro.table(found["micro"]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if complaints else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="CPU and latency of a token.")
    parser.add_argument(
        "--scenario", action="append", choices=[*SCENARIOS, *BESIDES], help="only this one; may be repeated"
    )
    parser.add_argument("--target", action="append", choices=NAMES, help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, help=f"turns of each target (default {ROUNDS}, quick 1)")
    parser.add_argument("--connections", type=int, help=f"of `idle` (default {idle.FULL.connections:,})")
    parser.add_argument("--quick", action="store_true", help="small loads, half a minute: do the tools work")
    parser.add_argument("--json", type=Path, help="write everything here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
