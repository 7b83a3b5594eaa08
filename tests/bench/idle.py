"""Very many connections that do nothing, and what they cost: memory, CPU, and the streams that others read.

    clients  200 connections, a stream each, read throughout      gaps before ──┬── gaps with the idle ones
    clients  1,000, 5,000, 10,000 that say hello and no more      memory at each step
                                                                  then the streams end: CPU of the idle ones alone

Settings are the defaults: a heartbeat after 15 s of silence, a ping every 20 s, which the clients answer.  Memory is
what the server's resident set grew by, the kernel's part not counted; CPU is the server's, over a whole number of
heartbeats and of pings.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.clients import Besieged
from tests.bench.process import Process

NAME = "idle"
STEPS = (1_000, 5_000)


@dataclass(frozen=True, slots=True)
class Size:
    connections: int
    streams: int
    per_s: float  # tokens of a stream
    gaps_s: float  # in which gaps are measured, before and with
    cpu_s: float  # in which CPU is


FULL = Size(connections=10_000, streams=200, per_s=5.0, gaps_s=15.0, cpu_s=60.0)
QUICK = Size(connections=500, streams=20, per_s=20.0, gaps_s=3.0, cpu_s=3.0)


def measure(size: Size) -> dict[str, Any]:
    """`steps`: what a connection takes at each; `gaps` before and with (µs), `ratios`, `cpu`; `complaints`.

    Raises RuntimeError where it cannot be played.
    """
    complaints: list[str] = []
    with Besieged(size.connections + size.streams) as place, place.clients() as live, place.clients() as crowd:
        process = place.server.process
        crowd.ask("idle", count=min(20, size.connections))  # what the first ones load is nobody's
        live.ask("live", count=size.streams, per_s=size.per_s)
        gaps = {"before": _gaps(live, size)}
        before = process.resident_bytes()
        steps, here, taken_s = [], 0, 0.0
        for wanted in (*(step for step in STEPS if step < size.connections), size.connections):
            made = crowd.ask("idle", count=wanted - here)
            if made["welcomed"] != wanted - here:
                complaints.append(f"{made['welcomed']} of {wanted - here} connections were welcomed")
            here, taken_s = wanted, taken_s + made["taken_s"]
            steps.append({"connections": here, "kib": (process.resident_bytes() - before) / 1024 / here})
        gaps["with"] = _gaps(live, size)
        live.ask("leave")
        cpu, met = _cpu_of_idle(process, crowd, size)
        if met["open"] != here + min(20, size.connections):
            complaints.append(f"{met['open']} idle connections are left of {here}")
    complaints += [f"{told['lost']} live streams were lost" for told in gaps.values() if told["lost"]]
    return {
        "size": asdict(size),
        "steps": steps,
        "connects_per_s": here / taken_s,
        "gaps": gaps,
        "ratios": ratios(gaps["before"], gaps["with"]),
        "cpu": cpu,
        "complaints": complaints,
    }


def _gaps(live: Any, size: Size) -> dict[str, Any]:
    live.ask("gaps")
    time.sleep(size.gaps_s)  # pause: what is measured is this time
    told: dict[str, Any] = live.ask("gaps")
    return told


def _cpu_of_idle(process: Process, crowd: Any, size: Size) -> tuple[dict[str, float], dict[str, Any]]:
    process.wait_quiet()
    met, used_ns = crowd.ask("state"), process.cpu_ns()
    time.sleep(size.cpu_s)  # pause: what is measured is this time
    used_ns = process.cpu_ns() - used_ns
    then = crowd.ask("state")
    return {
        "ms_per_s": used_ns / 1e6 / size.cpu_s,
        "us_per_connection_s": used_ns / 1e3 / size.cpu_s / size.connections,
        "pings": then["pings"] - met["pings"],
        "heartbeats": then["frames"] - met["frames"],
    }, then


def ratios(before: dict[str, Any], now: dict[str, Any]) -> dict[str, float]:
    """Of p50 and p99."""
    pairs = zip(("p50", "p99"), before["us"], now["us"], strict=False)
    return {name: later / earlier for name, earlier, later in pairs}


def table(found: dict[str, Any]) -> str:
    size, cpu, gaps = found["size"], found["cpu"], found["gaps"]
    lines = [
        f"{NAME}: {size['connections']:,} idle connections, {size['streams']} live streams beside them,"
        f" {size['per_s']:g} tokens/s each",
        *(f"  at {step['connections']:>6,}: {step['kib']:.1f} KiB a connection" for step in found["steps"]),
        f"  connected: {found['connects_per_s']:,.0f} a second, live streams running",
        f"  CPU of the idle ones: {cpu['ms_per_s']:.1f} ms a second, {cpu['us_per_connection_s']:.1f} us for each;"
        f" in {size['cpu_s']:g} s {cpu['pings']:,} pings and {cpu['heartbeats']:,} heartbeats",
    ]
    for name, told in gaps.items():
        if told["us"]:
            p50, p99, most = (value / 1000 for value in told["us"])
            lines.append(f"  gaps of the live streams {name:>6}: p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms")
    lines.append("  with to before: " + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in found["ratios"].items()))
    return "\n".join([*lines, *(f"  ! {complaint}" for complaint in found["complaints"])])
