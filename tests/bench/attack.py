"""Clients that mean no good, all kinds of them one after the other, and what the others notice.

    clients   50 connections, a stream each, read throughout       gaps before, and in every phase beside them
    clients   heads, silence, bodies   must be cut within the time that a head or a body may take
              slow readers             must not be cut; what one costs in memory
              a stuck one              must be cut within the write timeout, and can resume
              floods, a burst          what the others notice; all of a burst are welcomed

Time limits are shorter than the defaults, so that it ends within about a minute (`LIMITS`).  The peak of memory is the
server's in that phase; CPU is its whole process's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.clients import Besieged, Clients
from tests.bench.idle import ratios
from tests.bench.process import Process

NAME = "attack"
SLACK_S = 5.0  # of a busy machine; what is complained of is later than that
HELD_BYTES_MAX = 2 * 262_144  # for one slow reader: twice the default of EVERSTREAM_WRITE_HIGH_WATER_BYTES
FAST_STREAMS = 3


@dataclass(frozen=True, slots=True)
class Size:
    sockets: int  # of each kind of attack
    streams: int
    per_s: float  # tokens of a healthy stream
    fast_tokens: int  # of a stream that slow readers read
    floods: int
    gaps_s: float
    slow_s: float
    flood_s: float
    head_s: float
    body_s: float
    write_s: float


FULL = Size(
    sockets=1_000, streams=50, per_s=20.0, fast_tokens=100_000, floods=10, gaps_s=8.0, slow_s=15.0, flood_s=4.0,
    head_s=4.0, body_s=6.0, write_s=5.0,
)  # fmt: skip
QUICK = Size(
    sockets=30, streams=5, per_s=20.0, fast_tokens=100_000, floods=2, gaps_s=0.5, slow_s=1.0, flood_s=0.4,
    head_s=0.4, body_s=0.5, write_s=0.4,
)  # fmt: skip


class Siege:
    """The healthy streams, the attackers, and what is found phase by phase."""

    def __init__(self, process: Process, live: Clients, crowd: Clients) -> None:
        self._process, self._live, self.crowd = process, live, crowd
        self.phases: dict[str, dict[str, Any]] = {}
        self.complaints: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[dict[str, Any]]:
        self._live.ask("gaps")
        self._process.forget_peak()
        before, cpu_ns, start = self._process.resident_bytes(), self._process.cpu_ns(), time.monotonic()
        found: dict[str, Any] = {}
        yield found
        taken_s = time.monotonic() - start
        found |= {
            "gaps": self._live.ask("gaps"),
            "peak_mib": self._process.peak_bytes() / 2**20,
            "grown_bytes": self._process.resident_bytes() - before,
            "cpu_share": (self._process.cpu_ns() - cpu_ns) / 1e9 / taken_s,
            "taken_s": taken_s,
        }
        found["ratios"] = ratios(self.phases["before"]["gaps"], found["gaps"]) if self.phases else {}
        if found["gaps"]["lost"]:
            self.complaints.append(f"{name}: {found['gaps']['lost']} healthy streams were lost")
        self.phases[name] = found

    def expect(self, name: str, so: bool, complaint: str) -> None:
        if not so:
            self.complaints.append(f"{name}: {complaint}")


def measure(size: Size) -> dict[str, Any]:
    """`phases`: name -> what came of it, gaps (µs) and memory; `complaints`.  Raises RuntimeError where it fails."""
    limits = {"HEAD_TIMEOUT_S": size.head_s, "BODY_TIMEOUT_S": size.body_s, "WRITE_TIMEOUT_S": size.write_s}
    settings = {name: str(value) for name, value in limits.items()} | {"PROVIDER_IDLE_TIMEOUT_S": "600"}
    with Besieged(size.sockets + size.streams, **settings) as place, place.clients() as live, place.clients() as crowd:
        siege = Siege(place.server.process, live, crowd)
        live.ask("live", count=size.streams, per_s=size.per_s)
        crowd.ask("fast", count=FAST_STREAMS, tokens=size.fast_tokens)
        with siege.phase("before"):
            time.sleep(size.gaps_s)  # pause: what is measured is this time
        _trickles(siege, size)
        _slow_and_stuck(siege, size)
        _floods(siege, size)
    return {"size": asdict(size), "phases": siege.phases, "complaints": siege.complaints}


def _trickles(siege: Siege, size: Size) -> None:
    count = size.sockets // 3
    for kind, limit_s in (("head", size.head_s), ("silent", size.head_s), ("body", size.body_s)):
        with siege.phase(kind) as found:
            found |= siege.crowd.ask("trickle", kind=kind, count=count, limit_s=limit_s + SLACK_S)
        siege.expect(kind, found["cut"] == count, f"{found['cut']} of {count} sockets were cut off")


def _slow_and_stuck(siege: Siege, size: Size) -> None:
    with siege.phase("slow") as found:
        found |= siege.crowd.ask("slow", count=size.sockets, seconds=size.slow_s)
    found["held_bytes"] = found["grown_bytes"] / size.sockets
    siege.expect("slow", not found["cut"], f"{found['cut']} slow readers were cut off")
    siege.expect("slow", found["held_bytes"] < HELD_BYTES_MAX, f"{found['held_bytes']:.0f} bytes were held for each")
    siege.crowd.ask("release")
    with siege.phase("stuck") as found:
        found |= siege.crowd.ask("stuck", limit_s=3 * size.write_s + SLACK_S)
    siege.expect("stuck", found["cut_s"] is not None, "a client that never reads was not cut off")
    siege.expect("stuck", found["resumed"] > 0, "it could not resume")


def _floods(siege: Siege, size: Size) -> None:
    for kind in ("ping", "empty"):
        with siege.phase(f"{kind}s") as found:
            found |= siege.crowd.ask("flood", kind=kind, count=size.floods, seconds=size.flood_s)
    with siege.phase("burst") as found:
        found |= siege.crowd.ask("burst", count=size.sockets)
    siege.expect("burst", found["welcomed"] == size.sockets, f"{found['welcomed']} of {size.sockets} were welcomed")


def table(found: dict[str, Any]) -> str:
    """A line a phase."""
    size = found["size"]
    lines = [
        f"{NAME}: {size['sockets']:,} sockets of a kind; {size['streams']} healthy streams beside them,"
        f" {size['per_s']:g} tokens/s each",
        f"  limits: head {size['head_s']:g} s, body {size['body_s']:g} s, write {size['write_s']:g} s",
        f"  {'':8}{'gap p50':>9}{'p99':>9}{'max ms':>9}{'p50':>8}{'p99':>8}{'CPU':>7}{'peak MiB':>10}  what came of it",
    ]
    for name, phase in found["phases"].items():
        gaps = "".join(f"{value / 1000:>9.1f}" for value in phase["gaps"]["us"])
        against = "".join(
            f"{phase['ratios'][part]:>7.2f}x" if phase["ratios"] else f"{'':8}" for part in ("p50", "p99")
        )
        says = ", ".join(f"{key} {_said(phase[key])}" for key in OUTCOMES if key in phase)
        lines.append(f"  {name:8}{gaps}{against}{phase['cpu_share']:>7.0%}{phase['peak_mib']:>10.1f}  {says}")
    return "\n".join([*lines, *(f"  ! {complaint}" for complaint in found["complaints"])])


OUTCOMES = ("cut", "cut_s", "bytes", "held_bytes", "resumed", "offered_per_s", "welcomed", "ms")


def _said(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(f"{part:.2f}" for part in value)
    return (
        f"{value:,.2f}" if isinstance(value, float) and value < 100 else f"{value:,.0f}" if value is not None else "-"
    )
