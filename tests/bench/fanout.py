"""One stream, ten thousand readers, one process: what a delivery costs, what a reader costs, and what a stuck one does.

A *delivery* is one reader given one frame with tokens in it.  Two processes (`hall`) play the turns: one has no
sockets, so that its memory is that of readers alone; the other has 1,000 real ones, without and with one that never
reads (and one more in the process that never takes), there and back again.  Of these turns the quietest of each kind is
told, for whatever else a machine does only adds; what stuck readers change is a ratio within one process.

    alone     one reader in the process: what the stream itself costs
    inside    all readers in the process, as connections without their sockets
    hurried   the same readers, a model that is faster than they can be served: frames grow, nothing else does
    sockets   sockets only
    plain     readers in the process and sockets
    stuck     the same, and the two that are stuck
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.fanout_turn import Told, Turn
from tests.bench.process import Process
from tests.bench.targets import environment

NAME = "fanout"
HURRY = 20  # times as fast
HURRIED_TOKENS = 10  # times as many
PROCESS_LIMIT_S = 240.0
ENCODED_MAX = 1.1  # frames made for a token; readers that fell out of step for a moment may need a few more
ORDER = ("plain", "stuck", "stuck", "plain")
TURNS = ("alone", "inside", "hurried", "sockets", "plain", "stuck")


@dataclass(frozen=True, slots=True)
class Size:
    """How many read, `sockets` of them over sockets; `rounds` of plain and of stuck turns."""

    readers: int
    sockets: int
    tokens: int
    per_s: float
    rounds: int

    def processes(self) -> tuple[list[Turn], list[Turn]]:
        """The turns of each."""
        inside = self.readers - self.sockets
        here = [
            Turn("alone", 1, 0, self.tokens, self.per_s),
            Turn("inside", self.readers, 0, self.tokens, self.per_s),
            Turn("hurried", self.readers, 0, self.tokens * HURRIED_TOKENS, self.per_s * HURRY),
        ]
        order = islice(cycle(ORDER), 2 * self.rounds)
        there = [Turn("sockets", 0, self.sockets, self.tokens, self.per_s)]
        there += [Turn(name, inside, self.sockets, self.tokens // 2, self.per_s, name == "stuck") for name in order]
        return here, there


FULL = Size(readers=10_000, sockets=1_000, tokens=100, per_s=20.0, rounds=3)
QUICK = Size(readers=1_000, sockets=100, tokens=40, per_s=40.0, rounds=1)

# figure -> (what the table calls it, decimals)
ROWS: dict[str, tuple[str, int]] = {
    "readers": ("readers in the process", 0),
    "sockets": ("sockets", 0),
    "deliveries": ("deliveries", 0),
    "encoded_per_token": ("frames encoded for a token", 2),
    "cpu_s": ("server CPU, s", 2),
    "delivery_us": ("server CPU, us a delivery", 2),
    "delivery_kernel_us": ("  of it in the kernel, us", 2),
    "delivery_units": ("  in units of plain interpreter work", 1),
    "reader_token_us": ("server CPU, us a reader and token", 2),
    "inside_p50_us": ("due to taken, in the process, p50 us", 0),
    "inside_p99_us": ("due to taken, in the process, p99 us", 0),
    "spread_p50_us": ("first to last in the process, p50 us", 0),
    "spread_p99_us": ("first to last in the process, p99 us", 0),
    "socket_p50_us": ("due to read, at the sockets, p50 us", 0),
    "socket_p99_us": ("due to read, at the sockets, p99 us", 0),
    "inside_bytes": ("memory of a reader in it, bytes", 0),
    "socket_bytes": ("memory of a socket's reader, bytes", 0),
    "held_bytes": ("held for the stuck socket, bytes", 0),
}
COMPARED = ("delivery_us", "inside_p50_us", "inside_p99_us", "socket_p50_us", "socket_p99_us")
MEMORY_OF = {"inside": "inside_bytes", "sockets": "socket_bytes"}  # elsewhere memory is used that was there before


def measure(size: Size) -> dict[str, Any]:
    """`turns`: name -> figure -> value; `stuck:plain`: the ratios; `samples` and `complaints`.

    Raises RuntimeError when a process fails outright.
    """
    samples: list[tuple[Turn, Told]] = []
    for turns in size.processes():
        samples += zip(turns, _play(turns), strict=True)
    found = {name: _figures(*_quietest([s for s in samples if s[0].name == name])) for name in TURNS}
    stuck, plain = found["stuck"], found["plain"]
    return {
        "size": asdict(size),
        "turns": found,
        "stuck:plain": {name: stuck[name] / plain[name] for name in COMPARED if plain.get(name)},
        "samples": [msgspec.to_builtins(told) for _, told in samples],
        "complaints": list(chain.from_iterable(complaints_of(*sample) for sample in samples)),
    }


def _play(turns: list[Turn]) -> list[Told]:
    with tempfile.TemporaryDirectory(prefix="everstream-bench-") as place:
        words = [sys.executable, "-m", "tests.bench.hall", msgspec.json.encode(turns).decode()]
        process = Process("hall", words, Path(place) / "hall.out", environment())
        try:
            lines = process.wait_end(PROCESS_LIMIT_S).splitlines()
        finally:
            process.stop()
    return [msgspec.json.decode(line, type=Told) for line in lines if line.startswith("{")]


def complaints_of(turn: Turn, told: Told) -> list[str]:
    """What was wrong: a reader that was not given each token once, a frame encoded for each reader, a stuck reader for
    which something was kept."""
    found = [f"{turn.name}: {complaint}" for complaint in told.complaints]
    if told.encoded > turn.tokens * ENCODED_MAX:
        found.append(f"{turn.name}: {told.encoded} frames were encoded for {turn.tokens} tokens")
    return found


def _figures(turn: Turn, told: Told) -> dict[str, float]:
    deliveries = max(1, told.inside_frames + told.socket_frames)
    figures: dict[str, float] = {
        "readers": turn.inside,
        "sockets": turn.sockets,
        "deliveries": deliveries,
        "encoded_per_token": told.encoded / turn.tokens,
        "cpu_s": told.cpu_s,
        "delivery_us": told.cpu_s * 1e6 / deliveries,
        "delivery_kernel_us": told.kernel_s * 1e6 / deliveries,
        "delivery_units": told.cpu_s * 1e9 / deliveries / told.unit_ns,
        "reader_token_us": told.cpu_s * 1e6 / ((turn.inside + turn.sockets) * turn.tokens),
    }
    spread = told.spread_us if turn.inside > 1 else ()
    for name, delays in (("inside", told.inside_delay_us), ("spread", spread), ("socket", told.socket_delay_us)):
        if delays:
            figures |= {f"{name}_p50_us": delays[0], f"{name}_p99_us": delays[1]}
    memory = MEMORY_OF.get(turn.name)
    if memory is not None:
        figures[memory] = getattr(told, memory)
    if told.stuck is not None:
        figures["held_bytes"] = told.stuck.held_after
    return figures


def _quietest(samples: list[tuple[Turn, Told]]) -> tuple[Turn, Told]:
    return min(samples, key=lambda sample: (sample[1].socket_delay_us or sample[1].inside_delay_us)[1:2])


def table(found: dict[str, Any]) -> str:
    """A line a figure, a column a turn, then what stuck readers changed."""
    size, turns, ratios = found["size"], found["turns"], found["stuck:plain"]
    lines = [
        f"{NAME}: {size['readers']:,} readers of one stream in one process, {size['sockets']:,} of them over sockets",
        f"  {size['tokens']} tokens, {size['per_s']:.0f}/s (hurried: {size['per_s'] * HURRY:.0f}/s); plain and stuck:"
        f" {size['tokens'] // 2} tokens, the quietest of {size['rounds']} each",
        f"  {'':40}" + "".join(f"{name:>12}" for name in (*TURNS, "stuck:plain")),
    ]
    for figure, (says, decimals) in ROWS.items():
        cells = [f"{turns[name][figure]:.{decimals}f}" if figure in turns[name] else "-" for name in TURNS]
        cells.append(f"{ratios[figure]:.2f}x" if figure in ratios else "")
        lines.append(f"  {says:40}" + "".join(f"{cell:>12}" for cell in cells))
    lines += [f"  ! {complaint}" for complaint in found["complaints"]]
    return "\n".join(lines)
