"""What the measured calls amount to, and how that is shown: a table for people, JSON and CSV for programs.

A figure of a model is the spread over its calls: the least, the median and the most.  Calls that failed count as such
and nowhere else; of an answer that was cut short no speed is taken.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from everstream.library_result import Result

ERROR_CHARS = 100  # of a message, in the table's notes


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was measured; `run` counts from 1."""

    model: str
    run: int
    result: Result

    @property
    def failed(self) -> bool:
        return self.result.partial


@dataclass(frozen=True, slots=True)
class Spread:
    """Over several calls.  `stdev` is that of a sample, None of a single one."""

    min: float
    median: float
    max: float
    stdev: float | None
    values: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread | None:
        """None: there is nothing to be spread."""
        if not values:
            return None
        stdev = round(statistics.stdev(values), 3) if len(values) > 1 else None
        return cls(min(values), round(statistics.median(values), 3), max(values), stdev, tuple(values))


@dataclass(frozen=True, slots=True)
class Score:
    """A model's figures.  Times in milliseconds, `cost_usd` of all calls together; None: not known."""

    model: str
    calls: int
    failed: int
    ttft_ms: Spread | None
    tokens_per_s: Spread | None
    total_ms: Spread | None
    gap_p99_ms: Spread | None
    output_tokens: Spread | None
    cost_usd: float | None
    errors: dict[str, int]  # code -> how often
    message: str | None  # of the first error


def score(model: str, calls: Sequence[Call]) -> Score:
    """What a model's calls come to."""
    own = [call for call in calls if call.model == model]
    whole = [call.result for call in own if not call.failed]
    errors = [call.result.error for call in own if call.result.error is not None]
    codes = Counter(
        call.result.error.code if call.result.error else str(call.result.reason) for call in own if call.failed
    )
    costs = [result.cost.total for call in own if (result := call.result).cost is not None and result.cost]
    return Score(
        model=model,
        calls=len(own),
        failed=len(own) - len(whole),
        ttft_ms=Spread.over([r.metrics.ttft_ms for r in whole if r.metrics.ttft_ms is not None]),
        tokens_per_s=Spread.over([r.metrics.tokens_per_s for r in whole if r.metrics.tokens_per_s is not None]),
        total_ms=Spread.over([r.metrics.total_ms for r in whole]),
        gap_p99_ms=Spread.over([r.metrics.gap_p99_ms for r in whole if r.metrics.gap_p99_ms is not None]),
        output_tokens=Spread.over([float(r.usage.output_tokens) for r in whole if r.usage is not None]),
        cost_usd=round(sum(costs), 6) if costs else None,
        errors=dict(codes),
        message=errors[0].message if errors else None,
    )


# --------------------------------------------------------------------------- for programs


def as_json(scores: Sequence[Score], calls: Sequence[Call]) -> str:
    """Every model's figures, and every call."""
    return json.dumps({"models": [asdict(each) for each in scores], "calls": [_row(call) for call in calls]}, indent=2)


def write_csv(calls: Sequence[Call], file: TextIO) -> None:
    """A line a call."""
    rows = [_row(call) for call in calls]
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _row(call: Call) -> dict[str, str | int | float | None]:
    result = call.result
    metrics, usage = result.metrics, result.usage
    return {
        "model": call.model,
        "run": call.run,
        "reason": result.reason,
        "finish_reason": result.finish_reason,
        "error": None if result.error is None else result.error.code,
        "ttft_ms": metrics.ttft_ms,
        "tokens_per_s": metrics.tokens_per_s,
        "total_ms": metrics.total_ms,
        "gap_p50_ms": metrics.gap_p50_ms,
        "gap_p99_ms": metrics.gap_p99_ms,
        "gap_max_ms": metrics.gap_max_ms,
        "chunks": metrics.chunks,
        "input_tokens": None if usage is None else usage.input_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "usage": None if usage is None else usage.source,
        "cost_usd": None if result.cost is None else result.cost.total,
        "answered_by": result.model,
    }


# --------------------------------------------------------------------------- for people

HEADINGS: Final = ("model", "TTFT ms", "tokens/s", "total ms", "gap p99 ms", "tokens", "cost", "failed")
LEGEND: Final = "median (least–most) over {calls} calls of each model"


def show(scores: Sequence[Score], file: TextIO) -> None:
    """A table, drawn where `file` is a terminal and plain where it is not; below it why calls failed."""
    rows = [_cells(each) for each in scores]
    if file.isatty():
        table = Table(*HEADINGS[:1], title=None, header_style="bold")
        for heading in HEADINGS[1:]:
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(*row)
        Console(file=file).print(table)
    else:
        widths = [max(len(row[i]) for row in (HEADINGS, *rows)) for i in range(len(HEADINGS))]
        for row in (HEADINGS, *rows):
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            print("  ".join(cells).rstrip(), file=file)
    print(LEGEND.format(calls=scores[0].calls), file=file)
    for each in scores:
        for code, count in each.errors.items():
            why = f": {each.message[:ERROR_CHARS]}" if each.message else ""
            print(f"{each.model}: {count} of {each.calls} {code}{why}", file=file)


def _cells(each: Score) -> tuple[str, ...]:
    return (
        each.model,
        _spread(each.ttft_ms),
        _spread(each.tokens_per_s),
        _spread(each.total_ms),
        _spread(each.gap_p99_ms),
        "–" if each.output_tokens is None else f"{each.output_tokens.median:g}",
        "–" if each.cost_usd is None else f"${each.cost_usd:.4g}",
        f"{each.failed}/{each.calls}",
    )


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    if spread.min == spread.max:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.min)}–{_number(spread.max)})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


class Step(Protocol):
    """Says which call has just ended."""

    def __call__(self, call: Call) -> None: ...


@contextmanager
def progress(total: int, file: TextIO) -> Iterator[Step]:
    """A bar of so many calls, where `file` is a terminal; nothing where it is not."""
    if not file.isatty():
        yield lambda call: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=file), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda call: bar.update(task, advance=1, description=call.model)
