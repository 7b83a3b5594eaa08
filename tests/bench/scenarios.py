"""What is done to the three, and what is read off.

A scenario is a row of the table `SCENARIOS`; `play` runs it once against one target and returns a `Sample`: figures by
name, and whether every delta was counted.  CPU figures are microseconds a delta, which is the same number as seconds a
million.  The CPU of a store's last fsync or a server's last clean-up belongs to the deltas that caused it, so a sample
ends when both are quiet.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from dataclasses import dataclass, replace
from typing import Any

from tests.bench.build import program
from tests.bench.targets import Bench, Target

ENDLESS_DELTAS = 1_000_000
GRACE_S = 10.0  # the load client ends by itself after its limit; this much later it is killed


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row.  `per_s` 0 is a flood.  `naive_deltas`: what the naive relay gets instead, so that it ends in time."""

    name: str
    says: str
    mode: str = "run"
    targets: tuple[str, ...] = ("naive", "server", "floor")
    streams: int = 1
    deltas: int = 1
    per_s: int = 0
    per_write: int = 1
    repeats: int = 0
    warm_ms: int = 0
    limit_s: float = 60.0
    naive_deltas: int | None = None

    def deltas_for(self, target: str) -> int:
        return self.naive_deltas if target == "naive" and self.naive_deltas else self.deltas

    def spec(self, target: str) -> str:
        """The model's name that makes the provider do this."""
        return f"openai/sim-n{self.deltas_for(target)}-r{self.per_s}-b{self.per_write}-t1"


SCENARIOS: dict[str, Scenario] = {
    row.name: row
    for row in (
        Scenario("steady", "paced streams, one delta a write", streams=100, deltas=500, per_s=50, warm_ms=2000),
        Scenario("light", "few paced streams: every delta pays its own wake-up", streams=10, deltas=500, per_s=50,
                 warm_ms=1000),
        Scenario("burst", "a provider faster than anybody", streams=20, deltas=20_000, naive_deltas=1000),
        Scenario("ttft", "one-token answers in sequence, new stream each", mode="ttft", repeats=200),
        Scenario("resume", "an ended stream, resumed from 0 by a new connection", mode="resume",
                 targets=("naive", "server"), deltas=10_000, repeats=20),
        Scenario("cancel", "running streams cancelled one after the other", mode="cancel", targets=("naive", "server"),
                 streams=100, deltas=ENDLESS_DELTAS, per_s=20),
    )
}  # fmt: skip

QUICK: dict[str, Scenario] = {
    "steady": replace(SCENARIOS["steady"], streams=40, deltas=100, warm_ms=500, limit_s=20.0),
    "light": replace(SCENARIOS["light"], deltas=75, warm_ms=300, limit_s=20.0),
    "burst": replace(SCENARIOS["burst"], streams=5, deltas=4000, naive_deltas=200, limit_s=20.0),
    "ttft": replace(SCENARIOS["ttft"], repeats=30, limit_s=20.0),
    "resume": replace(SCENARIOS["resume"], deltas=2000, repeats=5, limit_s=20.0),
    "cancel": replace(SCENARIOS["cancel"], streams=20, limit_s=20.0),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One scenario against one target, once."""

    scenario: str
    target: str
    figures: dict[str, float]
    complaints: tuple[str, ...]  # empty when every stream ended and every delta was counted, once and in order
    machine_load: float  # the machine's load average (1 min) at the start


def play(bench: Bench, scenario: Scenario, target: Target) -> Sample:
    """Run it once.  Raises RuntimeError when the load client fails outright or a process has died."""
    load_before = os.getloadavg()[0]
    stats_before = bench.provider_stats()
    server_before, store_before = target.process.cpu_ns(), _store_ns(target)
    told = _load(scenario, target)
    target.process.wait_quiet()
    if target.store:
        target.store.wait_quiet()
    server_us = (target.process.cpu_ns() - server_before) / 1000
    store_us = (_store_ns(target) - store_before) / 1000
    stats = bench.provider_stats()
    if scenario.mode == "ttft":
        own_us = (stats["answer_ns"] - stats_before["answer_ns"]) / 1000 / max(1, told["started"])
        figures = _spread("ttft", [taken - own_us for taken in told["ttft_us"]])
        figures["server_us_per_stream"] = server_us / max(1, told["ended"])
    elif scenario.mode == "resume":
        figures = _spread("resume", told["resume_us"])
        figures["resume_bytes"] = told["bytes"] / (len(told["resume_us"]) + 1)
    elif scenario.mode == "cancel":
        figures = _cancel_figures(told, stats["closes"][len(stats_before["closes"]) :])
    else:
        figures = _run_figures(told, server_us, store_us)
    return Sample(scenario.name, target.name, figures, _complaints(scenario, target, told), load_before)


def _load(scenario: Scenario, target: Target) -> dict[str, Any]:
    words: list[Any] = [program("load"), scenario.mode, target.port, scenario.spec(target.name), scenario.streams, 1]
    words += [scenario.limit_s, scenario.warm_ms, scenario.repeats, f"bench-{secrets.token_hex(6)}"]
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=scenario.limit_s + GRACE_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{scenario.name} against {target.name}: {done.stderr.strip()}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _store_ns(target: Target) -> int:
    return target.store.cpu_ns() if target.store else 0


def _run_figures(told: dict[str, Any], server_us: float, store_us: float) -> dict[str, float]:
    deltas = max(1, told["deltas"])
    return {
        "server_cpu_us": server_us / deltas,
        "store_cpu_us": store_us / deltas,
        "p50_us": told["p50_us"],
        "p90_us": told["p90_us"],
        "p99_us": told["p99_us"],
        "max_us": told["max_us"],
        "deltas_per_s": deltas / told["elapsed_s"] if told["elapsed_s"] else 0.0,
        "deltas_per_frame": deltas / max(1, told["delta_frames"]),
        "deltas_per_read": deltas / max(1, told["reads"]),
        "bytes_per_delta": told["bytes"] / deltas,
        "client_cpu_us": told["client_cpu_s"] * 1e6 / deltas,
    }


def _cancel_figures(told: dict[str, Any], closes: list[list[int]]) -> dict[str, float]:
    """`closes` are the provider's [number, clock ns]; a cancel's number is the one its stream was asked for with."""
    closed_ns: dict[int, int] = {}
    for number, at_ns in closes:
        closed_ns.setdefault(number, at_ns)
    figures = _spread("fence", [taken_us for _, _, taken_us in told["cancels"]])
    seen = [(closed_ns[number] - sent_ns) / 1000 for number, sent_ns, _ in told["cancels"] if number in closed_ns]
    figures |= _spread("provider_closed", seen)
    figures["provider_unclosed"] = len(told["cancels"]) - len(seen)
    figures["deltas_after_end"] = told["late"]
    return figures


def _spread(name: str, values_us: list[float]) -> dict[str, float]:
    if not values_us:
        return {}
    ordered = sorted(values_us)
    return {
        f"{name}_p50_us": ordered[len(ordered) // 2],
        f"{name}_p99_us": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
    }


def _complaints(scenario: Scenario, target: Target, told: dict[str, Any]) -> tuple[str, ...]:
    found = []
    deltas = scenario.deltas_for(target.name)
    wanted = {
        "run": scenario.streams * deltas,
        "ttft": scenario.repeats,
        "resume": (scenario.repeats + 1) * deltas,
    }.get(scenario.mode)
    ended = {"run": scenario.streams, "cancel": scenario.streams}.get(scenario.mode, scenario.repeats)
    if told["ended"] != ended:
        found.append(f"{told['ended']} of {ended} ended as they should")
    if wanted is not None and told["deltas"] != wanted:
        found.append(f"{told['deltas']} of {wanted} deltas arrived")
    if told["disordered"] and scenario.mode == "run":
        found.append(f"{told['disordered']} deltas out of order")
    if told.get("late"):
        found.append(f"{told['late']} deltas after an end")
    if told["errors"]:
        found.append(f"{told['errors']} errors, the first: {told['first_error']}")
    return tuple(found)
